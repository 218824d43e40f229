// SPDX-License-Identifier: MIT OR GPL-2.0
//! What the kernel programs and the collector say to each other: the tables opens are counted in, and the record of an
//! event.

use sidecar_common::{event::EventHeader, owner::Owner};

sidecar_common::fields! {
    /// Members of requests of `io_uring`, of the registers of a system call, and of what a directory's path is made of.
    pub struct Fields {
        optional request_result: "io_kiocb.cqe.res" | "io_kiocb.result",
        optional request_open: "io_kiocb.open" | "io_kiocb.cmd",
        optional uring_filename: "io_open.filename",
        optional uring_dfd: "io_open.dfd",
        optional uring_how: "io_open.how",
        optional filename: "filename.name",
        number: "pt_regs.orig_ax" | "pt_regs.syscallno",
        // x86: TS_COMPAT; aarch64: TIF_32BIT.
        mode: "task_struct.thread_info.status" | "task_struct.thread_info.flags",
        first: "pt_regs.di" | "pt_regs.orig_x0",
        second: "pt_regs.si" | "pt_regs.regs",
        third: "pt_regs.dx" | "pt_regs.regs",
        fourth: "pt_regs.r10" | "pt_regs.regs",
        optional compat_first: "pt_regs.bx",
        optional compat_second: "pt_regs.cx",
        fs: "task_struct.fs",
        pwd: "fs_struct.pwd",
        root: "fs_struct.root",
        files: "task_struct.files",
        table: "files_struct.fdt",
        table_size: "fdtable.max_fds",
        table_files: "fdtable.fd",
        file_path: "file.f_path",
        path_mount: "path.mnt",
        path_entry: "path.dentry",
        name: "dentry.d_name.name",
        name_length: "dentry.d_name.len",
        parent: "dentry.d_parent",
        mount_root: "vfsmount.mnt_root",
        mount: "mount.mnt",
        mount_parent: "mount.mnt_parent",
        mount_point: "mount.mnt_mountpoint",
    }
}

/// `Constants::labels`: counters tell names apart.
pub const WITH_COMM: u32 = 1;
/// `Constants::labels`: counters tell process ids apart.
pub const WITH_PID: u32 = 2;
/// `Constants::labels`: counters tell cgroups apart.
pub const WITH_CGROUP: u32 = 4;

/// What the agent tells the programs when it loads them.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Constants {
    /// `WITH_…`.
    pub labels: u32,
    /// Not 0 if opens are timed.
    pub latency: u32,
    /// Used entries of `PREFIXES`.
    pub prefixes: u32,
    /// Not 0 where a request of `io_uring` holds its result only if it is completed later (before 5.19).
    pub result_if_deferred: u32,
    /// Numbers of open, creat, openat and openat2; `u32::MAX` for those there are not.
    pub calls: [u32; 4],
    /// The same of the 32-bit calls.
    pub compat_calls: [u32; 4],
}

/// Most prefixes of paths.
pub const MAX_PREFIXES: usize = 8;
/// Longest prefix in words of eight bytes.
pub const PREFIX_WORDS: usize = 8;

/// The beginning of wanted paths.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Its bytes.
    pub words: [u64; PREFIX_WORDS],
    /// Bits that count.
    pub masks: [u64; PREFIX_WORDS],
}

impl Prefix {
    /// What the object holds until the agent has written them.
    pub const NONE: Self = Self { words: [0; PREFIX_WORDS], masks: [0; PREFIX_WORDS] };
}

/// Upper bounds of durations, inclusive, nanoseconds.
pub const BOUNDS_NANOS: [u64; BUCKETS - 1] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
];
/// Buckets: one more than bounds.
pub const BUCKETS: usize = 16;

/// The bucket of a duration, found in four comparisons.
#[inline(always)]
pub const fn bucket(nanos: u64) -> usize {
    const B: [u64; BUCKETS - 1] = BOUNDS_NANOS;
    // Written out, because the bounds are constants of the instructions then.
    if nanos <= B[7] {
        if nanos <= B[3] {
            if nanos <= B[1] {
                if nanos <= B[0] { 0 } else { 1 }
            } else if nanos <= B[2] {
                2
            } else {
                3
            }
        } else if nanos <= B[5] {
            if nanos <= B[4] { 4 } else { 5 }
        } else if nanos <= B[6] {
            6
        } else {
            7
        }
    } else if nanos <= B[11] {
        if nanos <= B[9] {
            if nanos <= B[8] { 8 } else { 9 }
        } else if nanos <= B[10] {
            10
        } else {
            11
        }
    } else if nanos <= B[13] {
        if nanos <= B[12] { 12 } else { 13 }
    } else if nanos <= B[14] {
        14
    } else {
        15
    }
}

/// Who opened and how it went, as the running task says it: what is not a label is 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The process's name with whatever follows its terminating zero.
    pub comm: [u64; 2],
    /// Errno in the low half, process id in the high one.
    pub who: u64,
    /// The cgroup's id.
    pub cgroup: u64,
}

/// The errno of opens whose result the kernel does not tell.
pub const UNKNOWN_ERRNO: u32 = 0xffff;
/// First of the results with which the kernel asks to be called again (`ERESTARTSYS`); programs never see them.
pub const RESTART: u32 = 512;

/// Counts one key on one CPU. Its key may change; what it had counted then moves to the `COUNTS` map. The first word changes
/// after the others and the last one before: a copy made meanwhile, from the first to the last, shows it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// How often the key has changed.
    pub changes: u64,
    /// The key.
    pub key: Key,
    /// Opens.
    pub count: u64,
    /// How often the key has begun to change.
    pub changes_begun: u64,
}

/// Cells of a table; a power of two.
pub const CELLS: usize = 64;

/// What is counted on one CPU by one of the programs that may interrupt each other.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Chooses the next cell to give up.
    pub turn: u64,
    /// Nanoseconds of all timed opens.
    pub nanos: u64,
    /// Timed opens by duration: [`BOUNDS_NANOS`] and beyond.
    pub buckets: [u64; BUCKETS],
    /// The counters.
    pub cells: [Cell; CELLS],
}

/// The cell of a key; the one beside it (`^ 1`) will do as well.
#[inline(always)]
pub const fn place(comm: [u64; 2], who: u64, cgroup: u64) -> usize {
    let mixed = comm[0] ^ comm[1].rotate_left(29) ^ who ^ cgroup;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % CELLS
}

/// Entry of `TABLES`: opens of system calls.
pub const CALLS: u32 = 0;
/// Entry of `TABLES`: opens of `io_uring`.
pub const URING: u32 = 1;

/// An open under way.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// The task (`task_struct.pid`); 0 when it is in no open.
    pub task: u64,
    /// Monotonic nanoseconds.
    pub at: u64,
    /// What the function was called with, for programs that are not told when it returns.
    pub arguments: [u64; 3],
}

/// Places for opens under way, by the task's id.
pub const BEGUN_PLACES: usize = 1024;
/// Entries of the map of those whose place another task has.
pub const ASIDE_ENTRIES: u32 = 1024;

/// Number of the event type.
pub const OPEN_EVENT: u32 = 0;

/// Longest base of a relative path that is found out; a power of two.
pub const BASE_BYTES: usize = 1024;
/// Room for a path as it was given, with its terminating zero.
pub const NAME_BYTES: usize = 512;
/// Most directories and mounts on the way to the root.
pub const MAX_DEPTH: usize = 40;

/// `Opened::path_flags`: its beginning or its end is missing.
pub const CUT: u32 = 1;
/// `Opened::path_flags`: it is relative to a directory that is not known.
pub const RELATIVE: u32 = 2;

/// An open. Records are as long as their path.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Opened {
    /// `extra`: bytes of `path`, without a terminating zero; 0 if it is not known.
    pub header: EventHeader,
    /// The process.
    pub owner: Owner,
    /// Flags as in `open_how`.
    pub flags: u64,
    /// Nanoseconds it took; 0 if not timed.
    pub nanos: u64,
    /// Mode as in `open_how`.
    pub mode: u32,
    /// The directory's descriptor.
    pub dfd: i32,
    /// Its parent's process id.
    pub parent: u32,
    /// Its user's id.
    pub uid: u32,
    /// A descriptor, or a negative errno.
    pub result: i32,
    /// `CUT`, `RELATIVE`.
    pub path_flags: u32,
    /// The path.
    pub path: [u8; BASE_BYTES + NAME_BYTES],
}

/// Bytes of an `Opened` before its path.
pub const OPENED_HEAD: usize = 88;
