//! Who did something: the process, as the kernel names it.

/// Bytes of a task name, with its terminating zero (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// A process: its id in the initial pid namespace, the name of its main thread and its cgroup.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owner {
    /// cgroup v2 id: the inode number of the cgroup's directory; 0 where the kernel did not tell.
    pub cgroup: u64,
    /// Name of the thread group leader, so that thread names do not multiply label values.
    pub comm: [u8; COMM_LEN],
    /// Thread group id in the initial pid namespace; 0 means unknown.
    pub pid: u32,
    /// Keeps the layout free of padding, which the verifier and hashing would both trip over.
    pub reserved: u32,
}

impl Owner {
    /// Nobody known.
    pub const UNKNOWN: Self = Self { cgroup: 0, comm: [0; COMM_LEN], pid: 0, reserved: 0 };
}
