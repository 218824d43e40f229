// SPDX-License-Identifier: MIT OR GPL-2.0
//! What is remembered of sockets, and how they are read. The programs at the hooks and the iterators share it.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap},
};
use sidecar_ebpf::{
    field, loss,
    mem::Mem,
    sidecar_common::{loss::Loss, owner::Owner},
};

use crate::shared::{
    AF_INET6, CLIENT, Conn, Control, Counters, Fields, LISTENER, LISTENERS_ENTRIES, ListenKey, Listener,
    Record, SERVER, SOCK_DONE,
};

#[unsafe(no_mangle)]
pub static FIELDS: Fields = Fields::UNRESOLVED;

/// Live sockets by address. Grows as needed, so that a quiet machine does not pay for a busy one.
#[map]
pub static SOCKETS: HashMap<u64, Conn> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
pub static LISTENERS: HashMap<ListenKey, Listener> =
    HashMap::with_max_entries(LISTENERS_ENTRIES, BPF_F_NO_PREALLOC);
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// An entry for something that begins now.
#[inline(always)]
pub fn fresh(owner: Owner) -> Conn {
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
pub enum Tracked {
    Now,
    Already,
    NoRoom,
}

#[inline(always)]
pub fn track(sk: *const u8, conn: &Conn, mode: u32) -> Tracked {
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
pub fn add_listener<M: Mem>(sk: *const u8, port: u16, conn: Conn) {
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

/// Where a socket's local port is looked up.
#[inline(always)]
pub fn listen_key<M: Mem>(sk: *const u8, tcp: *const u8) -> ListenKey {
    // SAFETY: offsets of `struct sock` and `struct inet_sock`.
    unsafe {
        ListenKey {
            net: M::read::<u64>(sk, field!(FIELDS.net)),
            port: u32::from(u16::from_be(M::read::<u16>(tcp, field!(FIELDS.sport)))),
            reserved: 0,
        }
    }
}

/// Which side a connection is that was there before us, or that there was no room for: the server if somebody listens on
/// its local port, or did. Kernel: `sk_clone_lock()` copies the listener's backlog into every socket it accepts, and
/// nothing else sets it but listen().
#[inline(always)]
pub fn infer<M: Mem>(sk: *const u8, tcp: *const u8) -> (Owner, u32) {
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
pub fn local_port<M: Mem>(sk: *const u8) -> u16 {
    // SAFETY: offsets of `struct sock`.
    unsafe { M::read::<u16>(sk, field!(FIELDS.num)) }
}

/// Both ports, to recognise the connection by.
#[inline(always)]
pub fn ports<M: Mem>(sk: *const u8, tcp: *const u8) -> u32 {
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
pub fn counters<M: Mem>(sk: *const u8, tcp: *const u8) -> Counters {
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
pub unsafe fn describe<M: Mem>(
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
