// SPDX-License-Identifier: MIT OR GPL-2.0
//! Counts programs that are started, starts that fail, and processes that end. Runs at these three moments and at no
//! other: system calls other than execve and execveat do not meet it.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only way to an atomic addition on this target")]

mod kernel_tell;
mod shared;

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
};

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, fexit, kretprobe, map, raw_tracepoint, tracepoint},
    maps::{HashMap, PerCpuArray},
    programs::{
        BtfTracePointContext, FExitContext, RawTracePointContext, RetProbeContext, TracePointContext,
    },
};
use shared::{
    BY_CGROUP, BY_COMM, BY_PID, Constants, ENDED_ENTRIES, EXEC, EXEC_EVENT, EXIT, EXIT_EVENT, FAILED,
    FAILED_ENTRIES, Fields, GROUP_EXIT, KERNEL_THREAD, LIFETIME_SUM, OVERFLOW, RESTART, SLOTS,
};
use sidecar_ebpf::{
    current, event, field, loss,
    mem::{Checked, Mem, Typed},
    per_cpu, scope,
    sidecar_common::{loss::Loss, owner::Owner},
};

#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::UNRESOLVED;
#[unsafe(no_mangle)]
static CONSTANTS: Global<Constants> =
    Global::new(Constants { labels: 0, tells_last: 0, registers: 0, execve: 0, execveat: 0 });

/// Execs and exits by process (only what is a label of it) and, in `reserved`, by what happened.
#[map]
static COUNTS: HashMap<Owner, u64> = HashMap::with_max_entries(2048, BPF_F_NO_PREALLOC);
/// The same for failed execs. Made whole at once: the hooks of last resort may not let a map grow before Linux 6.1.
#[map]
static FAILED_COUNTS: HashMap<Owner, u64> = HashMap::with_max_entries(FAILED_ENTRIES, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(SLOTS, 0);
/// Processes with several threads that have just ended, by process id and when they began: when that was. User space
/// forgets them a little later. (Not an LRU map: small ones make room before they look whether the key is there.)
#[map]
static ENDED: HashMap<[u64; 2], u64> = HashMap::with_max_entries(ENDED_ENTRIES, BPF_F_NO_PREALLOC);

/// Kernel: `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, all versions. Runs in the process
/// that has become the new program, its own memory, name and arguments in place.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn exec_tp_btf(ctx: BtfTracePointContext) -> i32 {
    on_exec::<Typed>(ctx.arg(0), ctx.arg(2));
    0
}

/// The same hook where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn exec_raw_tp(ctx: RawTracePointContext) -> i32 {
    on_exec::<Checked>(ctx.arg(0), ctx.arg(2));
    0
}

/// Kernel: `TP_PROTO(struct task_struct *p)`, since 6.16 `(p, bool group_dead)`. Runs in each thread that ends.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn exit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    if CONSTANTS.load().tells_last != 0 && ctx.arg::<u64>(1) as u8 == 0 {
        return 0;
    }
    on_exit::<Typed>(ctx.arg(0));
    0
}

/// The same hook where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn exit_raw_tp(ctx: RawTracePointContext) -> i32 {
    if CONSTANTS.load().tells_last != 0 && ctx.arg::<u64>(1) as u8 == 0 {
        return 0;
    }
    on_exit::<Checked>(ctx.arg(0));
    0
}

/// Kernel: `long __x64_sys_execve(const struct pt_regs *)` and its like on other architectures: one parameter.
#[fexit(function = "__x64_sys_execve")]
pub fn failed_fexit(ctx: FExitContext) -> i32 {
    on_result(ctx.arg::<i64>(1), 1);
    0
}

/// The same for execveat.
#[fexit(function = "__x64_sys_execveat")]
pub fn failed_at_fexit(ctx: FExitContext) -> i32 {
    on_result(ctx.arg::<i64>(1), 2);
    0
}

/// The same for execve of 32-bit programs.
#[fexit(function = "__ia32_compat_sys_execve")]
pub fn failed_compat_fexit(ctx: FExitContext) -> i32 {
    on_result(ctx.arg::<i64>(1), 3);
    0
}

/// Where trampolines are refused.
#[kretprobe(function = "__x64_sys_execve")]
pub fn failed_kretprobe(ctx: RetProbeContext) -> u32 {
    on_result(ctx.ret::<i64>(), 1);
    0
}

/// The same for execveat.
#[kretprobe(function = "__x64_sys_execveat")]
pub fn failed_at_kretprobe(ctx: RetProbeContext) -> u32 {
    on_result(ctx.ret::<i64>(), 2);
    0
}

/// The same for execve of 32-bit programs.
#[kretprobe(function = "__ia32_compat_sys_execve")]
pub fn failed_compat_kretprobe(ctx: RetProbeContext) -> u32 {
    on_result(ctx.ret::<i64>(), 3);
    0
}

/// Where neither works. The kernel then takes the slow way through every system call of the machine.
#[tracepoint(category = "syscalls", name = "sys_exit_execve")]
pub fn failed_tracepoint(ctx: TracePointContext) -> u32 {
    on_result(returned(&ctx), 1);
    0
}

/// The same for execveat.
#[tracepoint(category = "syscalls", name = "sys_exit_execveat")]
pub fn failed_at_tracepoint(ctx: TracePointContext) -> u32 {
    on_result(returned(&ctx), 2);
    0
}

/// `long ret` of `struct syscall_trace_exit`, behind the common fields and the call's number.
#[inline(always)]
fn returned(ctx: &TracePointContext) -> i64 {
    // SAFETY: within the context of this tracepoint.
    unsafe { ctx.read_at::<i64>(16) }.unwrap_or(0)
}

/// The running process, if the user wants to see it.
#[inline(always)]
fn wanted_owner(owner: &mut MaybeUninit<Owner>) -> Option<&mut Owner> {
    // SAFETY: `describe` writes every byte and reads none.
    let owner = unsafe {
        current::describe(&mut *owner.as_mut_ptr());
        owner.assume_init_mut()
    };
    (scope::active().is_none() || scope::passes_task(current::task(), owner)).then_some(owner)
}

#[inline(always)]
fn on_exec<M: Mem>(task: *const u8, bprm: *const u8) {
    let mut owner = MaybeUninit::uninit();
    let Some(owner) = wanted_owner(&mut owner) else { return };
    if event::wanted(EXEC_EVENT) {
        kernel_tell::exec::<M>(task, bprm, owner);
    }
    count(&COUNTS, owner, EXEC, 0);
}

/// `place` tells apart the programs that may interrupt each other.
#[inline(always)]
fn on_result(result: i64, place: u32) {
    let result = result as i32;
    if result >= 0 || result <= -RESTART {
        return;
    }
    failed(result, place);
}

#[inline(never)]
fn failed(result: i32, place: u32) {
    let mut owner = MaybeUninit::uninit();
    let Some(owner) = wanted_owner(&mut owner) else { return };
    if event::wanted(EXEC_EVENT) {
        kernel_tell::failed(result, place, owner);
    }
    count(&FAILED_COUNTS, owner, FAILED, result.wrapping_neg() as u32);
}

#[inline(always)]
fn on_exit<M: Mem>(task: *const u8) {
    // SAFETY: offsets of `struct task_struct` and `struct signal_struct`.
    unsafe {
        if M::read::<u32>(task, field!(FIELDS.task_flags)) & KERNEL_THREAD != 0 {
            return;
        }
        let signal = M::read::<u64>(task, field!(FIELDS.signal)) as *const u8;
        let leader = M::read::<u64>(task, field!(FIELDS.group_leader)) as *const u8;
        let began = M::read::<u64>(leader, field!(FIELDS.start_time));
        if CONSTANTS.load().tells_last == 0 && !is_last::<M>(signal, began) {
            return;
        }
        let flags = M::read::<u32>(signal, field!(FIELDS.signal_flags));
        let status = if flags & GROUP_EXIT != 0 {
            M::read::<u32>(signal, field!(FIELDS.group_exit_code))
        } else {
            M::read::<u32>(leader, field!(FIELDS.exit_code))
        };
        let pages = M::read::<u64>(signal, field!(FIELDS.maxrss));
        ended(status, bpf_ktime_get_ns().wrapping_sub(began), pages);
    }
}

/// Whether the process ends with this thread. Threads that end at the same moment may all find none left alive: the first
/// of them then stands for the process.
#[inline(always)]
fn is_last<M: Mem>(signal: *const u8, began: u64) -> bool {
    // SAFETY: offsets of `struct signal_struct`.
    unsafe {
        if M::read::<u32>(signal, field!(FIELDS.live)) != 0 {
            return false;
        }
        let id = bpf_get_current_pid_tgid();
        let key = [id >> 32, began];
        let is_known = ENDED.get_ptr(key).is_some();
        if M::read::<u32>(signal, field!(FIELDS.nr_threads)) <= 1 {
            // All others are gone altogether: nobody will ask again.
            if is_known {
                let _ = ENDED.remove(key);
            }
            return !is_known;
        }
        !is_known && is_first(&key, id)
    }
}

/// Whether nobody has stood for this process yet.
#[inline(always)]
fn is_first(key: &[u64; 2], id: u64) -> bool {
    const EXISTS: i32 = -17;
    // SAFETY: no arguments, always succeeds.
    match ENDED.insert(key, unsafe { bpf_ktime_get_ns() }, u64::from(BPF_NOEXIST)) {
        Ok(()) => true,
        Err(EXISTS) => false,
        Err(_) => {
            // Of the threads that cannot be told apart the main one; it may be another that ends last.
            loss::count(Loss::MapFull);
            id >> 32 == id & 0xffff_ffff
        }
    }
}

#[inline(never)]
fn ended(status: u32, lifetime: u64, pages: u64) {
    let mut owner = MaybeUninit::uninit();
    let Some(owner) = wanted_owner(&mut owner) else { return };
    if event::wanted(EXIT_EVENT) {
        kernel_tell::exit(status, lifetime, pages, owner);
    }
    per_cpu::add(&COUNTERS, shared::bucket(lifetime), 1);
    per_cpu::add(&COUNTERS, LIFETIME_SUM, lifetime);
    count(&COUNTS, owner, EXIT, shared::ending(status));
}

/// Counts, with of the process only what is a label.
#[inline(always)]
fn count(counts: &HashMap<Owner, u64>, owner: &mut Owner, kind: u32, how: u32) {
    let labels = CONSTANTS.load().labels;
    let key = core::ptr::from_mut(owner);
    // SAFETY: a valid reference; word by word, because the compiler would clear the name byte by byte.
    unsafe {
        if labels & BY_COMM == 0 {
            let comm = (&raw mut (*key).comm).cast::<u64>();
            comm.write_volatile(0);
            comm.add(1).write_volatile(0);
        }
        if labels & BY_PID == 0 {
            (&raw mut (*key).pid).write_volatile(0);
        }
        if labels & BY_CGROUP == 0 {
            (&raw mut (*key).cgroup).write_volatile(0);
        }
        (&raw mut (*key).reserved).write_volatile(shared::what(kind, how));
    }
    let key: &Owner = owner;
    let counter = counts.get_ptr_mut(key).or_else(|| {
        // Another CPU may be first.
        let _ = counts.insert(key, 0, u64::from(BPF_NOEXIST));
        counts.get_ptr_mut(key)
    });
    match counter {
        // SAFETY: a live map value; user space removes only what has not moved for an hour.
        Some(counter) => unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1);
        },
        None => per_cpu::add(&COUNTERS, OVERFLOW + kind, 1),
    }
}
