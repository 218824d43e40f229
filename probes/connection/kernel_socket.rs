// SPDX-License-Identifier: MIT OR GPL-2.0
//! What is remembered of sockets, and how they are read. The programs at the hooks and the iterators share it.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
};

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
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
    AF_INET6, CLIENT, Conn, Constants, Control, Counters, Fields, LISTENER, LISTENERS_ENTRIES,
    LISTENERS_OWNER, ListenKey, Listener, MAX_NURSERY, PREEXISTING, Record, SERVER, SOCK_DONE, nursery_slot,
};

#[unsafe(no_mangle)]
pub static FIELDS: Fields = Fields::UNRESOLVED;

#[unsafe(no_mangle)]
pub static CONSTANTS: Global<Constants> =
    Global::new(Constants { accept_parameters: 0, parked: 0, nursery_mask: 0 });

/// Where a new socket is remembered if its slot is free: found by its address without a search, at a fraction of the cost
/// of a hash table. Most connections are short, and most find it free.
#[map]
pub static NURSERY: Array<Conn> = Array::with_max_entries(MAX_NURSERY, 0);
/// The other live sockets by address, and parked entries of former ones. Grows as needed, so that a quiet machine does not pay for a busy one.
#[map]
pub static SOCKETS: HashMap<u64, Conn> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
pub static LISTENERS: HashMap<ListenKey, Listener> =
    HashMap::with_max_entries(LISTENERS_ENTRIES, BPF_F_NO_PREALLOC);
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// How many entries of `SOCKETS` are parked.
#[map]
pub static PARKED: Array<u64> = Array::with_max_entries(1, 0);

/// What is known of a socket when tracking begins.
pub struct Begin {
    pub owner: Owner,
    pub flags: u32,
    pub established: bool,
    pub handshake: u64,
    pub ports: u32,
    /// What the socket had done before; nothing, unless it was there before the agent.
    pub base: Option<Counters>,
}

impl Begin {
    /// For a socket of which nothing but its owner is known.
    #[inline(always)]
    pub fn new(owner: Owner, flags: u32) -> Self {
        Self { owner, flags, established: false, handshake: 0, ports: 0, base: None }
    }

    /// Writes a whole entry but its claims, its flags last: until then it is nobody's. Word by word, because the compiler
    /// would clear it with a loop over its bytes.
    ///
    /// # Safety
    /// `to` is writable.
    #[inline(always)]
    pub unsafe fn write(&self, sk: u64, to: *mut Conn) {
        // SAFETY: as promised by the caller; the name is aligned to a word.
        unsafe {
            let now = bpf_ktime_get_ns();
            let (from, owner) = ((&raw const self.owner).cast::<u64>(), (&raw mut (*to).owner).cast::<u64>());
            for word in 0..size_of::<Owner>() / 8 {
                owner.add(word).write_volatile(from.add(word).read());
            }
            (&raw mut (*to).born).write_volatile(now);
            (&raw mut (*to).established).write_volatile(if self.established { now } else { 0 });
            (&raw mut (*to).handshake).write_volatile(self.handshake);
            if let Some(base) = self.base {
                (*to).base = base;
            } else {
                let base = (&raw mut (*to).base).cast::<u64>();
                for word in 0..size_of::<Counters>() / 8 {
                    base.add(word).write_volatile(0);
                }
            }
            (&raw mut (*to).ports).write_volatile(self.ports);
            (&raw mut (*to).seen).write_volatile(0);
            (&raw mut (*to).sk).write_volatile(sk);
            (&raw mut (*to).flags).write_volatile(self.flags);
        }
    }
}

/// What became of a socket to be tracked.
#[derive(PartialEq)]
pub enum Tracked {
    Now,
    Already,
    NoRoom,
}

/// The entry of a socket.
#[inline(always)]
pub fn tracked<M: Mem>(sk: *const u8) -> Option<*mut Conn> {
    let sk = M::address(sk);
    if let Some(conn) = slot(sk)
        && is_in(sk, conn)
    {
        return Some(conn);
    }
    // SAFETY: a live map value.
    SOCKETS.get_ptr_mut(sk).filter(|conn| unsafe { (**conn).flags } != 0)
}

#[inline(always)]
fn slot(sk: u64) -> Option<*mut Conn> {
    NURSERY.get_ptr_mut(nursery_slot(sk, CONSTANTS.load().nursery_mask))
}

/// Whether a slot of the nursery holds this socket.
#[inline(always)]
fn is_in(sk: u64, slot: *const Conn) -> bool {
    // SAFETY: a live map value.
    unsafe {
        (&raw const (*slot).sk).read_volatile() == sk && (&raw const (*slot).flags).read_volatile() != 0
    }
}

/// Takes a slot of the nursery if nobody has it. Without compare-and-exchange, which kernels before 5.12 refuse: of
/// several that add their claim at once none may find itself alone, but never two.
#[inline(always)]
fn claim(slot: *mut Conn) -> bool {
    // SAFETY: a live map value; additions are atomic, and the sum is read apart from them.
    unsafe {
        if (&raw const (*slot).claims).read_volatile() != 0 {
            return false;
        }
        add_claim(slot, 1);
        // The flags, too: whoever had the slot last has cleared them before it gave up its claim, but on some processors
        // the one may be seen before the other.
        if (&raw const (*slot).claims).read_volatile() == 1 && (&raw const (*slot).flags).read_volatile() == 0
        {
            return true;
        }
        add_claim(slot, u32::MAX);
        false
    }
}

#[inline(always)]
fn add_claim(slot: *mut Conn, change: u32) {
    // SAFETY: a live map value; the sum is not used.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(&raw mut (*slot).claims, change) };
}

/// Begins to remember a socket. With `replace`, what is known at its address is a leftover.
#[inline(always)]
pub fn track<M: Mem>(sk: *const u8, begin: &Begin, replace: bool) -> Tracked {
    let sk = M::address(sk);
    if let Some(slot) = slot(sk) {
        if is_in(sk, slot) {
            if !replace {
                return Tracked::Already;
            }
            // SAFETY: a live map value; a socket's changes of state come one after the other.
            unsafe { begin.write(sk, slot) };
            return Tracked::Now;
        }
        // What is known to last long would only keep the slot from others.
        if begin.flags & (LISTENER | PREEXISTING) == 0 && claim(slot) {
            // SAFETY: a live map value that is ours alone.
            unsafe { begin.write(sk, slot) };
            return Tracked::Now;
        }
    }
    track_long(sk, begin, replace)
}

/// The same in the table of all the others.
#[inline(always)]
fn track_long(sk: u64, begin: &Begin, replace: bool) -> Tracked {
    if let Some(known) = SOCKETS.get_ptr_mut(sk) {
        // SAFETY: a live map value; a socket's changes of state come one after the other.
        unsafe {
            if (*known).flags == 0 {
                add(&PARKED, u64::MAX);
            } else if !replace {
                return Tracked::Already;
            }
            begin.write(sk, known);
        }
        return Tracked::Now;
    }
    let mut conn = MaybeUninit::<Conn>::uninit();
    // SAFETY: together they leave no byte unwritten.
    let conn = unsafe {
        begin.write(sk, conn.as_mut_ptr());
        (*conn.as_mut_ptr()).claims = 0;
        conn.assume_init_ref()
    };
    if SOCKETS.insert(sk, conn, u64::from(BPF_NOEXIST)).is_ok() {
        return Tracked::Now;
    }
    loss::count(Loss::MapFull);
    Tracked::NoRoom
}

/// Forgets a socket. In the nursery its slot is free; an entry of the table stays for the next socket at the same
/// address, which is often soon: the kernel reuses the memory last freed, and an entry that is there already costs half
/// as much.
#[inline(always)]
pub fn forget(sk: *const u8, conn: *mut Conn) {
    let parked = PARKED.get(0).copied().unwrap_or(u64::MAX);
    if is_nursery(conn) || parked < u64::from(CONSTANTS.load().parked) {
        leave(conn);
    } else {
        let _ = SOCKETS.remove(sk as u64);
    }
}

/// Leaves an entry to another socket: a slot of the nursery to any, another one to the next at its address.
#[inline(always)]
pub fn leave(conn: *mut Conn) {
    // SAFETY: a live map value.
    unsafe { (&raw mut (*conn).flags).write_volatile(0) };
    if is_nursery(conn) {
        add_claim(conn, u32::MAX);
    } else {
        add(&PARKED, 1);
    }
}

/// Whether an entry in use is a slot of the nursery.
#[inline(always)]
pub fn is_nursery(conn: *const Conn) -> bool {
    // SAFETY: a live map value.
    unsafe { (&raw const (*conn).claims).read_volatile() != 0 }
}

#[inline(always)]
fn add(counter: &Array<u64>, value: u64) {
    if let Some(slot) = counter.get_ptr_mut(0) {
        // SAFETY: a live map value; the sum is not used.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(slot, value) };
    }
}

#[inline(always)]
pub fn add_listener<M: Mem>(sk: *const u8, port: u16, begin: &Begin) {
    if track::<M>(sk, begin, false) != Tracked::Now {
        return;
    }
    // SAFETY: offsets of `struct sock`.
    let key = ListenKey {
        net: unsafe { M::read::<u64>(sk, field!(FIELDS.net)) },
        port: u32::from(port),
        reserved: 0,
    };
    // Two processes may begin to listen on one port at the same moment: whoever comes second only counts itself.
    let first = Listener { owner: begin.owner, sockets: 1 };
    if LISTENERS.get_ptr(key).is_some() || LISTENERS.insert(key, first, u64::from(BPF_NOEXIST)).is_err() {
        match LISTENERS.get_ptr_mut(key) {
            // SAFETY: a live map value; the sum is not used.
            Some(known) => unsafe {
                atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*known).sockets, 1);
            },
            None => loss::count(Loss::MapFull),
        }
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

/// Reads the kernel's counters in the order that shows too little rather than too much while they move: what is
/// subtracted is read last. Only between the kernel's counting a FIN and its marking the socket, which are a few
/// instructions, the FIN would be taken for a byte. Drops only count where connections are waited for.
#[inline(always)]
pub fn counters<M: Mem>(sk: *const u8, tcp: *const u8, with_drops: bool) -> Counters {
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
            drops: if with_drops { M::read::<u32>(sk, field!(FIELDS.drops)) } else { 0 },
        }
    }
}

/// Writes a whole record; says when, in monotonic nanoseconds.
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
) -> u64 {
    // SAFETY: as promised by the caller; offsets of `struct sock`, `struct inet_sock` and `struct tcp_sock`.
    unsafe {
        let family = M::read::<u16>(sk, field!(FIELDS.family));
        let now = bpf_ktime_get_ns();
        (*to).now = now;
        (*to).conn = *conn;
        if conn.flags & LISTENERS_OWNER != 0 {
            let (owner, _) = infer::<M>(sk, tcp);
            (*to).conn.owner = owner;
        }
        (*to).counters = counters::<M>(sk, tcp, conn.flags & LISTENER != 0);
        if family == AF_INET6 {
            for i in 0..4 {
                (*to).saddr[i] = M::read::<u32>(sk, field!(FIELDS.v6_saddr) + 4 * i as u32);
                (*to).daddr[i] = M::read::<u32>(sk, field!(FIELDS.v6_daddr) + 4 * i as u32);
            }
        } else {
            let pair = M::read::<u64>(sk, field!(FIELDS.addrpair));
            (*to).saddr = [(pair >> 32) as u32, 0, 0, 0];
            (*to).daddr = [pair as u32, 0, 0, 0];
        }
        (*to).srtt = M::read::<u32>(tcp, field!(FIELDS.srtt_us));
        (*to).error = M::read::<i32>(sk, field!(FIELDS.error));
        let ports = if conn.ports != 0 { conn.ports } else { ports::<M>(sk, tcp) };
        (*to).sport = u16::from_be(ports as u16);
        (*to).dport = u16::from_be((ports >> 16) as u16);
        (*to).family = family;
        (*to).state = u16::from(state);
        (*to).kind = kind;
        (*to).reserved = 0;
        now
    }
}
