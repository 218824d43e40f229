// SPDX-License-Identifier: MIT OR GPL-2.0
//! From a task to its account: the slot its label set counts under, and where. Finding out who a task is and whether the user wants to
//! see it costs some hundred instructions, so it is done once and remembered until something about the task changes.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{HashMap, Queue},
};
use sidecar_ebpf::{
    current, field,
    mem::{Checked, Mem, constant},
    scope,
    sidecar_common::{field::MISSING, owner::Owner},
};

use crate::shared::{
    CACHED_TASKS, Constants, Fields, HIDDEN, MAX_SLOTS, OTHER, SlotKey, State, WITH_CGROUP, WITH_COMM,
    WITH_PID, account, cache_word, place,
};

#[unsafe(no_mangle)]
pub static FIELDS: Fields = Fields::UNRESOLVED;
#[unsafe(no_mangle)]
static CONSTANTS: Constants = Constants { forks: [0; 4], compat_forks: [0; 4], labels: 0 };

// A map of its own: the agent writes it whole.
#[unsafe(link_section = ".bss.state")]
#[unsafe(no_mangle)]
pub static mut STATE: State = State { first_page: 0, page_mask: 0, ready: 0, accounts: [0; CACHED_TASKS] };

/// Label sets and their slots.
#[map]
static SLOTS: HashMap<SlotKey, u32> = HashMap::with_max_entries(MAX_SLOTS, 0);
/// Slots to be had; the agent puts them there.
#[map]
static FREE: Queue<u32> = Queue::with_max_entries(MAX_SLOTS, 0);

/// What the cache holds of a task: its account, [`HIDDEN`], or a larger number for nothing.
#[inline(always)]
pub fn cached(task: u32) -> u64 {
    // SAFETY: within the array; a word is read whole.
    unsafe { account_of(place(task)).read_volatile() ^ cache_word(task) }
}

#[inline(always)]
fn account_of(index: usize) -> *mut u64 {
    // SAFETY: `place` and the loop below stay within the array.
    unsafe { (&raw mut STATE.accounts).cast::<u64>().add(index) }
}

/// Finds the account of the running task and remembers it.
#[inline(never)]
pub fn resolve(task: u32) -> u64 {
    // SAFETY: words the agent writes whole.
    let (ready, first, mask) = unsafe {
        (
            (&raw const STATE.ready).read_volatile(),
            (&raw const STATE.first_page).read_volatile(),
            (&raw const STATE.page_mask).read_volatile(),
        )
    };
    if ready == 0 {
        return HIDDEN;
    }
    let mut owner = current::owner();
    let account = if scope::active().is_some() && !scope::passes_task(current::task(), &owner) {
        HIDDEN
    } else {
        mask_labels(&mut owner);
        let slot = assign(&owner);
        account(slot, (first + (u64::from(slot) & mask)) as u32)
    };
    // SAFETY: within the array; one word, so that another CPU sees this task or another, never a mixture.
    unsafe { account_of(place(task)).write_volatile(cache_word(task) | account) };
    account
}

/// Leaves in it what is a label.
#[inline(always)]
fn mask_labels(owner: &mut Owner) {
    let labels = constant(&CONSTANTS.labels);
    let owner = core::ptr::from_mut(owner);
    // SAFETY: a valid reference; the name is aligned to a word, as all of `Owner` is.
    unsafe {
        if labels & WITH_COMM == 0 {
            let comm = (&raw mut (*owner).comm).cast::<u64>();
            comm.write_volatile(0);
            comm.add(1).write_volatile(0);
        }
        if labels & WITH_PID == 0 {
            (&raw mut (*owner).pid).write_volatile(0);
        }
        if labels & WITH_CGROUP == 0 {
            (&raw mut (*owner).cgroup).write_volatile(0);
        }
    }
}

/// The slot of a label set; a new one if there is none yet and one is to be had.
#[inline(always)]
fn assign(key: &SlotKey) -> u32 {
    // SAFETY: copied at once; a slot never changes while its key is there.
    if let Some(&slot) = unsafe { SLOTS.get(key) } {
        return slot;
    }
    let Ok(Some(slot)) = FREE.pop() else { return OTHER };
    if SLOTS.insert(key, slot, u64::from(BPF_NOEXIST)).is_ok() {
        return slot;
    }
    // Another CPU was first.
    let _ = FREE.push(slot, 0);
    // SAFETY: as above.
    unsafe { SLOTS.get(key) }.copied().unwrap_or(OTHER)
}

/// Forgets the account of a task.
#[inline(always)]
pub fn forget<M: Mem>(task: *const u8) {
    // SAFETY: an offset of `struct task_struct`; within the array.
    unsafe {
        let task = M::read::<u32>(task, field!(FIELDS.pid));
        account_of(place(task)).write_volatile(0);
    }
}

/// Forgets all accounts: rare enough to do it the simple way.
#[inline(never)]
pub fn forget_all() {
    for index in 0..CACHED_TASKS {
        // SAFETY: within the array.
        unsafe { account_of(index).write_volatile(0) };
    }
}

/// Whether this return is the first thing a task does: then it has made no call. A forked child returns from its parent's
/// with 0, which its parent never does; a program the kernel has started by itself from none. Only asked where the cache
/// knows nothing of the task, which is always so with a new one.
#[inline(always)]
pub fn is_newborn(regs: *const u8, number: u32, compat: bool) -> bool {
    let forks = if compat { &CONSTANTS.compat_forks } else { &CONSTANTS.forks };
    let mut is_fork = false;
    for fork in forks {
        is_fork |= constant(fork) == number;
    }
    if is_fork {
        return true;
    }
    let return_address = field!(FIELDS.return_address);
    // A real call has left its return address there, whatever its number.
    // SAFETY: an offset of `struct pt_regs`.
    number == 0
        && !compat
        && !regs.is_null()
        && return_address != MISSING
        && unsafe { Checked::read::<u64>(regs, return_address) } == 0
}
