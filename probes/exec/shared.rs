// SPDX-License-Identifier: MIT OR GPL-2.0
//! What the kernel programs and the collector say to each other: keys of the counters, and the records of events.

use sidecar_common::{event::EventHeader, owner::Owner};

sidecar_common::fields! {
    /// Members of processes and of what they are about to execute.
    pub struct Fields {
        filename: "linux_binprm.filename",
        mm: "task_struct.mm",
        arg_start: "mm_struct.arg_start",
        arg_end: "mm_struct.arg_end",
        task_flags: "task_struct.flags",
        group_leader: "task_struct.group_leader",
        exit_code: "task_struct.exit_code",
        start_time: "task_struct.start_time",
        signal: "task_struct.signal",
        signal_flags: "signal_struct.flags",
        group_exit_code: "signal_struct.group_exit_code",
        live: "signal_struct.live.counter",
        nr_threads: "signal_struct.nr_threads",
        maxrss: "signal_struct.maxrss",
        stack: "task_struct.stack",
        optional syscall: "pt_regs.orig_ax" | "pt_regs.syscallno",
        optional first: "pt_regs.di" | "pt_regs.regs",
        optional second: "pt_regs.si",
        optional third: "pt_regs.dx",
    }
}

/// `PF_KTHREAD`: a thread of the kernel, which is no process of anybody's.
pub const KERNEL_THREAD: u32 = 0x0020_0000;
/// `SIGNAL_GROUP_EXIT`: the process ends as a whole, with `group_exit_code`.
pub const GROUP_EXIT: u32 = 4;
/// First of the results with which the kernel asks to be called again (`ERESTARTSYS`); programs never see them.
pub const RESTART: i32 = 512;

/// What a counter counts, in the upper half of `Owner::reserved` of its key; the lower half says how it went.
pub const EXEC: u32 = 0;
/// A failed exec; the lower half is its errno.
pub const FAILED: u32 = 1;
/// The end of a process; the lower half is a signal, `EXIT_SUCCESS` or `EXIT_FAILURE`.
pub const EXIT: u32 = 2;
/// It ended with code 0.
pub const EXIT_SUCCESS: u32 = 0;
/// It ended with another code. Above every signal.
pub const EXIT_FAILURE: u32 = 0x80;

/// How a key says what it counts.
#[inline(always)]
pub const fn what(kind: u32, how: u32) -> u32 {
    kind << 16 | how & 0xffff
}

/// How a process ended, from the status its parent gets to see.
#[inline(always)]
pub const fn ending(status: u32) -> u32 {
    match (status & 0x7f, status >> 8 & 0xff) {
        (0, 0) => EXIT_SUCCESS,
        (0, _) => EXIT_FAILURE,
        (signal, _) => signal,
    }
}

/// Entries of the `FAILED_COUNTS` map.
pub const FAILED_ENTRIES: u32 = 256;
/// Entries of the `ENDED` map.
pub const ENDED_ENTRIES: u32 = 1024;

/// `Constants::labels`: counters tell names apart.
pub const BY_COMM: u32 = 1;
/// `Constants::labels`: counters tell process ids apart.
pub const BY_PID: u32 = 2;
/// `Constants::labels`: counters tell cgroups apart.
pub const BY_CGROUP: u32 = 4;

/// What the loader fills in.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Constants {
    /// `BY_…`.
    pub labels: u32,
    /// Not 0 where `sched_process_exit` says whether the thread is the last of its process.
    pub tells_last: u32,
    /// Where in a kernel stack the user's registers are saved; 0 where `bpf_task_pt_regs` tells.
    pub registers: u32,
    /// Number of the system call execve.
    pub execve: u32,
    /// Number of the system call execveat.
    pub execveat: u32,
}

/// Upper bounds of the lifetime's buckets, nanoseconds, inclusive.
pub const LIFETIMES: [u64; 14] = [
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    300_000_000_000,
    1_800_000_000_000,
    3_600_000_000_000,
];

/// The bucket of a lifetime.
#[inline(always)]
pub fn bucket(nanos: u64) -> u32 {
    let mut at = 0;
    // Counted rather than searched for: no branch depends on the value.
    for bound in LIFETIMES {
        at += u32::from(nanos > bound);
    }
    at
}

/// Slot of `SLOTS`: nanoseconds of all lifetimes; the buckets are in the slots before it.
pub const LIFETIME_SUM: u32 = LIFETIMES.len() as u32 + 1;
/// Slot of `SLOTS`: what the counters had no room for, one slot for each of `EXEC`, `FAILED` and `EXIT`.
pub const OVERFLOW: u32 = LIFETIME_SUM + 1;
/// Slots of `SLOTS`.
pub const SLOTS: u32 = OVERFLOW + 3;

/// Number of the event type for execs.
pub const EXEC_EVENT: u32 = 0;
/// Number of the event type for exits.
pub const EXIT_EVENT: u32 = 1;

/// Room for a path with its terminating zero.
pub const PATH_BYTES: usize = 511;
/// Room for arguments.
pub const ARGS_BYTES: usize = 1024;
/// Most arguments of a failed exec; those of others lie together and are bounded by their length alone.
pub const MAX_ARGS: u32 = 24;
/// Longest argument of a failed exec, with its terminating zero.
pub const ARG_BYTES: usize = 255;

/// An exec. What is behind `text` stays in the kernel: records are as long as their text.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Exec {
    /// `extra`: bytes of the path in `text`, its terminating zero included; 0 if it is not known.
    pub header: EventHeader,
    /// The process, with the name it has afterwards.
    pub owner: Owner,
    /// Its parent's process id.
    pub parent: u32,
    /// Its user's id.
    pub uid: u32,
    /// 0, or the negative errno.
    pub result: i32,
    /// Bytes of arguments there were; more than are in `text` if they were cut.
    pub args: u32,
    /// The path, then the arguments, each with its terminating zero.
    pub text: [u8; PATH_BYTES + 1 + ARGS_BYTES],
}

/// Bytes of an `Exec` before its text.
pub const EXEC_HEAD: usize = 64;

/// The end of a process.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// `extra`: the status its parent gets to see.
    pub header: EventHeader,
    /// The process.
    pub owner: Owner,
    /// Its parent's process id.
    pub parent: u32,
    /// Its user's id.
    pub uid: u32,
    /// Nanoseconds it lived.
    pub lifetime: u64,
    /// Most pages of memory it had at a time.
    pub pages: u64,
}
