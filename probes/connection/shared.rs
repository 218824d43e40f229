// SPDX-License-Identifier: MIT OR GPL-2.0
//! What the kernel program and the collector say to each other: map keys and values, the record both the sweep and a
//! close produce, and the arithmetic that decides how a connection ended.

use sidecar_common::owner::Owner;

sidecar_common::fields! {
    /// Members of sockets and of what leads to them.
    pub struct Fields {
        family: "sock.__sk_common.skc_family",
        state: "sock.__sk_common.skc_state",
        num: "sock.__sk_common.skc_num",
        dport: "sock.__sk_common.skc_dport",
        addrpair: "sock.__sk_common.skc_addrpair",
        v6_daddr: "sock.__sk_common.skc_v6_daddr",
        v6_saddr: "sock.__sk_common.skc_v6_rcv_saddr",
        net: "sock.__sk_common.skc_net.net",
        flags: "sock.__sk_common.skc_flags",
        protocol: "sock.sk_protocol",
        error: "sock.sk_err",
        drops: "sock.sk_drops.counter",
        max_ack_backlog: "sock.sk_max_ack_backlog",
        sport: "inet_sock.inet_sport",
        bytes_sent: "tcp_sock.bytes_sent",
        bytes_retrans: "tcp_sock.bytes_retrans",
        bytes_received: "tcp_sock.bytes_received",
        segs_in: "tcp_sock.segs_in",
        segs_out: "tcp_sock.segs_out",
        total_retrans: "tcp_sock.total_retrans",
        srtt_us: "tcp_sock.srtt_us",
        file_inode: "file.f_inode",
        file_private: "file.private_data",
        inode_mode: "inode.i_mode",
        socket_sk: "socket.sk",
        optional told_sk: "trace_event_raw_inet_sock_set_state.skaddr",
        optional told_old: "trace_event_raw_inet_sock_set_state.oldstate",
        optional told_new: "trace_event_raw_inet_sock_set_state.newstate",
    }
}

/// TCP states (`include/net/tcp_states.h`; part of the user interface, so they do not move).
pub mod state {
    /// Data flows.
    pub const ESTABLISHED: u8 = 1;
    /// Our SYN is out.
    pub const SYN_SENT: u8 = 2;
    /// A SYN came, ours is out.
    pub const SYN_RECV: u8 = 3;
    /// We closed first.
    pub const FIN_WAIT1: u8 = 4;
    /// … and the peer has seen it.
    pub const FIN_WAIT2: u8 = 5;
    /// Only a small stand-in of the socket is left.
    pub const TIME_WAIT: u8 = 6;
    /// Gone.
    pub const CLOSE: u8 = 7;
    /// The peer closed first.
    pub const CLOSE_WAIT: u8 = 8;
    /// … and so did we.
    pub const LAST_ACK: u8 = 9;
    /// Waiting for connections.
    pub const LISTEN: u8 = 10;
    /// Both closed at once.
    pub const CLOSING: u8 = 11;
    /// A request that is not yet a socket.
    pub const NEW_SYN_RECV: u8 = 12;
}

/// `AF_INET6`.
pub const AF_INET6: u16 = 10;
/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `IPPROTO_TCP`.
pub const IPPROTO_TCP: u16 = 6;
/// Bit of `enum sock_flags` that says a FIN came in (`SOCK_DONE`).
pub const SOCK_DONE: u64 = 1 << 1;

/// `Conn::flags`: our side connected.
pub const CLIENT: u32 = 1;
/// `Conn::flags`: our side listens.
pub const SERVER: u32 = 2;
/// `Conn::flags`: this is a listening socket, not a connection.
pub const LISTENER: u32 = 4;
/// `Conn::flags`: it was there before the agent; what it had done by then is in `base`.
pub const PREEXISTING: u32 = 8;
/// `Conn::flags`: nobody has accepted it yet as far as we know; `owner` is the listener's.
pub const LISTENERS_OWNER: u32 = 16;
/// `Conn::flags`: there was no room to track it; only its final counters are known.
pub const UNTRACKED: u32 = 32;

/// The kernel's own counters of one socket.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Payload bytes sent at least once: `bytes_sent - bytes_retrans`.
    pub sent: u64,
    /// Payload bytes received in order: `bytes_received` without the FIN it counts as one byte.
    pub received: u64,
    /// Segments sent; wraps at 2^32.
    pub segs_out: u32,
    /// Segments received; wraps at 2^32.
    pub segs_in: u32,
    /// Segments sent again; wraps at 2^32.
    pub retransmits: u32,
    /// Segments and requests dropped at the socket.
    pub drops: u32,
}

impl Counters {
    /// What was added since `base`. The 32-bit counters wrap with the kernel's.
    #[must_use]
    pub fn since(&self, base: &Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(base.sent),
            received: self.received.saturating_sub(base.received),
            segs_out: self.segs_out.wrapping_sub(base.segs_out),
            segs_in: self.segs_in.wrapping_sub(base.segs_in),
            retransmits: self.retransmits.wrapping_sub(base.retransmits),
            drops: self.drops.wrapping_sub(base.drops),
        }
    }
}

/// What the kernel side remembers of a live socket: an entry of `NURSERY`, or of `SOCKETS`, whose key is the socket's
/// address.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Conn {
    /// Whose socket it is.
    pub owner: Owner,
    /// When tracking began, monotonic nanoseconds: addresses are reused.
    pub born: u64,
    /// When it was established, monotonic nanoseconds; 0 if it is not, or was before the agent.
    pub established: u64,
    /// Nanoseconds from SYN to established; 0 if unknown.
    pub handshake: u64,
    /// The counters when tracking began.
    pub base: Counters,
    /// Both ports once it is established, to notice an address that was reused behind our back.
    pub ports: u32,
    /// `CLIENT`, `SERVER`, …; 0: the entry is of no socket, or of one that is gone.
    pub flags: u32,
    /// Sum of the segment counters when the sweep last reported it; only the sweep writes it.
    pub seen: u32,
    /// How many want this slot of `NURSERY`: whoever makes it 1 has it. Always 0 in `SOCKETS`.
    pub claims: u32,
    /// Address of the socket. With `born` it names the connection.
    pub sk: u64,
}

/// Slots of `NURSERY`: at most one for 32 entries of `SOCKETS`, and a power of two.
#[must_use]
pub const fn nursery_slots(max_connections: u32) -> u32 {
    let share = max_connections / 32;
    if share == 0 {
        1
    } else if share > MAX_NURSERY {
        MAX_NURSERY
    } else {
        1 << share.ilog2()
    }
}

/// The one slot of `NURSERY` in which a socket may be. `mask` is the number of slots, a power of two, less one.
#[must_use]
#[inline(always)]
pub const fn nursery_slot(sk: u64, mask: u32) -> u32 {
    // Objects of a slab lie at equal distances; the multiplication spreads them.
    ((sk >> 6).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32 & mask
}

/// Key of the `LISTENERS` map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenKey {
    /// Address of the network namespace.
    pub net: u64,
    /// Local port, host order.
    pub port: u32,
    /// No padding.
    pub reserved: u32,
}

/// Who listens on a port.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Listener {
    /// The process that called `listen()`.
    pub owner: Owner,
    /// Sockets listening there (`SO_REUSEPORT`, several addresses).
    pub sockets: u64,
}

/// `Record::kind`: the connection is alive; its counters as of now.
pub const LIVE: u32 = 0;
/// `Record::kind`: the connection has ended; its last counters.
pub const CLOSED: u32 = 1;
/// `Record::kind`: the socket at this address is not the one that was tracked: its end was missed.
pub const GONE: u32 = 2;

/// One connection as the kernel knows it, written by the sweep and when it ends.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// Monotonic nanoseconds of this record.
    pub now: u64,
    /// What was remembered.
    pub conn: Conn,
    /// The counters now.
    pub counters: Counters,
    /// Local address; IPv4 in the first four bytes.
    pub saddr: [u32; 4],
    /// Remote address; IPv4 in the first four bytes.
    pub daddr: [u32; 4],
    /// Smoothed round-trip time in eighths of a microsecond; 0 if never measured.
    pub srtt: u32,
    /// `sk_err`: why it ended.
    pub error: i32,
    /// Local port, host order.
    pub sport: u16,
    /// Remote port, host order.
    pub dport: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// TCP state before the end, or now.
    pub state: u16,
    /// `LIVE`, `CLOSED` or `GONE`.
    pub kind: u32,
    /// No padding.
    pub reserved: u32,
}

/// `Control::scan`: look for listening sockets.
pub const SCAN_LISTENERS: u32 = 1;
/// `Control::scan`: look for connections.
pub const SCAN_CONNECTIONS: u32 = 2;
/// `Control::scan`: find out who has accepted the connections that still carry their listener's owner.
pub const SCAN_OWNERS: u32 = 3;
/// `Control::scan`: the sweep forgets what it reports, because the filter has changed.
pub const SWEEP_AND_FORGET: u32 = 4;

/// Switches the agent sets while running; one entry in the `CONTROL` array.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Control {
    /// What the scan programs do (`SCAN_…`).
    pub scan: u32,
    /// Nobody tells us who accepts: take the process that closes a connection still under its listener's owner.
    pub owner_at_close: u32,
    /// Report untracked connections when they end: the stock-taking is over and the map was full.
    pub report_untracked: u32,
    /// No padding.
    pub reserved: u32,
}

/// Constants fixed when the object is loaded.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constants {
    /// Parameters of `inet_csk_accept`; its return value comes after them. It took 4 up to 6.9 and takes 2 since.
    pub accept_parameters: u32,
    /// Entries of `SOCKETS` that may stay for the next socket at the same address.
    pub parked: u32,
    /// Slots of `NURSERY` less one.
    pub nursery_mask: u32,
}

/// Most slots of `NURSERY`.
pub const MAX_NURSERY: u32 = 1_024;

/// Most entries parked; at most a sixteenth of the map.
pub const MAX_PARKED: u32 = 4_096;

/// Bytes of the ring buffer of records: room for 1,200 connections that end between two wake-ups.
pub const RING_BYTES: u32 = 256 * 1024;
/// Records kept aside when the ring is full.
pub const SPILL_ENTRIES: u32 = 8_192;
/// Distinct listening ports known.
pub const LISTENERS_ENTRIES: u32 = 4_096;
