//! What the user asked to see. One struct in the `SCOPE` array map of every object: kernel programs look at it before
//! any other work, the agent may change it at any time without reloading anything.

use crate::owner::COMM_LEN;

/// Most cgroups a scope can name.
pub const MAX_CGROUPS: usize = 8;
/// Most command names a scope can name.
pub const MAX_COMMS: usize = 8;
/// Most ports and, separately, most processes a scope can name (size of the `SCOPE_PORTS` and `SCOPE_PIDS` maps).
pub const MAX_LISTED: u32 = 1024;
/// Ancestors looked at for `--children`.
pub const MAX_ANCESTORS: u32 = 32;

/// Nanoseconds in a clock tick of `/proc/PID/stat` (`USER_HZ` is 100 on every architecture we run on).
pub const TICK_NANOS: u64 = 10_000_000;

/// `Scope::flags`: only the processes in `SCOPE_PIDS`.
pub const BY_PID: u32 = 1;
/// `Scope::flags`: and their descendants.
pub const BY_CHILDREN: u32 = 2;
/// `Scope::flags`: only the ports in `SCOPE_PORTS`.
pub const BY_PORT: u32 = 4;
/// `Scope::flags`: only the cgroups in `Scope::cgroups` and those below them.
pub const BY_CGROUP: u32 = 8;
/// `Scope::flags`: only the command names in `Scope::comms`.
pub const BY_COMM: u32 = 16;

/// A cgroup v2 directory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScopeCgroup {
    /// Inode number of the directory.
    pub id: u64,
    /// Distance from the root of the hierarchy (`struct cgroup.level`).
    pub level: u32,
    /// Keeps the layout free of padding.
    pub reserved: u32,
}

/// A zero-padded command name as two machine words, so that the kernel side compares it in two steps.
pub type CommWords = [u64; 2];

/// The words of a zero-padded name.
#[inline(always)]
pub fn comm_words(comm: &[u8; COMM_LEN]) -> CommWords {
    let half = |from: usize| {
        let mut word = [0; 8];
        let mut at = 0;
        while at < 8 {
            word[at] = comm[from + at];
            at += 1;
        }
        u64::from_ne_bytes(word)
    };
    [half(0), half(8)]
}

/// The filter. Kinds are joined by AND, entries of one kind by OR; a kind without its flag passes everything.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Which kinds are set (`BY_…`). 0: everything passes.
    pub flags: u32,
    /// Used entries of `cgroups`.
    pub cgroup_count: u32,
    /// Used entries of `comms`.
    pub comm_count: u32,
    /// Grows with every change, so that user space can tell which version the kernel sees.
    pub version: u32,
    /// The cgroups.
    pub cgroups: [ScopeCgroup; MAX_CGROUPS],
    /// The command names, zero-padded.
    pub comms: [CommWords; MAX_COMMS],
}

impl Scope {
    /// Everything passes.
    pub const ALL: Self = Self {
        flags: 0,
        cgroup_count: 0,
        comm_count: 0,
        version: 0,
        cgroups: [ScopeCgroup { id: 0, level: 0, reserved: 0 }; MAX_CGROUPS],
        comms: [[0; 2]; MAX_COMMS],
    };
}
