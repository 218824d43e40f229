// SPDX-License-Identifier: MIT OR GPL-2.0
//! The kernel half of the loss ledger. Whatever is not delivered is counted here, per CPU, before it is forgotten.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sidecar_common::loss::{LOSS_SLOTS, Loss};

#[map]
static LOSS: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_SLOTS, 0);

/// Counts one loss.
#[inline(always)]
pub fn count(loss: Loss) {
    if let Some(slot) = LOSS.get_ptr_mut(loss as u32) {
        // SAFETY: a per-CPU slot; an interrupt between load and store can at worst count two losses as one.
        unsafe { *slot += 1 }
    }
}
