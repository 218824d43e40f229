//! Running something once in every network namespace of the machine.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::PathBuf,
};

/// One descriptor for each distinct namespace that a process lives in or that has a name under `/run/netns`. Processes
/// that end meanwhile or that we may not look at are left out.
fn namespaces() -> HashMap<u64, File> {
    let of_processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some(entry.path().join("ns/net"))
    });
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = HashMap::new();
    for path in std::iter::once(PathBuf::from("/proc/self/ns/net")).chain(of_processes).chain(named) {
        if let Ok(inode) = fs::metadata(&path).map(|meta| meta.ino())
            && let std::collections::hash_map::Entry::Vacant(slot) = found.entry(inode)
            && let Ok(file) = File::open(&path)
        {
            slot.insert(file);
        }
    }
    found
}

/// Runs `visit` in a thread that enters one namespace after the other. Returns how many could not be entered.
pub(super) fn in_each(mut visit: impl FnMut() -> io::Result<()> + Send) -> io::Result<usize> {
    let namespaces = namespaces();
    std::thread::scope(|scope| {
        let run = move || {
            let own = fs::metadata("/proc/thread-self/ns/net").map(|meta| meta.ino()).unwrap_or_default();
            let mut closed = 0;
            for (inode, file) in namespaces {
                // SAFETY: a valid descriptor; only this thread, which ends with the visit, changes namespace.
                let entered =
                    inode == own || unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } == 0;
                if entered {
                    visit()?;
                } else {
                    closed += 1;
                }
            }
            Ok(closed)
        };
        scope.spawn(run).join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}
