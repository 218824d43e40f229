// SPDX-License-Identifier: MIT OR GPL-2.0
//! Counts and times opens. Attached to the one function all system calls that open files go through, and to the one of
//! `io_uring`: nothing runs at any other call.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only way to an atomic addition on this target")]

mod kernel_count;
mod kernel_path;
mod kernel_tell;
#[expect(dead_code, reason = "what only the collector needs is not used here")]
mod shared;

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, raw_tracepoint},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RawTracePointContext,
        RetProbeContext,
    },
};
use kernel_count::{Under, begin, count, end};
use kernel_tell::Asked;
use shared::{CALLS, Constants, Fields, UNKNOWN_ERRNO, URING};
use sidecar_ebpf::{
    event, field,
    mem::{Checked, Mem, Typed, constant},
    scope,
};

#[unsafe(no_mangle)]
pub static FIELDS: Fields = Fields::UNRESOLVED;
#[unsafe(no_mangle)]
pub static CONSTANTS: Constants = Constants {
    labels: 0,
    latency: 0,
    prefixes: 0,
    result_if_deferred: 0,
    calls: [u32::MAX; 4],
    compat_calls: [u32::MAX; 4],
};

/// Bit of `task_struct.thread_info` that says 32-bit call: `TIF_32BIT` on aarch64, `TS_COMPAT` on x86.
const COMPAT: u32 = if cfg!(bpf_target_arch = "aarch64") { 1 << 22 } else { 2 };
/// `EAGAIN`: `io_uring` will try again in another thread.
const AGAIN: i32 = 11;
/// `IO_URING_F_COMPLETE_DEFER` before 5.19.
const COMPLETE_DEFER: u64 = 2;

/// Kernel: `do_sys_openat2(int dfd, const char __user *filename, struct open_how *how)`, all versions.
#[fentry(function = "do_sys_openat2")]
pub fn begin_fentry(_: FEntryContext) -> i32 {
    begin([0; 3]);
    0
}

/// The same where there are no trampolines.
#[kprobe(function = "do_sys_openat2")]
pub fn begin_kprobe(ctx: ProbeContext) -> u32 {
    begin([ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0), ctx.arg(2).unwrap_or(0)]);
    0
}

/// The end of the same function.
#[fexit(function = "do_sys_openat2")]
pub fn end_fexit(ctx: FExitContext) -> i32 {
    let under = if constant(&CONSTANTS.latency) != 0 { end() } else { Under::UNKNOWN };
    let asked = || Asked::how(ctx.arg::<u64>(0), ctx.arg::<u64>(1), ctx.arg::<*const u8>(2));
    finish(CALLS, ctx.arg::<i32>(3), under.nanos, asked);
    0
}

/// The same where there are no trampolines.
#[kretprobe(function = "do_sys_openat2")]
pub fn end_kretprobe(ctx: RetProbeContext) -> u32 {
    let under = end();
    let [dfd, name, how] = under.arguments;
    let nanos = if constant(&CONSTANTS.latency) != 0 { under.nanos } else { 0 };
    finish(CALLS, ctx.ret::<i32>(), nanos, || Asked::how(dfd, name, how as *const u8));
    0
}

/// Kernel: `TP_PROTO(struct pt_regs *regs, long id)`, all versions. Where functions cannot be hooked: meets every call.
#[btf_tracepoint(function = "sys_enter")]
pub fn enter_tp_btf(ctx: BtfTracePointContext) -> i32 {
    if is_open::<Typed>(ctx.arg::<u64>(1) as u32) {
        begin([0; 3]);
    }
    0
}

/// The same where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn enter_raw_tp(ctx: RawTracePointContext) -> i32 {
    if is_open::<Checked>(ctx.arg::<u64>(1) as u32) {
        begin([0; 3]);
    }
    0
}

/// Kernel: `TP_PROTO(struct pt_regs *regs, long ret)`, all versions.
#[btf_tracepoint(function = "sys_exit")]
pub fn exit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    on_exit::<Typed>(ctx.arg(0), ctx.arg::<i64>(1) as i32);
    0
}

/// The same where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_raw_tp(ctx: RawTracePointContext) -> i32 {
    on_exit::<Checked>(ctx.arg(0), ctx.arg::<i64>(1) as i32);
    0
}

/// Kernel: `io_openat2(struct io_kiocb *req, unsigned int issue_flags)`, all versions. It may be called twice for a request:
/// if the first try would have to wait, it is done again by another thread.
#[fentry(function = "io_openat2")]
pub fn uring_begin_fentry(ctx: FEntryContext) -> i32 {
    uring_begin(Typed::address(ctx.arg(0)), ctx.arg::<u32>(1));
    0
}

/// The same where there are no trampolines.
#[kprobe(function = "io_openat2")]
pub fn uring_begin_kprobe(ctx: ProbeContext) -> u32 {
    uring_begin(ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0));
    0
}

/// The end of the same function.
#[fexit(function = "io_openat2")]
pub fn uring_end_fexit(ctx: FExitContext) -> i32 {
    uring_end(ctx.arg::<i32>(2));
    0
}

/// The same where there are no trampolines.
#[kretprobe(function = "io_openat2")]
pub fn uring_end_kretprobe(ctx: RetProbeContext) -> u32 {
    uring_end(ctx.ret::<i32>());
    0
}

/// Whether the running task is in a system call that opens files.
#[inline(always)]
fn is_open<M: Mem>(number: u32) -> bool {
    let calls = &CONSTANTS.calls;
    let compat_calls = &CONSTANTS.compat_calls;
    let (mut native, mut compat) = (false, false);
    for at in 0..calls.len() {
        native |= constant(&calls[at]) == number;
        compat |= constant(&compat_calls[at]) == number;
    }
    // SAFETY: an offset of `struct task_struct`.
    (native || compat)
        && if unsafe { M::read::<u32>(M::current(), field!(FIELDS.mode)) } & COMPAT == 0 {
            native
        } else {
            compat
        }
}

#[inline(always)]
fn on_exit<M: Mem>(regs: *const u8, result: i32) {
    // SAFETY: an offset of `struct pt_regs`.
    let number = unsafe { M::read::<u32>(regs, field!(FIELDS.number)) };
    if is_open::<M>(number) {
        let under = if constant(&CONSTANTS.latency) != 0 { end() } else { Under::UNKNOWN };
        let regs = M::address(regs);
        finish(CALLS, result, under.nanos, || Asked::call(regs as *const u8, number));
    }
}

#[inline(always)]
fn uring_begin(request: u64, flags: u32) {
    let mut dfd = 0;
    if is_special() {
        kernel_tell::keep_uring_path(request as *const u8);
        // At the end there may be something else in its place.
        dfd = kernel_tell::uring_dfd(request as *const u8);
    }
    begin([request, u64::from(flags), dfd]);
}

#[inline(always)]
fn uring_end(returned: i32) {
    let under = end();
    if returned == -AGAIN {
        return;
    }
    let [request, flags, dfd] = under.arguments;
    let is_unknown =
        request == 0 || (constant(&CONSTANTS.result_if_deferred) != 0 && flags & COMPLETE_DEFER == 0);
    let mut result = -(UNKNOWN_ERRNO as i32);
    if !is_unknown {
        // SAFETY: an offset of `struct io_kiocb`.
        result = unsafe { Checked::read::<i32>(request as *const u8, field!(FIELDS.request_result)) };
    }
    let nanos = if constant(&CONSTANTS.latency) != 0 { under.nanos } else { 0 };
    finish(URING, result, nanos, || Asked::uring(request as *const u8, dfd));
}

/// Whether opens have to be looked at one by one: there is a filter, or somebody listens.
#[inline(always)]
fn is_special() -> bool {
    constant(&CONSTANTS.prefixes) != 0 || scope::active().is_some() || event::wanted(shared::OPEN_EVENT)
}

/// Counts an open that has ended, and tells of it.
#[inline(always)]
fn finish(table: u32, result: i32, nanos: u64, asked: impl FnOnce() -> Asked) {
    if is_special() {
        let mut asked = asked();
        asked.result = result;
        asked.nanos = nanos;
        asked.table = table;
        if !kernel_tell::examine(&asked) {
            return;
        }
    }
    count(table, result, nanos);
}

/// Id of the running task.
#[inline(always)]
fn task_id() -> u64 {
    bpf_get_current_pid_tgid() & 0xffff_ffff
}
