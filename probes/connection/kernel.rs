// SPDX-License-Identifier: MIT OR GPL-2.0
//! Follows TCP sockets through their states. Nothing here runs when data is sent or received: the counters are the
//! kernel's own, read when a connection ends and, for live ones, when the agent sweeps.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only way to an atomic addition on this target")]

mod kernel_iterators;
mod kernel_socket;
#[expect(dead_code, reason = "what only the collector needs is not used here")]
mod shared;

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC},
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, fexit, kretprobe, map, raw_tracepoint, tracepoint},
    maps::{HashMap, RingBuf},
    programs::{
        BtfTracePointContext, FExitContext, RawTracePointContext, RetProbeContext, TracePointContext,
    },
};
use kernel_socket::{
    Begin, CONSTANTS, CONTROL, FIELDS, LISTENERS, Tracked, add_listener, describe, forget, infer, listen_key,
    local_port, ports, track, tracked,
};
use shared::{
    CLIENT, CLOSED, Conn, IPPROTO_TCP, LISTENER, LISTENERS_OWNER, PREEXISTING, RING_BYTES, Record, SERVER,
    SPILL_ENTRIES, SWEEP_AND_FORGET, UNTRACKED, state,
};
use sidecar_ebpf::{
    current, field, loss,
    mem::{Checked, Mem, Typed},
    record, scope,
    sidecar_common::{loss::Loss, owner::Owner},
};

#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
/// Ended connections that did not fit into the ring, by socket and the moment they ended.
#[map]
static SPILL: HashMap<[u64; 2], Record> = HashMap::with_max_entries(SPILL_ENTRIES, BPF_F_NO_PREALLOC);

/// Kernel: `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, all versions.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_tp_btf(ctx: BtfTracePointContext) -> i32 {
    on_state::<Typed>(ctx.arg(0), ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8);
    0
}

/// The same hook where typed tracepoints are refused.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn state_raw_tp(ctx: RawTracePointContext) -> i32 {
    on_state::<Checked>(ctx.arg(0), ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8);
    0
}

/// The same hook, uninterrupted: for kernels that let other tasks in while the two above run, and meanwhile leave out what
/// those do.
#[tracepoint(name = "inet_sock_set_state", category = "sock")]
pub fn state_tracepoint(ctx: TracePointContext) -> u32 {
    let told = ctx.as_ptr().cast::<u8>().cast_const();
    // SAFETY: offsets of what the tracepoint tells.
    let (sk, old, new) = unsafe {
        (
            Checked::read::<u64>(told, field!(FIELDS.told_sk)),
            Checked::read::<i32>(told, field!(FIELDS.told_old)),
            Checked::read::<i32>(told, field!(FIELDS.told_new)),
        )
    };
    on_state::<Checked>(sk as *const u8, old as u8, new as u8);
    0
}

/// Kernel: `struct sock *inet_csk_accept(sk, flags, err, kern)` up to 6.9, `(sk, arg)` since.
#[fexit(function = "inet_csk_accept")]
pub fn accept_fexit(ctx: FExitContext) -> i32 {
    let context = ctx.as_ptr().cast::<u64>();
    let sk = match CONSTANTS.load().accept_parameters {
        4 => returned_after::<4>(context),
        2 => returned_after::<2>(context),
        _ => return 0,
    };
    on_accept::<Typed>(sk);
    0
}

/// What the traced function returned, which lies behind its arguments. Never inlined: merged into one load at one of two
/// addresses it would no longer be a context access to the verifier.
#[inline(never)]
fn returned_after<const PARAMETERS: usize>(context: *const u64) -> u64 {
    // SAFETY: the context of a function with that many parameters.
    unsafe { core::ptr::read_volatile(context.add(PARAMETERS)) }
}

/// The same hook where trampolines are refused.
#[kretprobe(function = "inet_csk_accept")]
pub fn accept_kretprobe(ctx: RetProbeContext) -> u32 {
    on_accept::<Checked>(ctx.ret::<u64>());
    0
}

/// Its handlers are functions of their own where they build something on the stack: together they would need more than
/// the 512 bytes a program has.
#[inline(always)]
fn on_state<M: Mem>(sk: *const u8, old: u8, new: u8) {
    /// Changes to these states mean something to us. Before anything is read: the others are a third of all.
    const OURS: u32 = 1 << state::SYN_SENT | 1 << state::ESTABLISHED | 1 << state::LISTEN | 1 << state::CLOSE;
    if new == state::FIN_WAIT1 || new == state::LAST_ACK {
        return on_own_fin::<M>(sk);
    }
    // SAFETY: offsets of `struct sock`.
    if OURS >> (new & 31) & 1 == 0 || unsafe { M::read::<u16>(sk, field!(FIELDS.protocol)) } != IPPROTO_TCP {
        return;
    }
    match (old, new) {
        (_, state::SYN_SENT) => on_connect::<M>(sk),
        (state::SYN_SENT, state::ESTABLISHED) => on_connected::<M>(sk),
        (state::SYN_RECV, state::ESTABLISHED) => on_passive::<M>(sk),
        (_, state::LISTEN) => on_listen::<M>(sk),
        (_, state::CLOSE) => on_close::<M>(sk, old),
        _ => {}
    }
}

/// `connect()`: runs in the caller's context, before the first SYN leaves.
#[inline(never)]
fn on_connect<M: Mem>(sk: *const u8) {
    let owner = current::owner();
    if let Some(scope) = scope::active() {
        // SAFETY: offsets of `struct sock`.
        let dport = u16::from_be(unsafe { M::read::<u16>(sk, field!(FIELDS.dport)) });
        if !scope::passes_port(scope, dport) || !scope::passes_task(current::task(), &owner) {
            return;
        }
    }
    track::<M>(sk, &Begin::new(owner, CLIENT), true);
}

/// The peer answered our SYN.
#[inline(always)]
fn on_connected<M: Mem>(sk: *const u8) {
    let Some(conn) = tracked::<M>(sk) else { return };
    // SAFETY: a live map value; only this socket's state changes write these members, and they do not overlap.
    unsafe {
        let now = bpf_ktime_get_ns();
        (*conn).established = now;
        if (*conn).flags & PREEXISTING == 0 {
            (*conn).handshake = now - (*conn).born;
        }
        (*conn).ports = ports::<M>(sk, M::tcp_sock(sk));
    }
}

/// A client's handshake is complete and the new socket waits to be accepted. Softirq: nobody's context.
#[inline(never)]
fn on_passive<M: Mem>(sk: *const u8) {
    let tcp = M::tcp_sock(sk);
    if tcp.is_null() {
        return;
    }
    // Whose it is stays open until it is accepted: nearly always soon, and then nobody asks for the listener's owner.
    if let Some(scope) = scope::active() {
        let key = listen_key::<M>(sk, tcp);
        // A listener is only known if its owner passes.
        if LISTENERS.get_ptr(key).is_none() || !scope::passes_port(scope, key.port as u16) {
            if is_connecting::<M>(sk) {
                on_connected::<M>(sk);
            }
            return;
        }
    }
    // SAFETY: offsets of `struct tcp_sock`. The only sample so far is the time from SYN-ACK to ACK.
    let handshake = unsafe {
        if M::read::<u32>(tcp, field!(FIELDS.total_retrans)) == 0 {
            u64::from(M::read::<u32>(tcp, field!(FIELDS.srtt_us))) * 1000 / 8
        } else {
            0
        }
    };
    let begin = Begin {
        owner: Owner::UNKNOWN,
        flags: SERVER | LISTENERS_OWNER,
        established: true,
        handshake,
        ports: ports::<M>(sk, tcp),
        base: None,
    };
    if track::<M>(sk, &begin, false) == Tracked::Already {
        // Both sides connected at once and ours is known already; or what is known is a leftover of another socket.
        if is_connecting::<M>(sk) {
            on_connected::<M>(sk);
        } else {
            track::<M>(sk, &begin, true);
        }
    }
}

/// Whether our own SYN is out on this socket.
#[inline(always)]
fn is_connecting<M: Mem>(sk: *const u8) -> bool {
    // SAFETY: a live map value.
    tracked::<M>(sk).is_some_and(|known| unsafe { (*known).flags & CLIENT != 0 && (*known).established == 0 })
}

/// `listen()`: runs in the caller's context.
#[inline(never)]
fn on_listen<M: Mem>(sk: *const u8) {
    let owner = current::owner();
    let port = local_port::<M>(sk);
    if let Some(scope) = scope::active()
        && !(scope::passes_port(scope, port) && scope::passes_task(current::task(), &owner))
    {
        return;
    }
    add_listener::<M>(sk, port, &Begin::new(owner, LISTENER));
}

#[inline(always)]
fn on_close<M: Mem>(sk: *const u8, old: u8) {
    // A handshake the kernel gave up on its own was never ours to tell of.
    if old == state::CLOSE || old == state::SYN_RECV && tracked::<M>(sk).is_none() {
        return;
    }
    let tcp = M::tcp_sock(sk);
    if tcp.is_null() {
        return;
    }
    match old {
        state::LISTEN => remove_listener::<M>(sk, tcp),
        // Without a FIN of ours: reset by the owner, in its context, if there is no error.
        // SAFETY: offsets of `struct sock`.
        state::ESTABLISHED | state::CLOSE_WAIT
            if unsafe { M::read::<i32>(sk, field!(FIELDS.error)) } == 0 =>
        {
            on_own_fin::<M>(sk);
        }
        _ => {}
    }
    finish::<M>(sk, tcp, old);
}

/// One listener of a port less. The port is no longer in `skc_num` by now, but still in `inet_sport`.
#[inline(always)]
fn remove_listener<M: Mem>(sk: *const u8, tcp: *const u8) {
    if tracked::<M>(sk).is_none() {
        return;
    }
    let key = listen_key::<M>(sk, tcp);
    if let Some(listener) = LISTENERS.get_ptr_mut(key) {
        // SAFETY: a live map value. The sum is read apart from the addition: of two listeners of one port that close at
        // the same instant both may see none left, and only one of them finds something to remove.
        let left = unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*listener).sockets, u64::MAX);
            (&raw const (*listener).sockets).read_volatile()
        };
        if left == 0 || left > u64::from(u32::MAX) {
            let _ = LISTENERS.remove(key);
        }
    }
}

/// Our side sends its FIN: close() or shutdown() in the owner's context.
#[inline(always)]
fn on_own_fin<M: Mem>(sk: *const u8) {
    if CONTROL.get(0).is_some_and(|control| control.owner_at_close != 0) {
        take_over::<M>(sk);
    }
}

#[inline(always)]
fn take_over<M: Mem>(sk: *const u8) {
    if let Some(conn) = tracked::<M>(sk) {
        // SAFETY: a live map value of a socket its owner holds locked.
        unsafe {
            if (*conn).flags & LISTENERS_OWNER != 0 {
                current::describe(&mut (*conn).owner);
                (*conn).flags &= !LISTENERS_OWNER;
            }
        }
    }
}

/// `accept()`: the process that takes the connection owns it from here on.
#[inline(always)]
fn on_accept<M: Mem>(sk: u64) {
    let sk = sk as *const u8;
    if sk.is_null() {
        return;
    }
    match (tracked::<M>(sk), scope::active()) {
        (Some(conn), None) => {
            // SAFETY: a live map value; the socket is ours alone until accept() returns.
            unsafe {
                current::describe(&mut (*conn).owner);
                (*conn).flags &= !LISTENERS_OWNER;
            }
        }
        (None, None) => {}
        (known, Some(scope)) => {
            accepted_under_filter::<M>(sk, known, scope::passes_port(scope, local_port::<Checked>(sk)))
        }
    }
}

/// Under a filter it is the accepting process that counts, whoever listens.
#[inline(always)]
fn accepted_under_filter<M: Mem>(sk: *const u8, known: Option<*mut Conn>, passes_port: bool) {
    let owner = current::owner();
    match (known, scope::passes_task(current::task(), &owner)) {
        (Some(conn), true) => {
            // SAFETY: a live map value; the socket is ours alone until accept() returns.
            unsafe {
                (*conn).owner = owner;
                (*conn).flags &= !LISTENERS_OWNER;
            }
        }
        (Some(conn), false) => forget(sk, conn),
        (None, true) if passes_port => {
            let ports = ports::<Checked>(sk, sk);
            let begin = Begin { established: true, ports, ..Begin::new(owner, SERVER) };
            track::<M>(sk, &begin, false);
        }
        _ => {}
    }
}

/// The socket is going: hands over what it has done and forgets it.
#[inline(always)]
fn finish<M: Mem>(sk: *const u8, tcp: *const u8, old: u8) {
    let Some(conn) = tracked::<M>(sk) else {
        return finish_untracked::<M>(sk, tcp, old);
    };
    let Some(mut entry) = RECORDS.reserve::<Record>(0) else {
        return finish_aside::<M>(sk, tcp, old);
    };
    // SAFETY: a live map value, copied whole.
    let now = unsafe { describe::<M>(sk, tcp, entry.as_mut_ptr(), &*conn, CLOSED, old) };
    // Forgotten before the record is out: whoever has read the record will not meet the connection in a sweep.
    forget(sk, conn);
    entry.submit(record::seldom_wakeup(&RECORDS, RING_BYTES, now));
}

/// The ring is full: the record waits in a map until the agent's next tick.
#[inline(never)]
fn finish_aside<M: Mem>(sk: *const u8, tcp: *const u8, old: u8) {
    if let Some(conn) = tracked::<M>(sk) {
        let mut aside = MaybeUninit::<Record>::uninit();
        // SAFETY: `describe` writes every byte; a live map value, copied whole.
        let aside = unsafe {
            describe::<M>(sk, tcp, aside.as_mut_ptr(), &*conn, CLOSED, old);
            aside.assume_init_ref()
        };
        let kept = SPILL.insert([sk as u64, aside.now], aside, u64::from(BPF_ANY)).is_ok();
        if kept {
            forget(sk, conn);
        }
        // Otherwise the entry stays, and the next sweep finds that its socket is gone.
        loss::count(if kept { Loss::Spilled } else { Loss::Record });
    }
}

/// There was no room to remember this one. Its totals are still right: the kernel has kept them.
#[inline(never)]
fn finish_untracked<M: Mem>(sk: *const u8, tcp: *const u8, old: u8) {
    let reported = CONTROL.get(0).is_some_and(|control| control.report_untracked != 0);
    if CONTROL.get(0).is_some_and(|control| control.scan == SWEEP_AND_FORGET) {
        // It ends in the very moment in which the filter changes.
        loss::count(Loss::Untracked);
    }
    if !reported || old == state::LISTEN || old == state::SYN_RECV || scope::active().is_some() {
        return;
    }
    loss::count(Loss::Untracked);
    let (owner, role) = if old == state::SYN_SENT { (Owner::UNKNOWN, CLIENT) } else { infer::<M>(sk, tcp) };
    let Some(mut entry) = RECORDS.reserve::<Record>(0) else {
        return loss::count(Loss::Record);
    };
    let mut conn = MaybeUninit::<Conn>::uninit();
    // SAFETY: together they leave no byte unwritten.
    let now = unsafe {
        Begin::new(owner, UNTRACKED | role).write(M::address(sk), conn.as_mut_ptr());
        (*conn.as_mut_ptr()).claims = 0;
        describe::<M>(sk, tcp, entry.as_mut_ptr(), conn.assume_init_ref(), CLOSED, old)
    };
    entry.submit(record::seldom_wakeup(&RECORDS, RING_BYTES, now));
}
