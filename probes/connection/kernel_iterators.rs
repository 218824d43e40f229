// SPDX-License-Identifier: MIT OR GPL-2.0
//! Programs that run when the agent asks: the sweep over live sockets, and the search for those that were there before.

use core::mem::MaybeUninit;

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_ktime_get_ns, generated::bpf_seq_write},
};
use sidecar_ebpf::{
    current, field,
    mem::{Checked, Mem, Typed},
    scope,
    sidecar_common::owner::Owner,
};

use crate::{
    kernel_socket::{
        Begin, CONTROL, FIELDS, add_listener, counters, describe, infer, is_nursery, leave, local_port,
        ports, track, tracked,
    },
    shared::{
        AF_INET, AF_INET6, Conn, GONE, IPPROTO_TCP, LISTENER, LISTENERS_OWNER, LIVE, PREEXISTING, Record,
        SCAN_CONNECTIONS, SCAN_LISTENERS, SCAN_OWNERS, SERVER, SWEEP_AND_FORGET, state,
    },
};

/// `S_IFMT`.
const FILE_TYPE: u16 = 0o170_000;
/// `S_IFSOCK`.
const SOCKET: u16 = 0o140_000;

/// `struct bpf_iter__bpf_map_elem`.
#[repr(C)]
pub struct MapElement {
    meta: *const IterMeta,
    map: *const c_void,
    key: *const c_void,
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

/// One live socket of the periodic sweep, of those in the table.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
pub extern "C" fn sweep(ctx: *mut MapElement) -> i32 {
    sweep_element(ctx);
    0
}

/// The same for those in the nursery.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
pub extern "C" fn sweep_nursery(ctx: *mut MapElement) -> i32 {
    sweep_element(ctx);
    0
}

/// Reports a socket if segments have moved since the last time.
#[inline(always)]
fn sweep_element(ctx: *mut MapElement) {
    // SAFETY: the context the kernel calls an iterator of this kind with; the value is null at the end.
    unsafe {
        let conn = (*ctx).value;
        if conn.is_null() || (*conn).flags == 0 {
            return;
        }
        let sk = (*conn).sk as *const u8;
        let state = Checked::read::<u8>(sk, field!(FIELDS.state));
        let kind = if replaced(sk, &*conn, state) { GONE } else { LIVE };
        let moved = Checked::read::<u32>(sk, field!(FIELDS.segs_in))
            .wrapping_add(Checked::read::<u32>(sk, field!(FIELDS.segs_out)))
            .wrapping_add(Checked::read::<u32>(sk, field!(FIELDS.drops)));
        // The first report counts the connection as active, even if nothing has moved; hence never 0 afterwards.
        let seen = moved | 1 << 31;
        let unsettled = (*conn).flags & LISTENERS_OWNER != 0;
        let last = CONTROL.get(0).is_some_and(|control| control.scan == SWEEP_AND_FORGET);
        if kind == LIVE && (*conn).seen == seen && !unsettled {
            if last {
                leave(conn);
            }
            return;
        }
        let mut record = MaybeUninit::<Record>::uninit();
        describe::<Checked>(sk, sk, record.as_mut_ptr(), &*conn, kind, state);
        // Meanwhile the slot may have gone from one socket to another: then the record is a mixture.
        let (of, born) = ((&raw const (*conn).sk).read_volatile(), (&raw const (*conn).born).read_volatile());
        let described = &(*record.as_ptr()).conn;
        if of != sk as u64
            || described.sk != of
            || described.born != born
            || (&raw const (*conn).flags).read_volatile() == 0
        {
            return;
        }
        let size = size_of::<Record>() as u32;
        if bpf_seq_write((*(*ctx).meta).seq.cast(), record.as_ptr().cast(), size) == 0 {
            (*conn).seen = seen;
            if last || kind == GONE && is_nursery(conn) {
                leave(conn);
            }
        }
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
        let sk = Typed::address(sk) as *const u8;
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
    if control.scan == SCAN_OWNERS && tracked::<Checked>(sk).is_none() {
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
        let base = Some(counters::<Checked>(sk, sk, true));
        add_listener::<Checked>(sk, port, &Begin { base, ..Begin::new(owner, LISTENER | PREEXISTING) });
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
    let begin = Begin {
        base: Some(counters::<Checked>(sk, sk, false)),
        ports: if now == state::SYN_SENT { 0 } else { ports::<Checked>(sk, sk) },
        ..Begin::new(owner.unwrap_or(listener), role | PREEXISTING | unsettled)
    };
    track::<Checked>(sk, &begin, false);
}

/// Gives a connection that still carries its listener's owner to the process that holds it.
#[inline(always)]
fn settle(sk: *const u8, owner: Owner) {
    if let Some(conn) = tracked::<Checked>(sk) {
        // SAFETY: a live map value.
        unsafe {
            if (*conn).flags & LISTENERS_OWNER != 0 {
                (*conn).owner = owner;
                (*conn).flags &= !LISTENERS_OWNER;
            }
        }
    }
}
