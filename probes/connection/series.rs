//! The table of label sets: what has been counted for each, bounded by `metrics.max_series`.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rustc_hash::FxHashMap;
use sidecar_common::scope::{CommWords, comm_words};
use sidecar_core::{HistogramValue, Labels, Rows, Start, Value};

use super::{
    ending::{Closed, Failed},
    metrics::{self, Bounds},
    shared::{AF_INET6, CLIENT, Counters, Record},
};

/// Ticks a label set must have been idle before it makes room for another.
const IDLE_SECONDS: u64 = 3600;

/// Every label there can be, in the order they are shown.
const NAMES: [&str; 7] = ["src_ip", "dst_ip", "dst_port", "role", "comm", "pid", "cgroup"];
const SRC_IP: Wanted = Wanted(1);
const DST_IP: Wanted = Wanted(1 << 1);
const DST_PORT: Wanted = Wanted(1 << 2);
const COMM: Wanted = Wanted(1 << 4);
const PID: Wanted = Wanted(1 << 5);
const CGROUP: Wanted = Wanted(1 << 6);

/// Which labels the user wants: a bit for each of `NAMES`.
#[derive(Debug, Clone, Copy)]
struct Wanted(u8);

impl Wanted {
    fn of(labels: &[String]) -> Self {
        let wanted = NAMES.iter().enumerate().filter(|(_, name)| labels.iter().any(|label| label == *name));
        Self(wanted.fold(0, |bits, (at, _)| bits | 1 << at))
    }

    fn has(self, label: Self) -> bool {
        self.0 & label.0 != 0
    }
}

/// A label set as the record's own words; what the user does not want is zero, so that it does not tell series apart.
/// One host can be two keys (IPv4 and its IPv6-mapped form): they meet again by their text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key([u64; 8]);

/// Bits of a key's last word: process id, port, address family, and the two below.
const PID_SHIFT: u32 = 32;
const PORT_SHIFT: u32 = 16;
const FAMILY_SHIFT: u32 = 8;
const CLIENT_BIT: u64 = 1 << 1;
const LISTENER_BIT: u64 = 1;

impl Key {
    /// Of no socket, since every socket has an address family.
    const NONE: Self = Self([0; 8]);

    /// Word by word, since this is done for every connection that ends.
    fn of(record: &Record, listener: bool, masks: &Masks) -> Self {
        let conn = &record.conn;
        let client = conn.flags & CLIENT != 0;
        let [saddr, daddr] = [words(&record.saddr), words(&record.daddr)];
        let [comm, more] = comm_words(&conn.owner.comm);
        let port = if client { record.dport } else { record.sport };
        let rest = u64::from(conn.owner.pid) << PID_SHIFT
            | u64::from(port) << PORT_SHIFT
            | u64::from(record.family) << FAMILY_SHIFT
            | if client { CLIENT_BIT } else { 0 }
            | u64::from(listener);
        let mut key = [saddr[0], saddr[1], daddr[0], daddr[1], comm, more, conn.owner.cgroup, rest];
        for (word, mask) in key.iter_mut().zip(masks.of(client, listener)) {
            *word &= mask;
        }
        Self(key)
    }

    /// Local and remote address.
    fn addresses(&self) -> [IpAddr; 2] {
        let [a, b, c, d, .., rest] = self.0;
        let family = (rest >> FAMILY_SHIFT) as u8;
        [address(family, [a, b]), address(family, [c, d])]
    }

    fn client(&self) -> bool {
        self.0[7] & CLIENT_BIT != 0
    }

    fn listener(&self) -> bool {
        self.0[7] & LISTENER_BIT != 0
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in self.0 {
            state.write_u64(word);
        }
    }
}

/// The bits of a key the user wants, for each kind of socket.
struct Masks([[u64; 8]; 4]);

impl Masks {
    fn new(wanted: Wanted) -> Self {
        Self(std::array::from_fn(|kind| {
            let (client, listener) = (kind & 2 != 0, kind & 1 != 0);
            let all = |on: bool| if on { u64::MAX } else { 0 };
            let (src, dst) = (all(wanted.has(SRC_IP) && !listener), all(wanted.has(DST_IP)));
            let (local, remote) = if client { (src, dst) } else { (dst, src) };
            let comm = all(wanted.has(COMM));
            // Which side is local is told by the client bit, so addresses need it whether or not the role is shown.
            let rest = all(wanted.has(PID)) << PID_SHIFT
                | (all(wanted.has(DST_PORT)) & 0xffff) << PORT_SHIFT
                | 0xff << FAMILY_SHIFT
                | CLIENT_BIT
                | LISTENER_BIT;
            [local, local, remote, remote, comm, comm, all(wanted.has(CGROUP)), rest]
        }))
    }

    fn of(&self, client: bool, listener: bool) -> &[u64; 8] {
        &self.0[usize::from(client) << 1 | usize::from(listener)]
    }
}

/// A distribution of durations with exact counts at its bounds.
#[derive(Debug, Clone, Default)]
struct Histogram {
    /// Empty until the first observation.
    counts: Box<[u64]>,
    nanos: u64,
}

impl Histogram {
    fn observe(&mut self, bounds: &Bounds, nanos: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; metrics::BOUNDS + 1].into();
        }
        self.counts[bounds.bucket(nanos)] += 1;
        self.nanos = self.nanos.saturating_add(nanos);
    }

    fn value(&self, bounds: &'static [f64]) -> Option<Value> {
        (!self.counts.is_empty()).then(|| {
            let (counts, sum) = (self.counts.clone(), self.nanos as f64 / 1e9);
            Value::Histogram(HistogramValue { bounds, counts, sum })
        })
    }
}

/// Everything counted for one label set.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    labels: Labels,
    listener: bool,
    bytes_sent: u64,
    bytes_received: u64,
    packets_sent: u64,
    packets_received: u64,
    retransmits: u64,
    opened: u64,
    closed: [u64; Closed::ALL.len()],
    failed: [u64; Failed::ALL.len()],
    listen_overflows: u64,
    /// Established now.
    pub(super) active: u64,
    /// Entries of the table of live sockets that point here; such a label set stays.
    pub(super) held: u64,
    duration: Histogram,
    handshake: Histogram,
    rtt: Histogram,
    /// Monotonic seconds of the last change.
    touched: u64,
}

impl Series {
    /// Adds what a socket has done since it was last looked at.
    pub(super) fn add(&mut self, delta: &Counters) {
        self.bytes_sent += delta.sent;
        self.bytes_received += delta.received;
        self.packets_sent += u64::from(delta.segs_out);
        self.packets_received += u64::from(delta.segs_in);
        self.retransmits += u64::from(delta.retransmits);
    }

    /// Counts an established connection; `handshake` is 0 if unknown.
    pub(super) fn open(&mut self, handshake: u64) {
        self.opened += 1;
        if handshake > 0 {
            self.handshake.observe(&metrics::TRIP, handshake);
        }
    }

    /// Counts the end of an established connection.
    pub(super) fn close(&mut self, how: Closed, duration: Option<u64>) {
        self.closed[how as usize] += 1;
        if let Some(nanos) = duration {
            self.duration.observe(&metrics::DURATIONS, nanos);
        }
    }

    /// Counts an attempt that came to nothing.
    pub(super) fn fail(&mut self, why: Failed) {
        self.failed[why as usize] += 1;
    }

    /// Counts drops at a listening socket.
    pub(super) fn overflow(&mut self, drops: u32) {
        self.listen_overflows += u64::from(drops);
    }

    /// Adds a sample of the smoothed round-trip time, in the kernel's eighths of a microsecond.
    pub(super) fn round_trip(&mut self, srtt: u32) {
        if srtt > 0 {
            self.rtt.observe(&metrics::TRIP, u64::from(srtt) * 1000 / 8);
        }
    }

    fn rows(&self, rows: &mut Rows) {
        if self.listener {
            rows.push(&metrics::LISTEN_OVERFLOWS, &self.labels, Value::Counter(self.listen_overflows));
            return;
        }
        for (metric, value) in [
            (&metrics::BYTES_SENT, self.bytes_sent),
            (&metrics::BYTES_RECEIVED, self.bytes_received),
            (&metrics::PACKETS_SENT, self.packets_sent),
            (&metrics::PACKETS_RECEIVED, self.packets_received),
            (&metrics::RETRANSMITS, self.retransmits),
            (&metrics::OPENED, self.opened),
        ] {
            rows.push(metric, &self.labels, Value::Counter(value));
        }
        rows.push(&metrics::ACTIVE, &self.labels, Value::Gauge(self.active as f64));
        for (how, &count) in Closed::ALL.iter().zip(&self.closed).filter(|(_, count)| **count > 0) {
            let reason = Some(("reason", how.reason()));
            rows.push_with(&metrics::CLOSED, &self.labels, reason, Value::Counter(count));
        }
        for (why, &count) in Failed::ALL.iter().zip(&self.failed).filter(|(_, count)| **count > 0) {
            let reason = Some(("reason", why.reason()));
            rows.push_with(&metrics::FAILED, &self.labels, reason, Value::Counter(count));
        }
        for (metric, histogram, bounds) in [
            (&metrics::DURATION, &self.duration, &metrics::DURATION_SECONDS[..]),
            (&metrics::HANDSHAKE, &self.handshake, &metrics::TRIP_SECONDS[..]),
            (&metrics::RTT, &self.rtt, &metrics::TRIP_SECONDS[..]),
        ] {
            if let Some(value) = histogram.value(bounds) {
                rows.push(metric, &self.labels, value);
            }
        }
    }
}

/// All label sets. Slots 0 and 1 are the row for connections and the one for listeners beyond the limit.
pub(super) struct Table {
    start: Start,
    wanted: Wanted,
    masks: Masks,
    slots: Vec<Series>,
    free: Vec<u32>,
    index: FxHashMap<Key, u32>,
    /// The entries of `index` found last, of a server's socket and a client's.
    recent: [(Key, u32); 2],
    /// The same by label values: different numbers can have the same name, such as the cgroups of a service before and
    /// after its restart, and no two rows may have the same labels.
    by_text: HashMap<(Labels, bool), u32>,
    overflowed: u64,
    now: u64,
    /// When idle label sets were last looked for.
    purged: u64,
}

const OTHER: u32 = 0;
const OTHER_LISTENERS: u32 = 1;

impl Table {
    pub(super) fn new(start: &Start) -> Self {
        let wanted = Wanted::of(&start.labels);
        let other = |listener| {
            let labels = Labels::new(names(wanted, listener).map(|name| (name, "other")));
            Series { labels, listener, ..Series::default() }
        };
        Self {
            start: start.clone(),
            wanted,
            masks: Masks::new(wanted),
            by_text: [(false, OTHER), (true, OTHER_LISTENERS)]
                .map(|(listener, slot)| ((other(listener).labels, listener), slot))
                .into(),
            slots: vec![other(false), other(true)],
            free: Vec::new(),
            index: FxHashMap::default(),
            recent: [(Key::NONE, OTHER); 2],
            overflowed: 0,
            now: 0,
            purged: 0,
        }
    }

    /// Tells the table what time it is, in monotonic seconds.
    pub(super) fn tick(&mut self, now: u64) {
        self.now = now;
    }

    /// The slot for a record's label set; the `other` row's when there is no room.
    pub(super) fn slot(&mut self, record: &Record, listener: bool) -> u32 {
        let key = Key::of(record, listener, &self.masks);
        // Of connections that end one after the other many belong together.
        let recent = &self.recent[usize::from(key.client())];
        if recent.0 == key {
            return recent.1;
        }
        if let Some(&slot) = self.index.get(&key) {
            self.recent[usize::from(key.client())] = (key, slot);
            return slot;
        }
        let labels = self.labels(&key);
        let slot = match self.by_text.get(&(labels.clone(), listener)).copied() {
            Some(slot) => slot,
            None if self.label_sets() < self.start.max_series || self.make_room() => {
                self.add(labels, listener)
            }
            None => {
                self.overflowed += u64::from(!listener);
                return if listener { OTHER_LISTENERS } else { OTHER };
            }
        };
        // What several keys share is found again by its text.
        if self.index.len() >= 2 * self.start.max_series {
            self.index.clear();
        }
        self.index.insert(key, slot);
        slot
    }

    /// Without the two rows for the rest.
    fn label_sets(&self) -> usize {
        self.by_text.len() - 2
    }

    fn add(&mut self, labels: Labels, listener: bool) -> u32 {
        let series = Series { labels: labels.clone(), listener, ..Series::default() };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = series;
            slot
        } else {
            self.slots.push(series);
            self.slots.len() as u32 - 1
        };
        self.by_text.insert((labels, listener), slot);
        slot
    }

    /// The series of a slot, to be changed.
    pub(super) fn at(&mut self, slot: u32) -> &mut Series {
        let series = &mut self.slots[slot as usize];
        series.touched = self.now;
        series
    }

    /// Rows of every label set, and of the table itself.
    pub(super) fn rows(&self, rows: &mut Rows) {
        for series in self.slots.iter().filter(|series| series.touched > 0) {
            series.rows(rows);
        }
        let none = Labels::default();
        rows.push(&metrics::OVERFLOWED, &none, Value::Counter(self.overflowed));
        rows.push(&metrics::LABEL_SETS, &none, Value::Gauge(self.label_sets() as f64));
    }

    /// Drops the label sets nobody has used for an hour. Only when room is needed: a series should not vanish because
    /// it is idle.
    fn make_room(&mut self) -> bool {
        // Looking through all of them for every connection would cost more than the connections.
        if std::mem::replace(&mut self.purged, self.now) == self.now {
            return false;
        }
        let (slots, free, now) = (&mut self.slots, &mut self.free, self.now);
        self.by_text.retain(|_, slot| {
            let series = &mut slots[*slot as usize];
            let stays = *slot <= OTHER_LISTENERS || series.held > 0 || series.touched + IDLE_SECONDS > now;
            if !stays {
                *series = Series::default();
                free.push(*slot);
            }
            stays
        });
        self.index.clear();
        self.recent = [(Key::NONE, OTHER); 2];
        self.label_sets() < self.start.max_series
    }

    fn labels(&self, key: &Key) -> Labels {
        let [local, remote] = key.addresses();
        let (src, dst) = if key.client() { (local, remote) } else { (remote, local) };
        let [.., comm, more, cgroup, rest] = key.0;
        let value = |name| match name {
            "src_ip" => src.to_string(),
            "dst_ip" => dst.to_string(),
            "dst_port" => (rest >> PORT_SHIFT & 0xffff).to_string(),
            "role" => if key.client() { "client" } else { "server" }.to_owned(),
            "comm" => comm_text([comm, more]),
            "pid" => (rest >> PID_SHIFT).to_string(),
            _ => self.start.names.cgroup(cgroup),
        };
        Labels::new(names(self.wanted, key.listener()).map(|name| (name, value(name))))
    }
}

/// The names of the wanted labels. A listening socket has no other side.
fn names(wanted: Wanted, listener: bool) -> impl Iterator<Item = &'static str> {
    let of = move |(at, name)| (wanted.0 >> at & 1 != 0 && !(listener && at == 0)).then_some(name);
    NAMES.into_iter().enumerate().filter_map(of)
}

/// A process's name. Names are bytes; what is not UTF-8 is shown as such.
fn comm_text(words: CommWords) -> String {
    let bytes = words.map(u64::to_ne_bytes).concat();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address as two words.
fn words(address: &[u32; 4]) -> [u64; 2] {
    let pair = |at: usize| u64::from(address[at]) | u64::from(address[at + 1]) << 32;
    [pair(0), pair(2)]
}

/// An address in network order. An IPv4 address in its IPv6-mapped form is shown as what it is: the same host is the
/// same whatever the socket's family.
fn address(family: u8, words: [u64; 2]) -> IpAddr {
    let [first, second] = words.map(u64::swap_bytes);
    if u16::from(family) == AF_INET6 {
        Ipv6Addr::from(u128::from(first) << 64 | u128::from(second)).to_canonical()
    } else {
        Ipv4Addr::from((first >> 32) as u32).into()
    }
}
