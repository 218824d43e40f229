//! What is loaded in the kernel, asked of the kernel and not of the agent.

use std::{collections::BTreeSet, fs};

/// `BPF_PROG_GET_NEXT_ID`
const PROGRAM: i32 = 11;
/// `BPF_MAP_GET_NEXT_ID`
const MAP: i32 = 12;
/// `BPF_LINK_GET_NEXT_ID`
const LINK: i32 = 31;

fn ids(command: i32) -> BTreeSet<u32> {
    // `struct { __u32 start_id; __u32 next_id; __u32 open_flags; }`
    let mut attr = [0u32; 4];
    let mut ids = BTreeSet::new();
    // SAFETY: a valid buffer of the length given.
    while unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(&attr)) } == 0 {
        ids.insert(attr[1]);
        attr[0] = attr[1];
    }
    ids
}

/// Ids of the programs in the kernel.
pub(crate) fn programs() -> BTreeSet<u32> {
    ids(PROGRAM)
}

/// Ids of the maps in the kernel.
pub(crate) fn maps() -> BTreeSet<u32> {
    ids(MAP)
}

/// Ids of the links in the kernel.
pub(crate) fn links() -> BTreeSet<u32> {
    ids(LINK)
}

/// Ids of the programs and links a process holds, from its descriptors.
pub(crate) fn held_by(pid: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut programs, mut links) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let number =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u32>().ok());
        // The description of a link names its program as well.
        match (number("link_id:"), number("prog_id:")) {
            (Some(link), _) => drop(links.insert(link)),
            (None, Some(program)) => drop(programs.insert(program)),
            _ => {}
        }
    }
    (programs, links)
}
