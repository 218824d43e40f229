//! Events of the probe. They are made from the same records as the numbers: a connection's opening is told when it is
//! first met, in a sweep or when it has ended already, with the time at which it was established. So the kernel side has
//! nothing to do for them.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use sidecar_common::loss::Loss;
use sidecar_core::{EventField, EventSpec, EventValue, Events, FieldKind, Kernel, Start, probe::Names};

use super::{
    ending::{Closed, Failed},
    shared::{AF_INET6, CLIENT, Record},
};

/// Time between two sweeps while somebody listens, short of the agent's own pace.
const SWEEP: Duration = Duration::from_millis(450);
/// Most events between two times they are fetched.
const MOST: usize = 8_192;

const fn field(name: &'static str, kind: FieldKind, width: u8, help: &'static str) -> EventField {
    EventField { name, kind, optional: false, width, help }
}

const fn optional(name: &'static str, kind: FieldKind, width: u8, help: &'static str) -> EventField {
    EventField { name, kind, optional: true, width, help }
}

/// A connection begins, ends or fails to begin.
pub(super) static CONNECTION: EventSpec = EventSpec {
    kind: "connection",
    summary: "A TCP connection was established, has ended, or could not be established",
    fields: &[
        field("what", FieldKind::Choice(&["open", "close", "fail"]), 5, "What happened"),
        optional("pid", FieldKind::Number, 7, "Process id of the owner of the socket"),
        field("comm", FieldKind::Text, 15, "Name of the owner; empty if it is not known"),
        field("cgroup", FieldKind::Text, 0, "cgroup of the owner; empty if it is not known"),
        field(
            "role",
            FieldKind::Choice(&["client", "server"]),
            6,
            "Whose socket it is: of the side that connected, or of the one that listens",
        ),
        field("src_ip", FieldKind::Text, 15, "Address of the side that connected"),
        field("src_port", FieldKind::Number, 8, "Port of the side that connected"),
        field("dst_ip", FieldKind::Text, 15, "Address of the side that listens"),
        field("dst_port", FieldKind::Number, 8, "Port of the side that listens"),
        field(
            "bytes_sent",
            FieldKind::Number,
            11,
            "Payload bytes sent so far, each byte once, since the agent knows the connection",
        ),
        field("bytes_received", FieldKind::Number, 14, "Payload bytes received so far"),
        field("packets_sent", FieldKind::Number, 0, "Segments sent so far"),
        field("packets_received", FieldKind::Number, 0, "Segments received so far"),
        field("retransmits", FieldKind::Number, 0, "Segments sent again so far"),
        optional("rtt_seconds", FieldKind::Seconds, 8, "Smoothed round-trip time"),
        optional("handshake_seconds", FieldKind::Seconds, 0, "Time from SYN to established"),
        optional("duration_seconds", FieldKind::Seconds, 9, "Time from established to the end"),
        optional(
            "reason",
            FieldKind::Text,
            14,
            "How it ended or why it failed, as the label `reason` of the metrics",
        ),
    ],
};

/// What happened to a connection.
#[derive(Clone, Copy)]
enum What {
    Open,
    /// With how long it was open, if that is known.
    Close(Closed, Option<u64>),
    Fail(Failed),
}

/// Makes events while somebody listens.
pub(super) struct Teller {
    names: Arc<dyn Names>,
    on: bool,
    /// Since when somebody listens, monotonic nanoseconds: what was established before is not told as new.
    since: Option<u64>,
    swept: Duration,
    waiting: VecDeque<(What, Record)>,
    lost: u64,
    /// Records the kernel side had no room for when it was last looked at.
    lost_there: u64,
}

impl Teller {
    pub(super) fn new(start: &Start) -> Self {
        Self {
            names: Arc::clone(&start.names),
            on: false,
            since: None,
            swept: Duration::ZERO,
            waiting: VecDeque::new(),
            lost: 0,
            lost_there: 0,
        }
    }

    pub(super) fn listening(&mut self, wanted: u32) {
        self.on = wanted != 0;
        self.since = None;
        if !self.on {
            self.waiting = VecDeque::new();
        }
    }

    /// An established connection has been met for the first time.
    pub(super) fn opened(&mut self, record: &Record) {
        let established = record.conn.established;
        if self.since.is_some_and(|since| established >= since) {
            self.tell(What::Open, record);
        }
    }

    pub(super) fn closed(&mut self, record: &Record, how: Closed, duration: Option<u64>) {
        self.tell(What::Close(how, duration), record);
    }

    pub(super) fn failed(&mut self, record: &Record, why: Failed) {
        self.tell(What::Fail(why), record);
    }

    fn tell(&mut self, what: What, record: &Record) {
        if !self.on {
            return;
        }
        if self.waiting.len() < MOST {
            self.waiting.push_back((what, *record));
        } else {
            self.lost += 1;
        }
    }

    /// Whether it is time to look for new connections.
    pub(super) fn wants_sweep(&mut self, now: Duration) -> bool {
        self.since.get_or_insert(if self.on { now.as_nanos() as u64 } else { u64::MAX });
        let is_time = self.on && now.saturating_sub(self.swept) >= SWEEP;
        if is_time {
            self.swept = now;
        }
        is_time
    }

    /// Hands over what has happened.
    pub(super) fn hand_over(&mut self, kernel: &dyn Kernel, out: &mut Events<'_>) {
        for (what, record) in std::mem::take(&mut self.waiting) {
            let nanos = if matches!(what, What::Open) { record.conn.established } else { record.now };
            out.push(&CONNECTION, nanos, self.values(what, &record));
        }
        let lost_there = kernel.per_cpu_sum("LOSS", Loss::Record as u32).unwrap_or(self.lost_there);
        let lost = std::mem::take(&mut self.lost) + lost_there.saturating_sub(self.lost_there);
        self.lost_there = lost_there;
        out.lost(&CONNECTION, lost);
    }

    fn values(&self, what: What, record: &Record) -> Vec<EventValue> {
        let conn = &record.conn;
        let local = (address(record.family, record.saddr), record.sport);
        let remote = (address(record.family, record.daddr), record.dport);
        let is_client = conn.flags & CLIENT != 0;
        let [source, destination] = if is_client { [local, remote] } else { [remote, local] };
        let is_known = conn.owner.pid != 0;
        let comm = conn.owner.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        let done = record.counters.since(&conn.base);
        let number = |count: u64| EventValue::Number(i64::try_from(count).unwrap_or(i64::MAX));
        let seconds = |nanos: u64| {
            if nanos == 0 { EventValue::Unknown } else { EventValue::Seconds(Duration::from_nanos(nanos)) }
        };
        let (word, duration, reason) = match what {
            What::Open => ("open", EventValue::Unknown, EventValue::Unknown),
            What::Close(how, duration) => {
                let duration = duration.map(Duration::from_nanos);
                (
                    "close",
                    duration.map_or(EventValue::Unknown, EventValue::Seconds),
                    EventValue::Word(how.reason()),
                )
            }
            What::Fail(why) => ("fail", EventValue::Unknown, EventValue::Word(why.reason())),
        };
        vec![
            EventValue::Word(word),
            if is_known { number(conn.owner.pid.into()) } else { EventValue::Unknown },
            EventValue::Text(String::from_utf8_lossy(comm).into_owned()),
            EventValue::Text(if is_known { self.names.cgroup(conn.owner.cgroup) } else { String::new() }),
            EventValue::Word(if is_client { "client" } else { "server" }),
            EventValue::Text(source.0.to_string()),
            number(source.1.into()),
            EventValue::Text(destination.0.to_string()),
            number(destination.1.into()),
            number(done.sent),
            number(done.received),
            number(done.segs_out.into()),
            number(done.segs_in.into()),
            number(done.retransmits.into()),
            // Eighths of a microsecond.
            seconds(u64::from(record.srtt) * 125),
            seconds(conn.handshake),
            duration,
            reason,
        ]
    }
}

/// An address; IPv4 in IPv6 is IPv4.
fn address(family: u16, words: [u32; 4]) -> IpAddr {
    let bytes = words.map(u32::to_ne_bytes);
    if family == AF_INET6 {
        let [a, b, c, d] = words.map(u32::from_be).map(u128::from);
        Ipv6Addr::from(a << 96 | b << 64 | c << 32 | d).to_canonical()
    } else {
        Ipv4Addr::from(bytes[0]).into()
    }
}
