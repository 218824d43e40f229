// SPDX-License-Identifier: MIT OR GPL-2.0
//! Follows TCP sockets through their states. Nothing here runs when data is sent or received: the counters are the
//! kernel's own, read when a connection ends and, for live ones, when the agent sweeps.
#![no_std]
#![no_main]

#[expect(dead_code, reason = "what only the collector needs is not used here")]
mod shared;

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    cty::c_void,
    helpers::{bpf_ktime_get_ns, generated::bpf_seq_write},
    macros::{btf_tracepoint, fexit, kretprobe, map, raw_tracepoint},
    maps::{Array, HashMap, RingBuf},
    programs::{BtfTracePointContext, FExitContext, RawTracePointContext, RetProbeContext},
};
use shared::{
    AF_INET, AF_INET6, CLIENT, CLOSED, Conn, Constants, Control, Counters, Fields, GONE, IPPROTO_TCP,
    LISTENER, LISTENERS_ENTRIES, LISTENERS_OWNER, LIVE, ListenKey, Listener, PREEXISTING, RING_BYTES, Record,
    SCAN_CONNECTIONS, SCAN_LISTENERS, SCAN_OWNERS, SERVER, SOCK_DONE, SPILL_ENTRIES, UNTRACKED, state,
};
use sidecar_ebpf::{
    current, field, loss,
    mem::{Checked, Mem, Typed},
    record, scope,
    sidecar_common::{loss::Loss, owner::Owner},
};

/// `S_IFMT`.
const FILE_TYPE: u16 = 0o170_000;
/// `S_IFSOCK`.
const SOCKET: u16 = 0o140_000;

#[unsafe(no_mangle)]
static FIELDS: Fields = Fields::UNRESOLVED;
#[unsafe(no_mangle)]
static CONSTANTS: Global<Constants> = Global::new(Constants { accept_parameters: 0 });

/// Live sockets by address. Grows as needed, so that a quiet machine does not pay for a busy one.
#[map]
static SOCKETS: HashMap<u64, Conn> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static LISTENERS: HashMap<ListenKey, Listener> =
    HashMap::with_max_entries(LISTENERS_ENTRIES, BPF_F_NO_PREALLOC);
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
/// Ended connections that did not fit into the ring, by socket and the moment they ended.
#[map]
static SPILL: HashMap<[u64; 2], Record> = HashMap::with_max_entries(SPILL_ENTRIES, BPF_F_NO_PREALLOC);
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

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

/// Kernel: `struct sock *inet_csk_accept(sk, flags, err, kern)` up to 6.9, `(sk, arg)` since.
#[fexit(function = "inet_csk_accept")]
pub fn accept_fexit(ctx: FExitContext) -> i32 {
    let context = ctx.as_ptr().cast::<u64>();
    let sk = match CONSTANTS.load().accept_parameters {
        4 => returned_after::<4>(context),
        2 => returned_after::<2>(context),
        _ => return 0,
    };
    on_accept(sk);
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
    on_accept(ctx.ret::<u64>());
    0
}

#[inline(always)]
fn on_state<M: Mem>(sk: *const u8, old: u8, new: u8) {
    // SAFETY: offsets of `struct sock`.
    if unsafe { M::read::<u16>(sk, field!(FIELDS.protocol)) } != IPPROTO_TCP {
        return;
    }
    match (old, new) {
        (_, state::SYN_SENT) => on_connect::<M>(sk),
        (state::SYN_SENT, state::ESTABLISHED) => on_connected::<M>(sk),
        (state::SYN_RECV, state::ESTABLISHED) => on_passive::<M>(sk),
        (_, state::LISTEN) => on_listen::<M>(sk),
        (_, state::CLOSE) => on_close::<M>(sk, old),
        (_, state::FIN_WAIT1 | state::LAST_ACK) => on_own_fin(sk),
        _ => {}
    }
}

/// `connect()`: runs in the caller's context, before the first SYN leaves.
#[inline(always)]
fn on_connect<M: Mem>(sk: *const u8) {
    let owner = current::owner();
    if let Some(scope) = scope::active() {
        // SAFETY: offsets of `struct sock`.
        let dport = u16::from_be(unsafe { M::read::<u16>(sk, field!(FIELDS.dport)) });
        if !scope::passes_port(scope, dport) || !scope::passes_task(current::task(), &owner) {
            return;
        }
    }
    track(sk, &Conn { flags: CLIENT, ..fresh(owner) }, BPF_ANY);
}

/// The peer answered our SYN.
#[inline(always)]
fn on_connected<M: Mem>(sk: *const u8) {
    let Some(conn) = SOCKETS.get_ptr_mut(sk as u64) else { return };
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
#[inline(always)]
fn on_passive<M: Mem>(sk: *const u8) {
    let tcp = M::tcp_sock(sk);
    if tcp.is_null() {
        return;
    }
    let key = listen_key::<M>(sk, tcp);
    let port = key.port as u16;
    // SAFETY: copied at once.
    let listener = unsafe { LISTENERS.get(key) };
    let owner = match (listener, scope::active()) {
        (Some(listener), None) => listener.owner,
        (None, None) => Owner::UNKNOWN,
        // A listener is only known if its owner passes.
        (Some(listener), Some(scope)) if scope::passes_port(scope, port) => listener.owner,
        _ => return,
    };
    let fresh = fresh(owner);
    // SAFETY: offsets of `struct tcp_sock`. The only sample so far is the time from SYN-ACK to ACK.
    let handshake = unsafe {
        if M::read::<u32>(tcp, field!(FIELDS.total_retrans)) == 0 {
            u64::from(M::read::<u32>(tcp, field!(FIELDS.srtt_us))) * 1000 / 8
        } else {
            0
        }
    };
    let conn = Conn {
        flags: SERVER | LISTENERS_OWNER,
        established: fresh.born,
        handshake,
        ports: ports::<M>(sk, tcp),
        ..fresh
    };
    if track(sk, &conn, BPF_NOEXIST) == Tracked::Already {
        // Both sides connected at once and ours is known already; or what is known is a leftover of another socket.
        let connecting = SOCKETS.get_ptr(sk as u64).is_some_and(|known| {
            // SAFETY: a live map value.
            unsafe { (*known).flags & CLIENT != 0 && (*known).established == 0 }
        });
        if connecting {
            on_connected::<M>(sk);
        } else {
            track(sk, &conn, BPF_ANY);
        }
    }
}

/// listen(): runs in the caller's context.
#[inline(always)]
fn on_listen<M: Mem>(sk: *const u8) {
    let owner = current::owner();
    let port = local_port::<M>(sk);
    if let Some(scope) = scope::active()
        && !(scope::passes_port(scope, port) && scope::passes_task(current::task(), &owner))
    {
        return;
    }
    add_listener::<M>(sk, port, fresh(owner));
}

#[inline(always)]
fn on_close<M: Mem>(sk: *const u8, old: u8) {
    // A handshake the kernel gave up on its own was never ours to tell of.
    if old == state::CLOSE || old == state::SYN_RECV && SOCKETS.get_ptr(sk as u64).is_none() {
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
            on_own_fin(sk);
        }
        _ => {}
    }
    finish::<M>(sk, tcp, old);
}

/// One listener of a port less. The port is no longer in `skc_num` by now, but still in `inet_sport`.
#[inline(always)]
fn remove_listener<M: Mem>(sk: *const u8, tcp: *const u8) {
    if SOCKETS.get_ptr(sk as u64).is_none() {
        return;
    }
    let key = listen_key::<M>(sk, tcp);
    if let Some(listener) = LISTENERS.get_ptr_mut(key) {
        // SAFETY: a live map value; two listeners of one port closing at the same instant could leave the count one
        // too high, which only keeps an owner that nobody asks for.
        let left = unsafe {
            (*listener).sockets = (*listener).sockets.saturating_sub(1);
            (*listener).sockets
        };
        if left == 0 {
            let _ = LISTENERS.remove(key);
        }
    }
}

/// Where a socket's local port is looked up.
#[inline(always)]
fn listen_key<M: Mem>(sk: *const u8, tcp: *const u8) -> ListenKey {
    // SAFETY: offsets of `struct sock` and `struct inet_sock`.
    unsafe {
        ListenKey {
            net: M::read::<u64>(sk, field!(FIELDS.net)),
            port: u32::from(u16::from_be(M::read::<u16>(tcp, field!(FIELDS.sport)))),
            reserved: 0,
        }
    }
}

/// Our side sends its FIN: close() or shutdown() in the owner's context.
#[inline(always)]
fn on_own_fin(sk: *const u8) {
    if CONTROL.get(0).is_some_and(|control| control.owner_at_close != 0) {
        take_over(sk as u64);
    }
}

#[inline(always)]
fn take_over(sk: u64) {
    if let Some(conn) = SOCKETS.get_ptr_mut(sk) {
        // SAFETY: a live map value of a socket its owner holds locked.
        unsafe {
            if (*conn).flags & LISTENERS_OWNER != 0 {
                (*conn).owner = current::owner();
                (*conn).flags &= !LISTENERS_OWNER;
            }
        }
    }
}

/// accept(): the process that takes the connection owns it from here on.
#[inline(always)]
fn on_accept(sk: u64) {
    if sk == 0 {
        return;
    }
    let owner = current::owner();
    let passes = scope::active().is_none() || scope::passes_task(current::task(), &owner);
    match (SOCKETS.get_ptr_mut(sk), passes) {
        (Some(conn), true) => {
            // SAFETY: a live map value; the socket is ours alone until accept() returns.
            unsafe {
                (*conn).owner = owner;
                (*conn).flags &= !LISTENERS_OWNER;
            }
        }
        (Some(_), false) => {
            let _ = SOCKETS.remove(sk);
        }
        (None, true) if scope::active().is_some() => {
            let sk = sk as *const u8;
            if scope::active().is_some_and(|scope| scope::passes_port(scope, local_port::<Checked>(sk))) {
                let fresh = fresh(owner);
                let ports = ports::<Checked>(sk, sk);
                track(sk, &Conn { flags: SERVER, established: fresh.born, ports, ..fresh }, BPF_NOEXIST);
            }
        }
        _ => {}
    }
}

/// An entry for something that begins now.
#[inline(always)]
fn fresh(owner: Owner) -> Conn {
    Conn {
        owner,
        // SAFETY: no arguments, always succeeds.
        born: unsafe { bpf_ktime_get_ns() },
        established: 0,
        handshake: 0,
        base: Counters { sent: 0, received: 0, segs_out: 0, segs_in: 0, retransmits: 0, drops: 0 },
        ports: 0,
        flags: 0,
        seen: 0,
        reserved: 0,
    }
}

/// What became of a socket to be tracked.
#[derive(PartialEq)]
enum Tracked {
    Now,
    Already,
    NoRoom,
}

#[inline(always)]
fn track(sk: *const u8, conn: &Conn, mode: u32) -> Tracked {
    /// `-EEXIST`
    const EXISTS: i32 = -17;
    match SOCKETS.insert(sk as u64, conn, u64::from(mode)) {
        Ok(()) => Tracked::Now,
        Err(EXISTS) => Tracked::Already,
        Err(_) => {
            loss::count(Loss::MapFull);
            Tracked::NoRoom
        }
    }
}

#[inline(always)]
fn add_listener<M: Mem>(sk: *const u8, port: u16, conn: Conn) {
    if track(sk, &Conn { flags: LISTENER | conn.flags, ..conn }, BPF_NOEXIST) != Tracked::Now {
        return;
    }
    // SAFETY: offsets of `struct sock`.
    let key = ListenKey {
        net: unsafe { M::read::<u64>(sk, field!(FIELDS.net)) },
        port: u32::from(port),
        reserved: 0,
    };
    let sockets = LISTENERS.get_ptr(key).map_or(0, |known| {
        // SAFETY: a live map value.
        unsafe { (*known).sockets }
    });
    if LISTENERS
        .insert(key, Listener { owner: conn.owner, sockets: sockets + 1 }, u64::from(BPF_ANY))
        .is_err()
    {
        loss::count(Loss::MapFull);
    }
}

/// The socket is going: hands over what it has done and forgets it.
#[inline(always)]
fn finish<M: Mem>(sk: *const u8, tcp: *const u8, old: u8) {
    let Some(conn) = SOCKETS.get_ptr(sk as u64) else {
        return finish_untracked::<M>(sk, tcp, old);
    };
    let Some(mut entry) = RECORDS.reserve::<Record>(0) else {
        return finish_aside::<M>(sk, tcp, old);
    };
    // SAFETY: a live map value, copied whole.
    unsafe { describe::<M>(sk, tcp, entry.as_mut_ptr(), &*conn, CLOSED, old) };
    // Forgotten before the record is out: whoever has read the record will not meet the connection in a sweep.
    let _ = SOCKETS.remove(sk as u64);
    entry.submit(record::wakeup(&RECORDS, RING_BYTES));
}

/// The ring is full: the record waits in a map until the agent's next tick.
#[inline(never)]
fn finish_aside<M: Mem>(sk: *const u8, tcp: *const u8, old: u8) {
    if let Some(conn) = SOCKETS.get_ptr(sk as u64) {
        let mut aside = MaybeUninit::<Record>::uninit();
        // SAFETY: `describe` writes every byte; a live map value, copied whole.
        let aside = unsafe {
            describe::<M>(sk, tcp, aside.as_mut_ptr(), &*conn, CLOSED, old);
            aside.assume_init_ref()
        };
        let _ = SOCKETS.remove(sk as u64);
        let kept = SPILL.insert([sk as u64, aside.now], aside, u64::from(BPF_ANY)).is_ok();
        loss::count(if kept { Loss::Spilled } else { Loss::Record });
    }
}

/// There was no room to remember this one. Its totals are still right: the kernel has kept them.
#[inline(never)]
fn finish_untracked<M: Mem>(sk: *const u8, tcp: *const u8, old: u8) {
    let reported = CONTROL.get(0).is_some_and(|control| control.report_untracked != 0);
    if !reported || old == state::LISTEN || old == state::SYN_RECV || scope::active().is_some() {
        return;
    }
    loss::count(Loss::Untracked);
    let (owner, role) = if old == state::SYN_SENT { (Owner::UNKNOWN, CLIENT) } else { infer::<M>(sk, tcp) };
    let Some(mut entry) = RECORDS.reserve::<Record>(0) else {
        return loss::count(Loss::Record);
    };
    let conn = Conn { flags: UNTRACKED | role, ..fresh(owner) };
    // SAFETY: `describe` writes every byte of the entry.
    unsafe { describe::<M>(sk, tcp, entry.as_mut_ptr(), &conn, CLOSED, old) };
    entry.submit(record::wakeup(&RECORDS, RING_BYTES));
}

/// Which side a connection is that was there before us, or that there was no room for: the server if somebody listens on
/// its local port, or did. Kernel: `sk_clone_lock()` copies the listener's backlog into every socket it accepts, and
/// nothing else sets it but listen().
#[inline(always)]
fn infer<M: Mem>(sk: *const u8, tcp: *const u8) -> (Owner, u32) {
    let key = listen_key::<M>(sk, tcp);
    // SAFETY: copied at once; offsets of `struct sock`.
    unsafe {
        match LISTENERS.get(key) {
            Some(listener) => (listener.owner, SERVER),
            None if M::read::<u32>(sk, field!(FIELDS.max_ack_backlog)) != 0 => (Owner::UNKNOWN, SERVER),
            None => (Owner::UNKNOWN, CLIENT),
        }
    }
}

#[inline(always)]
fn local_port<M: Mem>(sk: *const u8) -> u16 {
    // SAFETY: offsets of `struct sock`.
    unsafe { M::read::<u16>(sk, field!(FIELDS.num)) }
}

/// Both ports, to recognise the connection by.
#[inline(always)]
fn ports<M: Mem>(sk: *const u8, tcp: *const u8) -> u32 {
    if tcp.is_null() {
        return 0;
    }
    // SAFETY: offsets of `struct sock` and `struct inet_sock`.
    unsafe {
        u32::from(M::read::<u16>(sk, field!(FIELDS.dport))) << 16
            | u32::from(M::read::<u16>(tcp, field!(FIELDS.sport)))
    }
}

/// Reads the kernel's counters in an order that can only show too little for a moment, never too much: what is
/// subtracted is read last.
#[inline(always)]
fn counters<M: Mem>(sk: *const u8, tcp: *const u8) -> Counters {
    // SAFETY: offsets of `struct tcp_sock` and `struct sock`.
    unsafe {
        let sent = M::read::<u64>(tcp, field!(FIELDS.bytes_sent));
        let again = M::read::<u64>(tcp, field!(FIELDS.bytes_retrans));
        let received = M::read::<u64>(tcp, field!(FIELDS.bytes_received));
        let done = M::read::<u64>(sk, field!(FIELDS.flags)) & SOCK_DONE != 0;
        Counters {
            sent: sent.wrapping_sub(again),
            received: received.wrapping_sub(u64::from(done && received > 0)),
            segs_out: M::read::<u32>(tcp, field!(FIELDS.segs_out)),
            segs_in: M::read::<u32>(tcp, field!(FIELDS.segs_in)),
            retransmits: M::read::<u32>(tcp, field!(FIELDS.total_retrans)),
            drops: M::read::<u32>(sk, field!(FIELDS.drops)),
        }
    }
}

/// Writes a whole record.
///
/// # Safety
/// `to` is writable; `sk` and `tcp` suit `M`.
#[inline(always)]
unsafe fn describe<M: Mem>(
    sk: *const u8,
    tcp: *const u8,
    to: *mut Record,
    conn: &Conn,
    kind: u32,
    state: u8,
) {
    // SAFETY: as promised by the caller; offsets of `struct sock`, `struct inet_sock` and `struct tcp_sock`.
    unsafe {
        let family = M::read::<u16>(sk, field!(FIELDS.family));
        (*to).sk = sk as u64;
        (*to).now = bpf_ktime_get_ns();
        (*to).conn = *conn;
        (*to).counters = counters::<M>(sk, tcp);
        if family == AF_INET6 {
            for i in 0..4 {
                (*to).saddr[i] = M::read::<u32>(sk, field!(FIELDS.v6_saddr) + 4 * i as u32);
                (*to).daddr[i] = M::read::<u32>(sk, field!(FIELDS.v6_daddr) + 4 * i as u32);
            }
        } else {
            (*to).saddr = [M::read::<u32>(sk, field!(FIELDS.saddr)), 0, 0, 0];
            (*to).daddr = [M::read::<u32>(sk, field!(FIELDS.daddr)), 0, 0, 0];
        }
        (*to).srtt = M::read::<u32>(tcp, field!(FIELDS.srtt_us));
        (*to).error = M::read::<i32>(sk, field!(FIELDS.error));
        (*to).sport = u16::from_be(M::read::<u16>(tcp, field!(FIELDS.sport)));
        (*to).dport = u16::from_be(M::read::<u16>(sk, field!(FIELDS.dport)));
        (*to).family = family;
        (*to).state = u16::from(state);
        (*to).kind = kind;
        (*to).reserved = 0;
    }
}

/// `struct bpf_iter__bpf_map_elem`.
#[repr(C)]
pub struct MapElement {
    meta: *const IterMeta,
    map: *const c_void,
    key: *const u64,
    value: *mut Conn,
}

/// `struct bpf_iter__task_file`.
#[repr(C)]
pub struct TaskFile {
    meta: *const IterMeta,
    task: *const u8,
    fd: u64,
    file: *const u8,
}

/// `struct bpf_iter__tcp`.
#[repr(C)]
pub struct TcpSocket {
    meta: *const IterMeta,
    sk: *const u8,
}

/// `struct bpf_iter_meta`, as far as we need it.
#[repr(C)]
pub struct IterMeta {
    seq: *mut c_void,
}

/// One live socket of the periodic sweep: reported if segments have moved since the last time.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
pub extern "C" fn sweep(ctx: *mut MapElement) -> i32 {
    // SAFETY: the context the kernel calls an iterator of this kind with; key and value are null at the end.
    unsafe {
        let (key, conn) = ((*ctx).key, (*ctx).value);
        if key.is_null() || conn.is_null() {
            return 0;
        }
        let sk = *key as *const u8;
        let state = Checked::read::<u8>(sk, field!(FIELDS.state));
        let kind = if replaced(sk, &*conn, state) { GONE } else { LIVE };
        let moved = Checked::read::<u32>(sk, field!(FIELDS.segs_in))
            .wrapping_add(Checked::read::<u32>(sk, field!(FIELDS.segs_out)))
            .wrapping_add(Checked::read::<u32>(sk, field!(FIELDS.drops)));
        // The first report counts the connection as active, even if nothing has moved; hence never 0 afterwards.
        let seen = moved | 1 << 31;
        let unsettled = (*conn).flags & LISTENERS_OWNER != 0;
        if kind == LIVE && (*conn).seen == seen && !unsettled {
            return 0;
        }
        let mut record = MaybeUninit::<Record>::uninit();
        describe::<Checked>(sk, sk, record.as_mut_ptr(), &*conn, kind, state);
        let size = size_of::<Record>() as u32;
        if bpf_seq_write((*(*ctx).meta).seq.cast(), record.as_ptr().cast(), size) == 0 {
            (*conn).seen = seen;
        }
        0
    }
}

/// Whether the socket at `sk` is not the one we track: closed without our noticing, or its memory used again.
#[inline(always)]
fn replaced(sk: *const u8, conn: &Conn, now: u8) -> bool {
    /// A connecting socket is still in `CLOSE` for an instant after we heard of it.
    const SETTLED: u64 = 1_000_000_000;
    if conn.ports != 0 {
        return now == state::CLOSE || conn.ports != ports::<Checked>(sk, sk);
    }
    // SAFETY: no arguments, always succeeds.
    now == state::CLOSE && unsafe { bpf_ktime_get_ns() }.wrapping_sub(conn.born) > SETTLED
}

/// Every open file of every process: finds the sockets that were there before us, with their owners.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn scan_files(ctx: *mut TaskFile) -> i32 {
    // SAFETY: the context the kernel calls an iterator of this kind with; task and file are null at the end.
    unsafe {
        let (task, file) = ((*ctx).task, (*ctx).file);
        if task.is_null() || file.is_null() {
            return 0;
        }
        let inode = Checked::read::<u64>(file, field!(FIELDS.file_inode)) as *const u8;
        if Checked::read::<u16>(inode, field!(FIELDS.inode_mode)) & FILE_TYPE != SOCKET {
            return 0;
        }
        let socket = Checked::read::<u64>(file, field!(FIELDS.file_private)) as *const u8;
        let sk = Checked::read::<u64>(socket, field!(FIELDS.socket_sk)) as *const u8;
        if is_tcp(sk) {
            found(sk, task);
        }
        0
    }
}

/// Every TCP socket of one network namespace: finds those that belong to no process, not yet or no longer.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn scan_sockets(ctx: *mut TcpSocket) -> i32 {
    // SAFETY: the context the kernel calls an iterator of this kind with; the socket is null at the end.
    unsafe {
        let sk = (*ctx).sk;
        if sk.is_null() || scope::active().is_some_and(scope::needs_owner) {
            return 0;
        }
        let now = Checked::read::<u8>(sk, field!(FIELDS.state));
        // These two are not full sockets: reading further would read something else.
        if now != state::TIME_WAIT && now != state::NEW_SYN_RECV && is_tcp(sk) {
            found_connection(sk, now, None);
        }
        0
    }
}

#[inline(always)]
fn is_tcp(sk: *const u8) -> bool {
    // SAFETY: offsets of `struct sock`.
    unsafe {
        let family = Checked::read::<u16>(sk, field!(FIELDS.family));
        (family == AF_INET || family == AF_INET6)
            && Checked::read::<u16>(sk, field!(FIELDS.protocol)) == IPPROTO_TCP
    }
}

#[inline(always)]
fn found(sk: *const u8, task: *const u8) {
    let Some(control) = CONTROL.get(0) else { return };
    // SAFETY: offsets of `struct sock`.
    let now = unsafe { Checked::read::<u8>(sk, field!(FIELDS.state)) };
    if control.scan == SCAN_OWNERS && SOCKETS.get_ptr(sk as u64).is_none() && scope::active().is_none() {
        return;
    }
    let owner = current::owner_of(task);
    if scope::active().is_some() && !scope::passes_task(task, &owner) {
        return;
    }
    match (control.scan, now) {
        (SCAN_LISTENERS, state::LISTEN) => found_listener(sk, owner),
        (SCAN_CONNECTIONS, _) => found_connection(sk, now, Some(owner)),
        (SCAN_OWNERS, _) => settle(sk, owner),
        _ => {}
    }
}

#[inline(always)]
fn found_listener(sk: *const u8, owner: Owner) {
    let port = local_port::<Checked>(sk);
    if scope::active().is_none_or(|scope| scope::passes_port(scope, port)) {
        let conn = Conn { flags: PREEXISTING, base: counters::<Checked>(sk, sk), ..fresh(owner) };
        add_listener::<Checked>(sk, port, conn);
    }
}

#[inline(always)]
fn found_connection(sk: *const u8, now: u8, owner: Option<Owner>) {
    if now == state::LISTEN || now == state::CLOSE || now == state::TIME_WAIT || now == state::NEW_SYN_RECV {
        return;
    }
    let (listener, role) = infer::<Checked>(sk, sk);
    // SAFETY: offsets of `struct sock`.
    let dport = u16::from_be(unsafe { Checked::read::<u16>(sk, field!(FIELDS.dport)) });
    let service = if role == SERVER { local_port::<Checked>(sk) } else { dport };
    if scope::active().is_some_and(|scope| !scope::passes_port(scope, service)) {
        return;
    }
    let unsettled = if owner.is_none() && role == SERVER { LISTENERS_OWNER } else { 0 };
    let conn = Conn {
        flags: role | PREEXISTING | unsettled,
        base: counters::<Checked>(sk, sk),
        ports: if now == state::SYN_SENT { 0 } else { ports::<Checked>(sk, sk) },
        ..fresh(owner.unwrap_or(listener))
    };
    track(sk, &conn, BPF_NOEXIST);
}

/// Gives a connection that still carries its listener's owner to the process that holds it.
#[inline(always)]
fn settle(sk: *const u8, owner: Owner) {
    if let Some(conn) = SOCKETS.get_ptr_mut(sk as u64) {
        // SAFETY: a live map value.
        unsafe {
            if (*conn).flags & LISTENERS_OWNER != 0 {
                (*conn).owner = owner;
                (*conn).flags &= !LISTENERS_OWNER;
            }
        }
    }
}
