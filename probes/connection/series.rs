//! The table of label sets: what has been counted for each, bounded by `metrics.max_series`.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv6Addr},
};

use rustc_hash::FxHashMap;
use sidecar_common::{owner::COMM_LEN, scope::comm_words};
use sidecar_core::{HistogramValue, Labels, Rows, Start, Value};

use super::{
    ending::{Closed, Failed},
    metrics,
    shared::{AF_INET6, CLIENT, Counters, Record},
};

/// Ticks a label set must have been idle before it makes room for another.
const IDLE_SECONDS: u64 = 3600;

/// Every label there can be, in the order they are shown.
const NAMES: [&str; 7] = ["src_ip", "dst_ip", "dst_port", "role", "comm", "pid", "cgroup"];
const SRC_IP: Wanted = Wanted(1);
const DST_IP: Wanted = Wanted(1 << 1);
const DST_PORT: Wanted = Wanted(1 << 2);
const ROLE: Wanted = Wanted(1 << 3);
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

/// A label set as numbers; what the user does not want is zero, so that it does not tell series apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    src: u128,
    dst: u128,
    cgroup: u64,
    comm: [u8; 16],
    pid: u32,
    port: u16,
    client: bool,
    listener: bool,
}

impl Hash for Key {
    /// Word by word: field by field costs several times as much, for every connection that ends.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [first, second] = comm_words(&self.comm);
        let rest = u64::from(self.pid) << 32
            | u64::from(self.port) << 16
            | u64::from(self.client) << 1
            | u64::from(self.listener);
        for word in [self.src as u64, (self.src >> 64) as u64, self.dst as u64, (self.dst >> 64) as u64] {
            state.write_u64(word);
        }
        for word in [first, second, self.cgroup, rest] {
            state.write_u64(word);
        }
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
    fn observe(&mut self, bounds: &[u64], nanos: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; bounds.len() + 1].into();
        }
        // Bounds are inclusive: the first one that is not below the value.
        let at = bounds.partition_point(|&bound| bound < nanos);
        self.counts[at] += 1;
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
            self.handshake.observe(&metrics::TRIP_NANOS, handshake);
        }
    }

    /// Counts the end of an established connection.
    pub(super) fn close(&mut self, how: Closed, duration: Option<u64>) {
        self.closed[how as usize] += 1;
        if let Some(nanos) = duration {
            self.duration.observe(&metrics::DURATION_NANOS, nanos);
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
            self.rtt.observe(&metrics::TRIP_NANOS, u64::from(srtt) * 1000 / 8);
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
    slots: Vec<Series>,
    free: Vec<u32>,
    index: FxHashMap<Key, u32>,
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
            by_text: [(false, OTHER), (true, OTHER_LISTENERS)]
                .map(|(listener, slot)| ((other(listener).labels, listener), slot))
                .into(),
            slots: vec![other(false), other(true)],
            free: Vec::new(),
            index: FxHashMap::default(),
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
        let key = key(self.wanted, record, listener);
        if let Some(&slot) = self.index.get(&key) {
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
        self.label_sets() < self.start.max_series
    }

    fn labels(&self, key: &Key) -> Labels {
        let value = |name| match name {
            "src_ip" => address(key.src).to_string(),
            "dst_ip" => address(key.dst).to_string(),
            "dst_port" => key.port.to_string(),
            "role" => if key.client { "client" } else { "server" }.to_owned(),
            "comm" => comm_text(&key.comm),
            "pid" => key.pid.to_string(),
            _ => self.start.names.cgroup(key.cgroup),
        };
        Labels::new(names(self.wanted, key.listener).map(|name| (name, value(name))))
    }
}

/// The names of the wanted labels. A listening socket has no other side.
fn names(wanted: Wanted, listener: bool) -> impl Iterator<Item = &'static str> {
    let of = move |(at, name)| (wanted.0 >> at & 1 != 0 && !(listener && at == 0)).then_some(name);
    NAMES.into_iter().enumerate().filter_map(of)
}

fn key(wanted: Wanted, record: &Record, listener: bool) -> Key {
    let (local, remote) = (address_of(record, &record.saddr), address_of(record, &record.daddr));
    let client = record.conn.flags & CLIENT != 0;
    let (src, dst, port) = if client { (local, remote, record.dport) } else { (remote, local, record.sport) };
    let owner = &record.conn.owner;
    Key {
        src: if wanted.has(SRC_IP) && !listener { src } else { 0 },
        dst: if wanted.has(DST_IP) { dst } else { 0 },
        port: if wanted.has(DST_PORT) { port } else { 0 },
        client: wanted.has(ROLE) && client,
        comm: if wanted.has(COMM) { owner.comm } else { [0; 16] },
        pid: if wanted.has(PID) { owner.pid } else { 0 },
        cgroup: if wanted.has(CGROUP) { owner.cgroup } else { 0 },
        listener,
    }
}

/// A process's name. Names are bytes; what is not UTF-8 is shown as such.
fn comm_text(comm: &[u8; COMM_LEN]) -> String {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(COMM_LEN);
    String::from_utf8_lossy(&comm[..end]).into_owned()
}

/// An address as a number, IPv4 in its IPv6-mapped form: the same host is the same whatever the socket's family.
fn address_of(record: &Record, words: &[u32; 4]) -> u128 {
    let mut bytes = [0; 16];
    if record.family == AF_INET6 {
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        u128::from_be_bytes(bytes)
    } else {
        0xffff_0000_0000 | u128::from(u32::from_be_bytes(words[0].to_ne_bytes()))
    }
}

fn address(number: u128) -> IpAddr {
    Ipv6Addr::from(number).to_canonical()
}
