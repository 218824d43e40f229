// SPDX-License-Identifier: MIT OR GPL-2.0
//! Counting and timing. Each CPU has a small table of counters for the processes that open files on it now; what leaves the
//! table goes to a hash map, so that the usual open looks nothing up there.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_cgroup_id, bpf_ktime_get_ns},
    },
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray},
};
use sidecar_ebpf::{
    current,
    mem::{constant, masked},
    per_cpu,
    sidecar_common::owner::Owner,
};

use crate::{
    CONSTANTS,
    shared::{
        ASIDE_ENTRIES, BEGUN_PLACES, Begun, CELLS, Cell, Key, Table, WITH_CGROUP, WITH_COMM, WITH_PID,
        bucket, place,
    },
    task_id,
};

#[map]
static TABLES: PerCpuArray<Table> = PerCpuArray::with_max_entries(2, 0);
/// What has left the tables: by process (only what is a label of it) and, in `reserved`, by errno.
#[map]
static COUNTS: HashMap<Owner, u64> = HashMap::with_max_entries(2048, 0);
/// Opens `COUNTS` had no room for.
#[map]
static OVERFLOW: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
static mut BEGUN: [Begun; BEGUN_PLACES] = [Begun { task: 0, at: 0, arguments: [0; 3] }; BEGUN_PLACES];
#[map]
static ASIDE: LruHashMap<u64, Begun> = LruHashMap::with_max_entries(ASIDE_ENTRIES, 0);

/// What is known of an open when it ends.
pub struct Under {
    /// Nanoseconds since its beginning; 0 if that was not seen.
    pub nanos: u64,
    /// What the function was called with, if it was kept.
    pub arguments: [u64; 3],
}

impl Under {
    /// The beginning was not seen.
    pub const UNKNOWN: Self = Self { nanos: 0, arguments: [0; 3] };
}

#[inline(always)]
fn begun(task: u64) -> *mut Begun {
    // SAFETY: within the array.
    unsafe { (&raw mut BEGUN).cast::<Begun>().add(task as usize % BEGUN_PLACES) }
}

/// Remembers that the running task begins to open a file.
#[inline(always)]
pub fn begin(arguments: [u64; 3]) {
    let task = task_id();
    let place = begun(task);
    // SAFETY: a valid place. Two tasks that share one and begin at the same instant may mix up their times, which differ by
    // that instant.
    unsafe {
        let known = (&raw const (*place).task).read_volatile();
        if known != 0 && known != task {
            set_aside(place, known);
        }
        (&raw mut (*place).at).write_volatile(bpf_ktime_get_ns());
        let kept = (&raw mut (*place).arguments).cast::<u64>();
        // Programs that are told again at the end keep nothing.
        if arguments[0] | arguments[1] | arguments[2] != 0 {
            kept.write_volatile(arguments[0]);
            kept.add(1).write_volatile(arguments[1]);
            kept.add(2).write_volatile(arguments[2]);
        }
        (&raw mut (*place).task).write_volatile(task);
    }
}

/// Keeps an open whose place is needed.
#[inline(never)]
fn set_aside(place: *mut Begun, task: u64) {
    // SAFETY: a valid place, copied by the helper.
    let begun: &Begun = unsafe { &*place };
    let _ = ASIDE.insert(task, begun, u64::from(BPF_ANY));
}

/// What is known of the open the running task has ended.
#[inline(always)]
pub fn end() -> Under {
    let task = task_id();
    let place = begun(task);
    // SAFETY: a valid place.
    unsafe {
        if (&raw const (*place).task).read_volatile() == task {
            (&raw mut (*place).task).write_volatile(0);
            return since(place);
        }
    }
    let mut under = Under::UNKNOWN;
    from_aside(task, &mut under);
    under
}

/// # Safety
/// A valid place or map value.
#[inline(always)]
unsafe fn since(place: *const Begun) -> Under {
    // SAFETY: the caller's.
    unsafe {
        let at = (&raw const (*place).at).read_volatile();
        let kept = (&raw const (*place).arguments).cast::<u64>();
        Under {
            nanos: bpf_ktime_get_ns().wrapping_sub(at) | 1,
            arguments: [kept.read_volatile(), kept.add(1).read_volatile(), kept.add(2).read_volatile()],
        }
    }
}

#[inline(never)]
fn from_aside(task: u64, under: &mut Under) {
    if let Some(place) = ASIDE.get_ptr(task) {
        // SAFETY: a live map value.
        *under = unsafe { since(place) };
        let _ = ASIDE.remove(task);
    }
}

/// Counts an open of the running process.
#[inline(always)]
pub fn count(table: u32, result: i32, nanos: u64) {
    let Some(table) = TABLES.get_ptr_mut(table) else { return };
    let labels = constant(&CONSTANTS.labels);
    let mut who = if result < 0 { u64::from(result.wrapping_neg() as u32) } else { 0 };
    let (mut comm, mut cgroup) = ([0; 2], 0);
    if labels & WITH_COMM != 0 {
        comm = current::name_words();
    }
    if labels & WITH_PID != 0 {
        who |= bpf_get_current_pid_tgid() >> 32 << 32;
    }
    if labels & WITH_CGROUP != 0 {
        // SAFETY: no arguments, always succeeds.
        cgroup = unsafe { bpf_get_current_cgroup_id() };
    }
    let place = place(comm, who, cgroup);
    // SAFETY: a live map value of this CPU, whose program no other run of it interrupts.
    unsafe {
        if nanos != 0 {
            (*table).nanos += nanos;
            let buckets = (&raw mut (*table).buckets).cast::<u64>();
            *buckets.add(bucket(nanos)) += 1;
        }
        let cells = (&raw mut (*table).cells).cast::<Cell>();
        let mut cell = cells.add(place);
        if !is_of(cell, comm, who, cgroup) {
            cell = cells.add(place ^ 1);
            if !is_of(cell, comm, who, cgroup) {
                let mut key = MaybeUninit::<Key>::uninit();
                let to = key.as_mut_ptr();
                (&raw mut (*to).comm[0]).write_volatile(comm[0]);
                (&raw mut (*to).comm[1]).write_volatile(comm[1]);
                (&raw mut (*to).who).write_volatile(who);
                (&raw mut (*to).cgroup).write_volatile(cgroup);
                take(table, place as u64, key.assume_init_ref());
                return;
            }
        }
        (*cell).count += 1;
    }
}

/// # Safety
/// A live map value.
#[inline(always)]
unsafe fn is_of(cell: *const Cell, comm: [u64; 2], who: u64, cgroup: u64) -> bool {
    // SAFETY: the caller's.
    let key = unsafe { &(*cell).key };
    key.comm[0] == comm[0] && key.comm[1] == comm[1] && key.who == who && key.cgroup == cgroup
}

/// Gives one of the two cells that can be a key's to it, and counts its first open. What the cell had counted goes to the map
/// after it has gone from the cell: whoever reads the map first and then the cells may miss it for a moment, and never
/// sees it twice. Without room in the map the cell stays as it is.
#[inline(never)]
fn take(table: *mut Table, place: u64, key: &Key) {
    // SAFETY: a live map value of this CPU; the place is masked. Words in this order, see `Cell`.
    unsafe {
        let turn = (*table).turn.wrapping_add(1);
        (*table).turn = turn;
        let at = masked::<{ CELLS as i32 - 1 }>(place ^ turn & 1);
        let cell = (&raw mut (*table).cells).cast::<Cell>().add(at as usize);
        let had = (&raw const (*cell).count).read_volatile();
        if had == 0 {
            assign(cell, key);
            return;
        }
        let Some(counter) = put_away(&(*cell).key) else {
            per_cpu::add(&OVERFLOW, 0, 1);
            return;
        };
        assign(cell, key);
        // User space removes only what no table has.
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, had);
    }
}

/// # Safety
/// A live map value of this CPU.
#[inline(always)]
unsafe fn assign(cell: *mut Cell, key: &Key) {
    // SAFETY: the caller's.
    unsafe {
        let changes = (*cell).changes.wrapping_add(1);
        (&raw mut (*cell).changes_begun).write_volatile(changes);
        (&raw mut (*cell).count).write_volatile(0);
        (&raw mut (*cell).key.comm[0]).write_volatile(key.comm[0]);
        (&raw mut (*cell).key.comm[1]).write_volatile(key.comm[1]);
        (&raw mut (*cell).key.who).write_volatile(key.who);
        (&raw mut (*cell).key.cgroup).write_volatile(key.cgroup);
        (&raw mut (*cell).changes).write_volatile(changes);
        (&raw mut (*cell).count).write_volatile(1);
    }
}

/// Where the map counts a key.
#[inline(always)]
fn put_away(key: &Key) -> Option<*mut u64> {
    let mut owner = MaybeUninit::<Owner>::uninit();
    let to = owner.as_mut_ptr();
    // SAFETY: room for an owner, all of which is written, word by word: see `current::describe`.
    let owner = unsafe {
        let comm = current::terminated([key.comm[0], key.comm[1]]);
        (&raw mut (*to).comm).cast::<u64>().write_volatile(comm[0]);
        (&raw mut (*to).comm).cast::<u64>().add(1).write_volatile(comm[1]);
        (&raw mut (*to).pid).write_volatile((key.who >> 32) as u32);
        (&raw mut (*to).reserved).write_volatile(key.who as u32);
        (&raw mut (*to).cgroup).write_volatile(key.cgroup);
        owner.assume_init_ref()
    };
    COUNTS.get_ptr_mut(owner).or_else(|| {
        // Another CPU may be first.
        let _ = COUNTS.insert(owner, 0, u64::from(BPF_NOEXIST));
        COUNTS.get_ptr_mut(owner)
    })
}
