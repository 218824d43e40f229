// SPDX-License-Identifier: MIT OR GPL-2.0
//! The tables of counts. Each CPU has its own, found by hashing and never by a hash map: a kind of call takes the first
//! free cell from its place on and keeps it until the agent empties the table, so counting needs no lock and no atomics.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{
    kernel_slots::STATE,
    shared::{
        self, CELLS, Cell, Key, PROBES, REST_ENTRIES, REST_PER_PAGE, Rest, TIMED_CELLS, TimedCell, bucket,
        hash, interrupted, rest_index,
    },
};

#[map]
static CALLS: PerCpuArray<[Cell; CELLS]> = PerCpuArray::with_max_entries(1, 0);
#[map]
static TIMED_CALLS: PerCpuArray<[TimedCell; TIMED_CELLS]> = PerCpuArray::with_max_entries(1, 0);
#[map]
static REST: PerCpuArray<[Rest; REST_PER_PAGE as usize]> =
    PerCpuArray::with_max_entries(REST_ENTRIES / REST_PER_PAGE, 0);

/// A cell begins with its key.
trait Keyed: Sized + 'static {
    const PER_PAGE: u64;
}

impl Keyed for Cell {
    const PER_PAGE: u64 = CELLS as u64;
}

impl Keyed for TimedCell {
    const PER_PAGE: u64 = TIMED_CELLS as u64;
}

/// Counts a plain call.
#[inline(always)]
pub fn count_plain(key: u64, page: u32) {
    let Some(page) = CALLS.get_ptr_mut(page) else { return };
    let cell = cell::<Cell>(page.cast(), hash(key));
    // SAFETY: a live map value of this CPU.
    unsafe {
        if (*cell).key == key {
            (*cell).calls += 1;
        } else {
            count(key);
        }
    }
}

/// Counts a call.
#[inline(never)]
pub fn count(key: u64) {
    let Some(page) = CALLS.get_ptr_mut(page(key)) else { return };
    match find::<Cell>(page.cast(), key) {
        // SAFETY: a live map value of this CPU.
        Some(cell) => unsafe { (*cell).calls += 1 },
        None => count_rest(key),
    }
}

/// Counts a plain call and how long it took.
#[inline(always)]
pub fn time_plain(key: u64, page: u32, nanos: Option<u64>) {
    let Some(page) = TIMED_CALLS.get_ptr_mut(page) else { return };
    let cell = cell::<TimedCell>(page.cast(), hash(key));
    // SAFETY: a live map value of this CPU.
    if unsafe { (*cell).key } == key {
        add(cell, nanos);
    } else {
        time(key, nanos.unwrap_or(UNTIMED));
    }
}

/// No duration.
pub const UNTIMED: u64 = u64::MAX;

/// Counts a call and how long it took, or that this is not known.
#[inline(never)]
pub fn time(key: u64, nanos: u64) {
    let Some(page) = TIMED_CALLS.get_ptr_mut(page(key)) else { return };
    match find::<TimedCell>(page.cast(), key) {
        Some(cell) => add(cell, (nanos != UNTIMED).then_some(nanos)),
        None => count_rest(key),
    }
}

#[inline(always)]
fn add(cell: *mut TimedCell, nanos: Option<u64>) {
    // SAFETY: a live map value of this CPU; `bucket` is within the array.
    unsafe {
        match nanos {
            Some(nanos) => {
                (*cell).nanos += nanos;
                *(&raw mut (*cell).buckets).cast::<u64>().add(bucket(nanos)) += 1;
            }
            None => (*cell).untimed += 1,
        }
    }
}

/// The page a key lies in.
#[inline(always)]
fn page(key: u64) -> u32 {
    // SAFETY: words the agent writes whole; what they lead to beyond the map is not there.
    let (first, mask) = unsafe {
        ((&raw const STATE.first_page).read_volatile(), (&raw const STATE.page_mask).read_volatile())
    };
    shared::page(key, first, mask)
}

/// The cell at a place of a page.
#[inline(always)]
fn cell<C: Keyed>(page: *mut C, place: u64) -> *mut C {
    // SAFETY: within the page.
    unsafe { page.add((place % C::PER_PAGE) as usize) }
}

/// The cell of a key, which it takes if there is none yet.
#[inline(always)]
fn find<C: Keyed>(page: *mut C, key: u64) -> Option<*mut C> {
    let first = hash(key);
    for step in 0..PROBES {
        let cell = cell(page, first.wrapping_add(step));
        let known = cell.cast::<u64>();
        // SAFETY: a live map value of this CPU, which begins with the key.
        unsafe {
            if *known == 0 {
                *known = key;
            }
            if *known == key {
                return Some(cell);
            }
        }
    }
    None
}

/// No cell is left for the key: counts it without saying whose it is.
#[inline(always)]
fn count_rest(key: u64) {
    let Key { number, compat, errno, .. } = Key::of(key);
    let index = rest_index(number, compat);
    let Some(page) = REST.get_ptr_mut(index / REST_PER_PAGE) else { return };
    // SAFETY: a live map value of this CPU; within the page.
    unsafe {
        let rest = page.cast::<Rest>().add((index % REST_PER_PAGE) as usize);
        (*rest).calls += 1;
        if interrupted(errno) {
            (*rest).interrupted += 1;
        } else if errno != 0 {
            (*rest).errors += 1;
        }
    }
}
