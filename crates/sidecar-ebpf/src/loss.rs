// SPDX-License-Identifier: MIT OR GPL-2.0
//! The kernel half of the loss ledger. Whatever is not delivered is counted here, per CPU, before it is forgotten.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sidecar_common::loss::{LOSS_SLOTS, Loss};

use crate::per_cpu;

#[map]
static LOSS: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_SLOTS, 0);

/// Counts one loss.
#[inline(always)]
pub fn count(loss: Loss) {
    per_cpu::add(&LOSS, loss as u32, 1);
}
