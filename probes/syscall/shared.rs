// SPDX-License-Identifier: MIT OR GPL-2.0
//! What the kernel programs and the collector say to each other: how a kind of call is packed into one word, the cells
//! it is counted in, and where a cell is found.

use sidecar_common::owner::Owner;

sidecar_common::fields! {
    /// Members of a task and of the registers it came into the kernel with.
    pub struct Fields {
        // The number as the kernel last knew it: what a tracer or seccomp put there counts.
        number: "pt_regs.orig_ax" | "pt_regs.syscallno",
        // Where a task that has just begun has nothing; x86 only.
        optional return_address: "pt_regs.cx",
        // x86: TS_COMPAT; aarch64: TIF_32BIT.
        mode: "task_struct.thread_info.status" | "task_struct.thread_info.flags",
        pid: "task_struct.pid",
        tgid: "task_struct.tgid",
        signal: "task_struct.signal",
        threads: "signal_struct.nr_threads",
    }
}

/// Slot of the processes for which there is no slot of their own.
pub const OTHER: u32 = 1;
/// First slot given to processes.
pub const FIRST_SLOT: u32 = 2;
/// Most slots.
pub const MAX_SLOTS: u32 = 0xfff0;

/// Where a slot's calls are counted: the slot in the low half, the page of the table in the high one.
#[inline(always)]
pub const fn account(slot: u32, page: u32) -> u64 {
    (page << 16 | slot) as u64
}

/// Most pages of both tables.
pub const MAX_PAGES: u32 = 0x8000;
/// Accounts are below this.
pub const ACCOUNT_LIMIT: u64 = 0x8000_0000;
/// Stands for the account of a process the user's filter hides.
pub const HIDDEN: u64 = ACCOUNT_LIMIT;

/// Tasks whose slot is remembered. They have ids in a row, so that few share a place.
pub const CACHED_TASKS: usize = 4096;

/// Place of a task (`task_struct.pid`) in the caches.
#[inline(always)]
pub const fn place(task: u32) -> usize {
    task as usize % CACHED_TASKS
}

/// What the cache says of a task, less its account in the low half.
#[inline(always)]
pub const fn cache_word(task: u32) -> u64 {
    (task as u64) << 32
}

/// A section of the object's own: what the fast path reads, at an address it knows.
#[repr(C)]
pub struct State {
    /// First page of the table counted in.
    pub first_page: u64,
    /// Pages of a table less one; a power of two less one.
    pub page_mask: u64,
    /// 0 until the agent has put slots there: nothing is counted before.
    pub ready: u64,
    /// By `place`: `cache_word` with the account in its low half; 0 for none.
    pub accounts: [u64; CACHED_TASKS],
}

/// What the agent tells the programs when it loads them.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Constants {
    /// Numbers of the calls a child returns from without having made them: fork, vfork, clone, clone3.
    pub forks: [u32; 4],
    /// The same of the 32-bit calls.
    pub compat_forks: [u32; 4],
    /// `WITH_…`: what tells processes apart.
    pub labels: u32,
}

/// `Constants::labels`: by name.
pub const WITH_COMM: u32 = 1;
/// `Constants::labels`: by process id.
pub const WITH_PID: u32 = 2;
/// `Constants::labels`: by cgroup.
pub const WITH_CGROUP: u32 = 4;

/// Key of the `SLOTS` map: what is not a label is 0.
pub type SlotKey = Owner;

/// A kind of call, in a word: whose, which, how it ended. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Slot of the process.
    pub slot: u32,
    /// The number; what has no number (`rt_sigreturn` has lost it by its end) is `u32::MAX`.
    pub number: u32,
    /// Whether it came through the 32-bit table.
    pub compat: bool,
    /// Its error; 0 if it succeeded.
    pub errno: u32,
}

/// Bit of a key that is not of a plain call: it has an error or came through the 32-bit table, and lies where its hash
/// says. A plain one is an account and a number, and lies in the account's page.
const SPECIAL: u64 = 1 << 63;
const COMPAT: u64 = 1 << 60;
const ERRNO_SHIFT: u32 = 48;
const SLOT_SHIFT: u32 = 32;
/// Largest error the kernel returns (`MAX_ERRNO`).
pub const MAX_ERRNO: i64 = 4095;

/// The word of a successful native call.
#[inline(always)]
pub const fn plain_key(account: u64, number: u32) -> u64 {
    account << SLOT_SHIFT | number as u64
}

impl Key {
    /// Its word, for all but plain calls.
    #[inline(always)]
    pub const fn special(&self) -> u64 {
        let compat = if self.compat { COMPAT } else { 0 };
        SPECIAL
            | compat
            | (self.errno as u64) << ERRNO_SHIFT
            | (self.slot as u64) << SLOT_SHIFT
            | self.number as u64
    }

    /// What a word says.
    #[inline(always)]
    pub const fn of(word: u64) -> Self {
        let special = word & SPECIAL != 0;
        Self {
            slot: (word >> SLOT_SHIFT) as u32 & 0xffff,
            number: word as u32,
            compat: special && word & COMPAT != 0,
            errno: if special { (word >> ERRNO_SHIFT) as u32 & 0xfff } else { 0 },
        }
    }

    /// The call alone, as a number: whoever made it and however it ended.
    pub const fn call(&self) -> u64 {
        Self { slot: 0, errno: 0, ..*self }.special()
    }
}

/// The page a key lies in: `first` and `mask` are those of the state.
#[inline(always)]
pub const fn page(key: u64, first: u64, mask: u64) -> u32 {
    if key & SPECIAL != 0 { ((hash(key) >> 8 & mask) + first) as u32 } else { (key >> ERRNO_SHIFT) as u32 }
}

/// Counts one kind of call on one CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// The kind; written once, before the first count.
    pub key: u64,
    /// How often.
    pub calls: u64,
}

/// Counts one kind of call and how long it took.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedCell {
    /// The kind; written once, before the first count.
    pub key: u64,
    /// Nanoseconds altogether.
    pub nanos: u64,
    /// Calls whose beginning was not seen.
    pub untimed: u64,
    /// Calls by duration: [`BOUNDS_NANOS`] and beyond.
    pub buckets: [u64; BUCKETS],
}

/// Upper bounds of durations, inclusive, nanoseconds.
pub const BOUNDS_NANOS: [u64; BUCKETS - 1] = [
    1_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
];
/// Buckets: one more than bounds.
pub const BUCKETS: usize = 13;

/// The bucket of a duration. Written out, because the processor this is compiled for has no better way.
#[inline(always)]
pub const fn bucket(nanos: u64) -> usize {
    const B: [u64; BUCKETS - 1] = BOUNDS_NANOS;
    // The short ones first: they are the frequent ones.
    if nanos <= B[2] {
        return if nanos <= B[0] {
            0
        } else if nanos <= B[1] {
            1
        } else {
            2
        };
    }
    if nanos <= B[5] {
        return if nanos <= B[3] {
            3
        } else if nanos <= B[4] {
            4
        } else {
            5
        };
    }
    if nanos <= B[8] {
        return if nanos <= B[6] {
            6
        } else if nanos <= B[7] {
            7
        } else {
            8
        };
    }
    if nanos <= B[9] {
        9
    } else if nanos <= B[10] {
        10
    } else if nanos <= B[11] {
        11
    } else {
        12
    }
}

/// Cells in a page of `CALLS`: more than the different calls of most programs. A page is one value of a per-CPU array,
/// of which the kernel allows 32 KiB.
pub const CELLS: usize = 256;
/// Cells in a page of `TIMED_CALLS`.
pub const TIMED_CELLS: usize = 128;
/// Cells looked at, from the one a key belongs into, before it counts as [`Rest`].
pub const PROBES: u64 = 16;

/// Spreads keys over pages and cells.
#[inline(always)]
pub const fn hash(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// What found no cell, by call only.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// How often.
    pub calls: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Those of them that were interrupted.
    pub interrupted: u64,
}

/// Calls told apart in `REST`.
pub const REST_ENTRIES: u32 = 1024;
/// Of them in one value of the map.
pub const REST_PER_PAGE: u32 = 128;
/// First of the 32-bit calls' entries; the one before it and the last are those of all higher numbers.
pub const REST_COMPAT: u32 = REST_ENTRIES / 2;

/// The entry of a call in `REST`.
#[inline(always)]
pub const fn rest_index(number: u32, compat: bool) -> u32 {
    let last = REST_COMPAT - 1;
    let within = if number < last { number } else { last };
    if compat { REST_COMPAT + within } else { within }
}

/// Whether an error only says that a signal came first. The program never sees these: the kernel makes the call again
/// or fails it with `EINTR`, which is decided after we have looked (`include/linux/errno.h`).
#[inline(always)]
pub const fn interrupted(errno: u32) -> bool {
    errno >= 512 && errno <= 516 && errno != 515
}

/// When the call a task is in began; by `place`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// The task; 0 when it is in no call.
    pub task: u64,
    /// Monotonic nanoseconds.
    pub at: u64,
}

/// Calls under way whose place another task has taken.
pub const ASIDE_ENTRIES: u32 = 4096;
