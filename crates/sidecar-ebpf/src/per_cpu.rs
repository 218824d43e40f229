// SPDX-License-Identifier: MIT OR GPL-2.0
//! Counters and histograms in per-CPU arrays: no CPU waits for another, and the agent adds them up when it reads.

use aya_ebpf::maps::PerCpuArray;
use sidecar_common::histogram;

/// Adds to one counter. A slot beyond the array is ignored.
#[inline(always)]
pub fn add(counters: &PerCpuArray<u64>, slot: u32, amount: u64) {
    if let Some(counter) = counters.get_ptr_mut(slot) {
        // SAFETY: this CPU's own slot; an interrupt between load and store can at worst lose one of two additions.
        unsafe { *counter += amount }
    }
}

/// Adds an observation to a histogram: an array of [`histogram::BUCKETS`] counters.
#[inline(always)]
pub fn observe(buckets: &PerCpuArray<u64>, value: u64) {
    add(buckets, histogram::index(value), 1);
}
