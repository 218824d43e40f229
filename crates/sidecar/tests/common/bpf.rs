//! What is loaded in the kernel, asked of the kernel and not of the agent.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

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

/// A `bpf(2)` command whose attributes are these words, the last of them zeros.
pub(crate) fn command(number: i32, words: &mut [u64]) -> io::Result<i64> {
    // SAFETY: a valid, writable buffer of the length given; what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, number, words.as_mut_ptr(), size_of_val(words)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A line of what `/proc` tells of a descriptor of ours.
fn told(fd: &OwnedFd, key: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// The id of a program.
pub(crate) fn program_id(program: &OwnedFd) -> u32 {
    told(program, "prog_id:").unwrap()
}

/// The program a link attaches, if it is still attached to an interface.
pub(crate) fn xdp_of(link: &OwnedFd) -> Option<u32> {
    told(link, "ifindex:").filter(|index| *index != 0)?;
    told(link, "prog_id:")
}

/// The first of these programs whose name begins like this.
pub(crate) fn named(programs: &BTreeSet<u32>, name: &str) -> Option<OwnedFd> {
    programs.iter().find_map(|id| {
        let fd = command(13, &mut [u64::from(*id), 0]).ok()? as i32;
        // SAFETY: the kernel has just given us this descriptor.
        let program = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut info = [0u64; 10];
        let to = std::ptr::from_mut(&mut info) as u64;
        command(15, &mut [program.as_raw_fd() as u64 | (size_of_val(&info) as u64) << 32, to]).ok()?;
        let own: Vec<u8> = info[8..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        own.starts_with(name.as_bytes()).then_some(program)
    })
}

/// Runs a program once with these bytes as its packet; what it returned.
pub(crate) fn test_run(program: &OwnedFd, packet: &[u8]) -> io::Result<u32> {
    // `prog_fd, retval, data_size_in, data_size_out, data_in, data_out, repeat, duration`
    let mut attr =
        [program.as_raw_fd() as u64, packet.len() as u64, packet.as_ptr() as u64, 0, 1, 0, 0, 0, 0];
    command(10, &mut attr)?;
    Ok((attr[0] >> 32) as u32)
}
