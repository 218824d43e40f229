// SPDX-License-Identifier: MIT OR GPL-2.0
//! Counts starts of programs, per CPU, so that nothing is shared between processors.
#![no_std]
#![no_main]

mod shared;

use aya_ebpf::{
    macros::{btf_tracepoint, map, raw_tracepoint},
    maps::PerCpuArray,
    programs::{BtfTracePointContext, RawTracePointContext},
};
use sidecar_ebpf::{current, per_cpu, scope};

#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(shared::SLOTS, 0);

/// Kernel: `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, all versions.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn exec_tp_btf(_: BtfTracePointContext) -> i32 {
    count();
    0
}

/// The same hook where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn exec_raw_tp(_: RawTracePointContext) -> i32 {
    count();
    0
}

#[inline(always)]
fn count() {
    // The user's filter comes first: what it hides must cost next to nothing.
    if scope::active().is_some()
        && !scope::passes_task(current::task(), &current::owner())
    {
        return;
    }
    per_cpu::add(&COUNTS, shared::EVENTS, 1);
}
