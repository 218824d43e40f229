//! Where the machine is looked at. Tests point it at a directory of their own, so that machines nobody has at hand can
//! be examined too.

use std::{ffi::CStr, fs, io, path::PathBuf};

use caps::{CapSet, CapsHashSet};

use crate::config::target;

/// The machine, or a directory that stands for one.
pub(super) struct Host {
    /// Where `proc` and `sys` are.
    pub(super) root: PathBuf,
    /// The kernel's release, as `uname -r` says it.
    pub(super) release: String,
    /// The machine's architecture, as `uname -m` says it.
    pub(super) machine: String,
    /// Capabilities in effect; asked of the kernel itself, because `/proc` may be missing.
    pub(super) capabilities: CapsHashSet,
    /// Bytes this process may raise its limit of locked memory to; none if there is no limit.
    pub(super) locked_memory: Option<u64>,
    /// Inode number of the root of the cgroup v2 hierarchy.
    pub(super) cgroup_root: u64,
}

impl Host {
    /// The machine this runs on.
    pub(super) fn this() -> Self {
        let (release, machine) = names();
        Self {
            root: PathBuf::from("/"),
            release,
            machine,
            capabilities: caps::read(None, CapSet::Effective).unwrap_or_default(),
            locked_memory: locked_memory(),
            cgroup_root: target::Host::default().cgroup_root,
        }
    }

    /// The path of a file named from the root without its slash.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// A small file's text without the white space around it.
    pub(super) fn read(&self, file: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.path(file))?.trim().to_owned())
    }

    /// A setting below `/proc/sys`; none if it is not there, may not be read or is no number.
    pub(super) fn setting(&self, name: &str) -> Option<i64> {
        self.read(&format!("proc/sys/{}", name.replace('.', "/"))).ok()?.parse().ok()
    }

    /// Major and minor number of the kernel's release, such as `6.1.0-30-amd64`.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// The cgroups' part of the configuration's view of the machine.
    pub(super) fn target(&self) -> target::Host {
        target::Host { proc: self.path("proc"), cgroup_root: self.cgroup_root }
    }
}

/// The hard limit; the soft one can be raised to it.
fn locked_memory() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid, writable struct; left as it is should the call fail.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (limit.rlim_max != libc::RLIM_INFINITY).then_some(limit.rlim_max)
}

/// Release and architecture.
fn names() -> (String, String) {
    // SAFETY: a struct of byte arrays, for which all zeroes are a valid value.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: a valid, writable struct.
    unsafe { libc::uname(&raw mut names) };
    // SAFETY: the kernel ends each array with a zero; had it failed, they would be empty.
    let text =
        |field: &[libc::c_char]| unsafe { CStr::from_ptr(field.as_ptr()) }.to_string_lossy().into_owned();
    (text(&names.release), text(&names.machine))
}
