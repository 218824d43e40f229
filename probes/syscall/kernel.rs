// SPDX-License-Identifier: MIT OR GPL-2.0
//! Counts system calls as they return. The path of nearly every call has no hash lookup and no checked read: the task's
//! slot is in a cache at an address known when the program is loaded, the count in a small per-CPU table.
#![no_std]
#![no_main]

mod kernel_slots;
mod kernel_table;
#[expect(dead_code, reason = "what only the collector needs is not used here")]
mod shared;

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_ANY,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map, raw_tracepoint, tracepoint},
    maps::LruHashMap,
    programs::{BtfTracePointContext, RawTracePointContext, TracePointContext},
};
use kernel_slots::{FIELDS, cached, forget, forget_all, is_newborn, resolve};
use shared::{ACCOUNT_LIMIT, ASIDE_ENTRIES, Begun, CACHED_TASKS, HIDDEN, Key, MAX_ERRNO, place, plain_key};
use sidecar_ebpf::{
    field,
    mem::{Checked, Mem, Typed},
};

/// Bit of `task_struct.thread_info` that says 32-bit call: `TIF_32BIT` on aarch64, `TS_COMPAT` on x86.
const COMPAT: u32 = if cfg!(bpf_target_arch = "aarch64") { 1 << 22 } else { 2 };

/// Calls under way by their task. Not in the state: that one the agent overwrites.
#[unsafe(link_section = ".bss.begun")]
static mut BEGUN: [Begun; CACHED_TASKS] = [Begun { task: 0, at: 0 }; CACHED_TASKS];
#[map]
static ASIDE: LruHashMap<u64, u64> = LruHashMap::with_max_entries(ASIDE_ENTRIES, 0);

/// Kernel: `TP_PROTO(struct pt_regs *regs, long ret)`, all versions. Runs in the calling task, which is not interrupted
/// by another one's call on this CPU.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    on_exit::<Typed>(&ctx, false);
    0
}

/// The same hook where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_raw_tp(ctx: RawTracePointContext) -> i32 {
    on_exit::<Checked>(&ctx, false);
    0
}

/// The end of a call whose beginning was looked at too.
#[btf_tracepoint(function = "sys_exit")]
pub fn timed_exit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    on_exit::<Typed>(&ctx, true);
    0
}

/// The same hook where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn timed_exit_raw_tp(ctx: RawTracePointContext) -> i32 {
    on_exit::<Checked>(&ctx, true);
    0
}

/// The same where a program on the hooks above may be interrupted by other tasks, whose calls would then be left out: it
/// costs more, but nothing comes between.
#[tracepoint(name = "sys_exit", category = "raw_syscalls")]
pub fn exit_tracepoint(ctx: TracePointContext) -> u32 {
    on_exit::<Typed>(&ctx, false);
    0
}

/// The end of a call whose beginning was looked at too.
#[tracepoint(name = "sys_exit", category = "raw_syscalls")]
pub fn timed_exit_tracepoint(ctx: TracePointContext) -> u32 {
    on_exit::<Typed>(&ctx, true);
    0
}

/// The beginning there.
#[tracepoint(name = "sys_enter", category = "raw_syscalls")]
pub fn enter_tracepoint(_: TracePointContext) -> u32 {
    begin();
    0
}

/// Kernel: `TP_PROTO(struct pt_regs *regs, long id)`, all versions. Only attached for latencies.
#[btf_tracepoint(function = "sys_enter")]
pub fn enter_tp_btf(_: BtfTracePointContext) -> i32 {
    begin();
    0
}

/// The same hook where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn enter_raw_tp(_: RawTracePointContext) -> i32 {
    begin();
    0
}

/// Kernel: `TP_PROTO(struct task_struct *parent, struct task_struct *child)`, all versions. Before the child runs: its
/// id may have been another task's.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn fork_tp_btf(ctx: BtfTracePointContext) -> i32 {
    forget::<Typed>(ctx.arg(1));
    0
}

/// The same hook where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn fork_raw_tp(ctx: RawTracePointContext) -> i32 {
    forget::<Checked>(ctx.arg(1));
    0
}

/// Kernel: `TP_PROTO(struct task_struct *task, const char *comm)`, all versions. Every exec and `PR_SET_NAME`.
#[btf_tracepoint(function = "task_rename")]
pub fn rename_tp_btf(ctx: BtfTracePointContext) -> i32 {
    on_rename::<Typed>(ctx.arg(0));
    0
}

/// The same hook where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "task_rename")]
pub fn rename_raw_tp(ctx: RawTracePointContext) -> i32 {
    on_rename::<Checked>(ctx.arg(0));
    0
}

/// Kernel: `TP_PROTO(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)`.
#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
pub fn cgroup_raw_tp(_: RawTracePointContext) -> i32 {
    forget_all();
    0
}

#[inline(always)]
fn on_exit<M: Mem>(ctx: &impl Arguments, timed: bool) {
    let (task, mode) = caller::<M>();
    let account = cached(task);
    let (number, regs, result) = ctx.exit::<M>();
    if account >= ACCOUNT_LIMIT || mode & COMPAT != 0 || result < 0 {
        let regs = regs as u64;
        return if timed {
            rarely::<M, true>(number, regs, result)
        } else {
            rarely::<M, false>(number, regs, result)
        };
    }
    let key = plain_key(account, number);
    let page = (account >> 16) as u32;
    if timed {
        kernel_table::time_plain(key, page, end(task));
    } else {
        kernel_table::count_plain(key, page);
    }
}

/// All but successful native calls of tasks whose account is known. `regs` is 0 where the hook does not tell.
#[inline(never)]
fn rarely<M: Mem, const TIMED: bool>(number: u32, regs: u64, result: i64) {
    let (task, mode) = caller::<M>();
    let compat = mode & COMPAT != 0;
    let mut account = cached(task);
    if account > HIDDEN {
        if result == 0 && is_newborn(regs as *const u8, number, compat) {
            return;
        }
        account = resolve(task);
    }
    if account == HIDDEN {
        return;
    }
    let errno = if (-MAX_ERRNO..0).contains(&result) { result.wrapping_neg() as u32 } else { 0 };
    let key = if compat || errno != 0 {
        Key { slot: account as u32 & 0xffff, number, compat, errno }.special()
    } else {
        plain_key(account, number)
    };
    if TIMED {
        kernel_table::time(key, end(task).unwrap_or(kernel_table::UNTIMED));
    } else {
        kernel_table::count(key);
    }
}

/// Id of the running task, and the member that says whether its call is a 32-bit one.
#[inline(always)]
fn caller<M: Mem>() -> (u32, u32) {
    let task = M::current();
    // SAFETY: offsets of `struct task_struct`.
    unsafe { (M::read::<u32>(task, field!(FIELDS.pid)), M::read::<u32>(task, field!(FIELDS.mode))) }
}

/// A context that tells of the end of a call.
trait Arguments {
    /// Its number, the registers (null where the hook does not tell) and the result.
    fn exit<M: Mem>(&self) -> (u32, *const u8, i64);
}

/// The number's low half, on both architectures.
#[inline(always)]
fn number<M: Mem>(regs: *const u8) -> u32 {
    // SAFETY: an offset of `struct pt_regs`.
    unsafe { M::read::<u32>(regs, field!(FIELDS.number)) }
}

impl Arguments for BtfTracePointContext {
    #[inline(always)]
    fn exit<M: Mem>(&self) -> (u32, *const u8, i64) {
        let regs = self.arg(0);
        (number::<M>(regs), regs, self.arg(1))
    }
}

impl Arguments for RawTracePointContext {
    #[inline(always)]
    fn exit<M: Mem>(&self) -> (u32, *const u8, i64) {
        let regs = self.arg(0);
        (number::<M>(regs), regs, self.arg(1))
    }
}

/// Kernel: `struct { struct trace_entry ent; long id; long ret; }`, all versions; `/sys/kernel/tracing/events/raw_syscalls`.
impl Arguments for TracePointContext {
    #[inline(always)]
    fn exit<M: Mem>(&self) -> (u32, *const u8, i64) {
        let record = self.as_ptr().cast::<i64>();
        // SAFETY: members of the record, which are whole words.
        let (id, result) = unsafe { (record.add(1).read_volatile(), record.add(2).read_volatile()) };
        (id as u32, core::ptr::null(), result)
    }
}

#[inline(always)]
fn on_rename<M: Mem>(task: *const u8) {
    // SAFETY: offsets of `struct task_struct` and `struct signal_struct`.
    let (is_leader, threads) = unsafe {
        let signal = M::read::<u64>(task, field!(FIELDS.signal)) as *const u8;
        let pid = M::read::<u32>(task, field!(FIELDS.pid));
        (pid == M::read::<u32>(task, field!(FIELDS.tgid)), M::read::<u32>(signal, field!(FIELDS.threads)))
    };
    // The name of all of its threads.
    if is_leader && threads > 1 {
        forget_all();
    } else {
        forget::<M>(task);
    }
}

#[inline(always)]
fn begun(task: u32) -> *mut Begun {
    // SAFETY: within the array.
    unsafe { (&raw mut BEGUN).cast::<Begun>().add(place(task)) }
}

#[inline(always)]
fn begin() {
    let task = bpf_get_current_pid_tgid() as u32;
    let place = begun(task);
    // SAFETY: a valid place. Two tasks that share one and begin at the same instant may mix up their times, which differ by
    // that instant.
    unsafe {
        let known = (&raw const (*place).task).read_volatile();
        if known != 0 && known != u64::from(task) {
            set_aside(known, (&raw const (*place).at).read_volatile());
        }
        (&raw mut (*place).at).write_volatile(bpf_ktime_get_ns());
        (&raw mut (*place).task).write_volatile(u64::from(task));
    }
}

/// Keeps the beginning of a call whose place is needed. It may also be one that never returns, such as `exit`.
#[inline(never)]
fn set_aside(task: u64, at: u64) {
    let _ = ASIDE.insert(task, at, u64::from(BPF_ANY));
}

/// Nanoseconds since the call began; `None` if that was not seen.
#[inline(always)]
fn end(task: u32) -> Option<u64> {
    let place = begun(task);
    let task = u64::from(task);
    // SAFETY: a valid place.
    let at = unsafe {
        if (&raw const (*place).task).read_volatile() == task {
            (&raw mut (*place).task).write_volatile(0);
            (&raw const (*place).at).read_volatile()
        } else {
            from_aside(task)
        }
    };
    // SAFETY: no arguments, always succeeds.
    (at != 0).then(|| unsafe { bpf_ktime_get_ns() }.wrapping_sub(at))
}

#[inline(never)]
fn from_aside(task: u64) -> u64 {
    // SAFETY: copied at once.
    let at = unsafe { ASIDE.get(task) }.copied().unwrap_or(0);
    if at != 0 {
        let _ = ASIDE.remove(task);
    }
    at
}
