// SPDX-License-Identifier: MIT OR GPL-2.0
//! The tables of counts. Each CPU has its own, found by hashing and never by a hash map: a kind of call takes the first
//! free cell from its place on and keeps it until the agent empties the table, so counting needs no lock and no atomics.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{
    kernel_slots::STATE,
    shared::{
        CELLS, Cell, ERRNO_SHIFT, KEY_COMPAT, PROBES, REST_ENTRIES, REST_PER_PAGE, Rest, TIMED_CELLS, TimedCell, bucket, hash,
        interrupted, rest_index,
    },
};

#[map]
static CALLS: PerCpuArray<[Cell; CELLS]> = PerCpuArray::with_max_entries(1, 0);
#[map]
static TIMED_CALLS: PerCpuArray<[TimedCell; TIMED_CELLS]> = PerCpuArray::with_max_entries(1, 0);
#[map]
static REST: PerCpuArray<[Rest; REST_PER_PAGE as usize]> = PerCpuArray::with_max_entries(REST_ENTRIES / REST_PER_PAGE, 0);

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

/// Counts a call.
#[inline(always)]
pub fn count(key: u64) {
    let Some(page) = CALLS.get_ptr_mut(page(key)) else { return };
    let cell = cell::<Cell>(page.cast(), hash(key));
    // SAFETY: a live map value of this CPU.
    unsafe {
        if (*cell).key == key {
            (*cell).calls += 1;
        } else {
            count_elsewhere(key);
        }
    }
}

#[inline(never)]
fn count_elsewhere(key: u64) {
    let Some(page) = CALLS.get_ptr_mut(page(key)) else { return };
    match find::<Cell>(page.cast(), key) {
        // SAFETY: a live map value of this CPU.
        Some(cell) => unsafe { (*cell).calls += 1 },
        None => count_rest(key),
    }
}

/// Counts a call and how long it took.
#[inline(always)]
pub fn count_timed(key: u64, nanos: Option<u64>) {
    let Some(page) = TIMED_CALLS.get_ptr_mut(page(key)) else { return };
    let cell = cell::<TimedCell>(page.cast(), hash(key));
    // SAFETY: a live map value of this CPU.
    if unsafe { (*cell).key } != key {
        return count_timed_elsewhere(key, nanos.unwrap_or(u64::MAX));
    }
    add(cell, nanos);
}

#[inline(never)]
fn count_timed_elsewhere(key: u64, nanos: u64) {
    let Some(page) = TIMED_CALLS.get_ptr_mut(page(key)) else { return };
    match find::<TimedCell>(page.cast(), key) {
        Some(cell) => add(cell, (nanos != u64::MAX).then_some(nanos)),
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

/// The page a key belongs into.
#[inline(always)]
fn page(key: u64) -> u32 {
    // SAFETY: words the agent writes whole; what they lead to beyond the map is not there.
    unsafe {
        let (first, mask) = ((&raw const STATE.first_page).read_volatile(), (&raw const STATE.page_mask).read_volatile());
        ((hash(key) >> 8 & mask) | first) as u32
    }
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
    let index = rest_index(key as u32, key & KEY_COMPAT != 0);
    let Some(page) = REST.get_ptr_mut(index / REST_PER_PAGE) else { return };
    let errno = (key >> ERRNO_SHIFT) as u32 & 0xfff;
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
