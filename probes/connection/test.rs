//! The collector on a kernel the tests write themselves: what is counted when, and that nothing is counted twice.

use std::{sync::Arc, time::Duration};

use sidecar_common::owner::Owner;
use sidecar_core::{CollectError, Collector, Rows, Snapshot, Start, Value, probe::Names};

use super::{
    PROBE,
    shared::{
        AF_INET, AF_INET6, CLIENT, CLOSED, Conn, Counters, GONE, LISTENER, LISTENERS_OWNER, LIVE,
        PREEXISTING, Record, SERVER, nursery_slot, nursery_slots, state,
    },
};
use crate::{
    fake::FakeKernel,
    plain::{as_bytes, view},
};

struct Numbers;

impl Names for Numbers {
    fn cgroup(&self, id: u64) -> String {
        id.to_string()
    }
}

fn start(max_series: usize, labels: &[&str]) -> Start {
    Start {
        names: Arc::new(Numbers),
        options: sidecar_core::Options::default(),
        labels: labels.iter().map(ToString::to_string).collect(),
        max_series,
        max_connections: 100,
        filtered: false,
        event_bytes: 0,
    }
}

const LABELS: [&str; 5] = ["src_ip", "dst_ip", "dst_port", "role", "comm"];

/// A collector with its kernel, attached.
struct Bench {
    kernel: FakeKernel,
    collector: Box<dyn Collector>,
}

impl Bench {
    fn new(start: &Start, programs: &[&'static str]) -> Self {
        let mut kernel = FakeKernel {
            programs: programs.to_vec(),
            now: Duration::from_secs(100),
            ..FakeKernel::default()
        };
        for iterator in ["sweep", "sweep_nursery", "scan_files", "scan_sockets"] {
            kernel.iterators.insert(iterator.into(), Vec::new());
        }
        let mut collector = (PROBE.start)(start);
        collector.attached(&mut kernel).unwrap();
        Self { kernel, collector }
    }

    fn usual() -> Self {
        Self::new(&start(10, &LABELS), &["accept_fexit", "scan_files", "scan_sockets"])
    }

    /// One tick over these records.
    fn tick(&mut self, live: &[Record], closed: &[Record]) -> Snapshot {
        let bytes = live.iter().flat_map(|record| as_bytes(record).to_vec()).collect();
        self.kernel.iterators.insert("sweep".into(), bytes);
        let ring = closed.iter().map(|record| as_bytes(record).to_vec()).collect();
        self.kernel.rings.insert("RECORDS".into(), ring);
        let mut rows = Rows::default();
        self.collector.collect(&mut self.kernel, &mut rows).unwrap();
        let now = std::time::SystemTime::now();
        rows.finish(now, now)
    }
}

/// Sum of a metric's rows that carry all of these label values.
fn sum(snapshot: &Snapshot, metric: &str, labels: &[(&str, &str)]) -> u64 {
    let name = format!("sidecar_connection_{metric}");
    let Some(family) = snapshot.family(&name) else { return 0 };
    let matches = family.rows.iter().filter(|row| {
        labels.iter().all(|(name, value)| {
            row.labels.get(name) == Some(value) || row.extra.is_some_and(|extra| extra == (*name, *value))
        })
    });
    matches
        .map(|row| match &row.value {
            Value::Counter(count) => *count,
            Value::CounterF64(number) | Value::Gauge(number) => *number as u64,
            Value::Histogram(histogram) => histogram.count(),
        })
        .sum()
}

fn counters(sent: u64, received: u64, segs: u32) -> Counters {
    Counters { sent, received, segs_out: segs, segs_in: segs, retransmits: 0, drops: 0 }
}

fn owner(name: &str) -> Owner {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    Owner { comm, pid: 7, ..Owner::UNKNOWN }
}

/// A client's connection from 10.0.0.1 to 10.0.0.2:80, opened under the agent.
fn record(sk: u64, born: u64, counters: Counters) -> Record {
    let conn = Conn {
        owner: owner("curl"),
        born,
        established: born + 1_000_000,
        handshake: 1_000_000,
        base: Counters::default(),
        ports: 1,
        flags: CLIENT,
        seen: 0,
        claims: 0,
        sk,
    };
    Record {
        now: born + 2_001_000_000,
        conn,
        counters,
        saddr: [u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0],
        daddr: [u32::from_ne_bytes([10, 0, 0, 2]), 0, 0, 0],
        srtt: 8_000,
        error: 0,
        sport: 40_000,
        dport: 80,
        family: AF_INET,
        state: u16::from(state::ESTABLISHED),
        kind: LIVE,
        reserved: 0,
    }
}

fn closed(record: Record) -> Record {
    Record { kind: CLOSED, state: u16::from(state::LAST_ACK), ..record }
}

#[test]
fn a_connection_between_two_ticks_is_counted_once_and_whole() {
    let mut bench = Bench::usual();
    let snapshot = bench.tick(&[], &[closed(record(1, 10, counters(100, 2000, 5)))]);
    let labels = [("src_ip", "10.0.0.1"), ("dst_ip", "10.0.0.2"), ("dst_port", "80"), ("role", "client")];
    assert_eq!(sum(&snapshot, "bytes_sent_total", &labels), 100);
    assert_eq!(sum(&snapshot, "bytes_received_total", &labels), 2000);
    assert_eq!(sum(&snapshot, "packets_sent_total", &labels), 5);
    assert_eq!(sum(&snapshot, "opened_total", &labels), 1);
    assert_eq!(sum(&snapshot, "closed_total", &[("reason", "normal")]), 1);
    assert_eq!(sum(&snapshot, "active", &labels), 0);
    for histogram in ["duration_seconds", "handshake_seconds", "rtt_seconds"] {
        assert_eq!(sum(&snapshot, histogram, &labels), 1, "{histogram}");
    }
}

#[test]
fn a_live_connection_is_counted_as_it_goes_and_its_end_adds_only_the_rest() {
    let mut bench = Bench::usual();
    let snapshot = bench.tick(&[record(1, 10, counters(100, 0, 2))], &[]);
    assert_eq!((sum(&snapshot, "bytes_sent_total", &[]), sum(&snapshot, "active", &[])), (100, 1));
    let snapshot = bench.tick(&[record(1, 10, counters(150, 0, 4))], &[]);
    assert_eq!((sum(&snapshot, "bytes_sent_total", &[]), sum(&snapshot, "opened_total", &[])), (150, 1));
    let snapshot = bench.tick(&[], &[closed(record(1, 10, counters(175, 0, 6)))]);
    assert_eq!(sum(&snapshot, "bytes_sent_total", &[]), 175);
    assert_eq!(sum(&snapshot, "packets_sent_total", &[]), 6);
    assert_eq!((sum(&snapshot, "opened_total", &[]), sum(&snapshot, "active", &[])), (1, 0));
}

#[test]
fn a_connection_swept_and_ended_in_the_same_tick_is_counted_once() {
    let mut bench = Bench::usual();
    let live = record(1, 10, counters(100, 0, 2));
    let snapshot = bench.tick(&[live], &[closed(record(1, 10, counters(120, 0, 4)))]);
    assert_eq!((sum(&snapshot, "bytes_sent_total", &[]), sum(&snapshot, "opened_total", &[])), (120, 1));
}

#[test]
fn an_older_connection_at_the_same_address_does_not_end_the_younger_one() {
    let mut bench = Bench::usual();
    let older = closed(record(1, 10, counters(5, 0, 2)));
    let snapshot = bench.tick(&[record(1, 99, counters(100, 0, 2))], &[older]);
    assert_eq!((sum(&snapshot, "opened_total", &[]), sum(&snapshot, "active", &[])), (2, 1));
    assert_eq!(sum(&snapshot, "bytes_sent_total", &[]), 105);
    assert_eq!(sum(&snapshot, "closed_total", &[("reason", "unknown")]), 0);
}

#[test]
fn a_younger_connection_at_the_same_address_ends_one_whose_end_was_missed() {
    let mut bench = Bench::usual();
    bench.tick(&[record(1, 10, counters(5, 0, 2))], &[]);
    let snapshot = bench.tick(&[record(1, 99, counters(7, 0, 2))], &[]);
    assert_eq!(sum(&snapshot, "closed_total", &[("reason", "unknown")]), 1);
    assert_eq!((sum(&snapshot, "active", &[]), sum(&snapshot, "bytes_sent_total", &[])), (1, 12));
}

#[test]
fn a_younger_connection_seen_before_the_older_ones_end_is_read_confuses_nothing() {
    let mut bench = Bench::usual();
    bench.tick(&[record(1, 10, counters(5, 0, 2))], &[]);
    let snapshot =
        bench.tick(&[record(1, 99, counters(7, 0, 2))], &[closed(record(1, 10, counters(6, 0, 3)))]);
    assert_eq!(sum(&snapshot, "closed_total", &[("reason", "normal")]), 1);
    assert_eq!(sum(&snapshot, "closed_total", &[("reason", "unknown")]), 0);
    assert_eq!((sum(&snapshot, "opened_total", &[]), sum(&snapshot, "active", &[])), (2, 1));
    assert_eq!(sum(&snapshot, "bytes_sent_total", &[]), 13);
}

#[test]
fn a_socket_that_is_gone_is_closed_as_unknown_and_forgotten_in_the_kernel() {
    let mut bench = Bench::usual();
    bench.tick(&[record(1, 10, counters(5, 0, 2))], &[]);
    let gone = Record { kind: GONE, ..record(1, 10, counters(0, 0, 0)) };
    bench.kernel.put("SOCKETS", as_bytes(&1u64), as_bytes(&gone.conn));
    let snapshot = bench.tick(&[gone], &[]);
    assert_eq!(sum(&snapshot, "closed_total", &[("reason", "unknown")]), 1);
    assert_eq!((sum(&snapshot, "active", &[]), sum(&snapshot, "bytes_sent_total", &[])), (0, 5));
    assert!(bench.kernel.maps.borrow()["SOCKETS"].is_empty());
}

#[test]
fn segment_counters_may_wrap() {
    let mut bench = Bench::usual();
    let before = Counters { segs_out: u32::MAX - 9, segs_in: u32::MAX, ..Counters::default() };
    let mut old = record(1, 10, before);
    old.conn.base = before;
    bench.tick(&[old], &[]);
    old.counters = Counters { segs_out: 10, segs_in: 0, ..Counters::default() };
    let snapshot = bench.tick(&[old], &[]);
    assert_eq!(sum(&snapshot, "packets_sent_total", &[]), 20);
    assert_eq!(sum(&snapshot, "packets_received_total", &[]), 1);
}

#[test]
fn a_counter_seen_too_small_for_a_moment_does_not_go_back_or_count_twice() {
    let mut bench = Bench::usual();
    bench.tick(&[record(1, 10, counters(100, 0, 2))], &[]);
    let snapshot = bench.tick(&[record(1, 10, counters(60, 0, 3))], &[]);
    assert_eq!(sum(&snapshot, "bytes_sent_total", &[]), 100);
    let snapshot = bench.tick(&[record(1, 10, counters(130, 0, 4))], &[]);
    assert_eq!(sum(&snapshot, "bytes_sent_total", &[]), 130);
}

#[test]
fn a_connection_from_before_counts_from_now_and_is_not_opened() {
    let mut bench = Bench::usual();
    let mut old = record(1, 10, counters(1_000, 0, 9));
    old.conn = Conn { base: counters(900, 0, 5), established: 0, flags: CLIENT | PREEXISTING, ..old.conn };
    let snapshot = bench.tick(&[old], &[]);
    assert_eq!((sum(&snapshot, "bytes_sent_total", &[]), sum(&snapshot, "active", &[])), (100, 1));
    let snapshot = bench.tick(&[], &[closed(old)]);
    assert_eq!((sum(&snapshot, "opened_total", &[]), sum(&snapshot, "closed_total", &[])), (0, 1));
    assert_eq!(sum(&snapshot, "duration_seconds", &[]), 0);
}

#[test]
fn an_attempt_that_failed_is_no_connection() {
    let mut bench = Bench::usual();
    let mut refused = closed(record(1, 10, counters(0, 0, 1)));
    refused.conn.established = 0;
    (refused.state, refused.error) = (u16::from(state::SYN_SENT), 111);
    let snapshot = bench.tick(&[], &[refused]);
    assert_eq!(sum(&snapshot, "failed_total", &[("reason", "refused")]), 1);
    assert_eq!((sum(&snapshot, "opened_total", &[]), sum(&snapshot, "closed_total", &[])), (0, 0));
}

#[test]
fn beyond_max_series_the_rest_is_one_row_and_the_totals_stay_right() {
    let mut bench = Bench::new(&start(2, &LABELS), &["accept_fexit"]);
    let to_port =
        |port: u16| Record { dport: port, ..closed(record(u64::from(port), 10, counters(10, 0, 1))) };
    let snapshot = bench.tick(&[], &[1, 2, 3, 4, 5].map(to_port));
    assert_eq!(sum(&snapshot, "bytes_sent_total", &[]), 50);
    let other: Vec<_> = LABELS.iter().map(|label| (*label, "other")).collect();
    assert_eq!(sum(&snapshot, "bytes_sent_total", &other), 30);
    assert_eq!(sum(&snapshot, "overflowed_total", &[]), 3);
    assert_eq!(sum(&snapshot, "label_sets", &[]), 2);
}

#[test]
fn idle_label_sets_make_room_after_an_hour_but_not_while_a_connection_is_open() {
    let mut bench = Bench::new(&start(2, &LABELS), &["accept_fexit"]);
    let to_port = |port: u16| Record { dport: port, ..record(u64::from(port), 10, counters(10, 0, 1)) };
    bench.tick(&[to_port(1)], &[closed(to_port(2))]);
    bench.kernel.now += Duration::from_secs(3_601);
    let snapshot = bench.tick(&[], &[closed(to_port(3))]);
    assert_eq!(sum(&snapshot, "opened_total", &[("dst_port", "3")]), 1);
    assert_eq!(sum(&snapshot, "active", &[("dst_port", "1")]), 1);
    assert_eq!(sum(&snapshot, "opened_total", &[("dst_port", "2")]), 0);
    assert_eq!(sum(&snapshot, "overflowed_total", &[]), 0);
}

#[test]
fn ipv4_through_an_ipv6_socket_is_the_same_host() {
    let mut bench = Bench::usual();
    let mapped = |last| [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([10, 0, 0, last])];
    let mut v6 = closed(record(2, 10, counters(1, 0, 1)));
    (v6.family, v6.saddr, v6.daddr) = (AF_INET6, mapped(1), mapped(2));
    let snapshot = bench.tick(&[], &[closed(record(1, 10, counters(1, 0, 1))), v6]);
    assert_eq!(sum(&snapshot, "opened_total", &[("src_ip", "10.0.0.1"), ("dst_ip", "10.0.0.2")]), 2);
    assert_eq!(sum(&snapshot, "label_sets", &[]), 1);
}

#[test]
fn a_server_sees_the_same_source_and_destination_as_its_client() {
    let mut bench = Bench::usual();
    let mut server = closed(record(1, 10, counters(1, 2, 1)));
    server.conn.flags = SERVER;
    (server.sport, server.dport) = (80, 40_000);
    std::mem::swap(&mut server.saddr, &mut server.daddr);
    let snapshot = bench.tick(&[], &[server]);
    let labels = [("src_ip", "10.0.0.1"), ("dst_ip", "10.0.0.2"), ("dst_port", "80"), ("role", "server")];
    assert_eq!(sum(&snapshot, "bytes_sent_total", &labels), 1);
}

#[test]
fn without_an_accept_hook_the_holder_is_looked_for_before_anything_is_counted() {
    let mut bench = Bench::new(&start(10, &LABELS), &["scan_files", "scan_sockets"]);
    bench.kernel.runs.borrow_mut().clear();
    let mut waiting = record(1, 10, counters(5, 0, 1));
    waiting.conn.flags = SERVER | LISTENERS_OWNER;
    let settled = Conn { owner: owner("worker"), flags: SERVER, ..waiting.conn };
    bench.kernel.put("SOCKETS", as_bytes(&1u64), as_bytes(&settled));
    let snapshot = bench.tick(&[waiting], &[]);
    assert_eq!(sum(&snapshot, "active", &[("comm", "worker")]), 1);
    assert_eq!(sum(&snapshot, "active", &[("comm", "curl")]), 0);
    assert_eq!(*bench.kernel.runs.borrow(), ["sweep", "sweep_nursery", "scan_files"]);
}

#[test]
fn the_holder_of_a_connection_in_the_nursery_is_read_from_its_slot_unless_another_has_taken_it() {
    let mut bench = Bench::new(&start(10, &LABELS), &["scan_files", "scan_sockets"]);
    let mut waiting = record(0xffff_8881_0000_1000, 10, counters(5, 0, 1));
    waiting.conn = Conn { flags: SERVER | LISTENERS_OWNER, claims: 1, ..waiting.conn };
    let slot = nursery_slot(waiting.conn.sk, nursery_slots(100) - 1);
    let settled = Conn { owner: owner("worker"), flags: SERVER, ..waiting.conn };
    bench.kernel.put("NURSERY", as_bytes(&slot), as_bytes(&Conn { sk: 7, ..settled }));
    assert_eq!(sum(&bench.tick(&[waiting], &[]), "active", &[]), 0);
    bench.kernel.put("NURSERY", as_bytes(&slot), as_bytes(&settled));
    assert_eq!(sum(&bench.tick(&[waiting], &[]), "active", &[("comm", "worker")]), 1);
}

#[test]
fn the_nursery_has_a_power_of_two_of_slots_and_spreads_sockets_over_them() {
    for (connections, slots) in [(1, 1), (100, 2), (65_536, 1_024), (1_000_000, 1_024)] {
        assert_eq!(nursery_slots(connections), slots, "for {connections}");
    }
    // The objects of a slab: 13 in eight pages each.
    let sockets = (0..512).map(|at| 0xffff_8881_0000_0000 + at / 13 * 32_768 + at % 13 * 2_432);
    let slots: std::collections::HashSet<u32> = sockets.map(|sk| nursery_slot(sk, 1_023)).collect();
    assert!(slots.len() > 350, "512 sockets in {} slots of 1,024", slots.len());
}

#[test]
fn a_connection_that_changes_hands_is_active_in_one_place_only() {
    let mut bench = Bench::usual();
    let mut waiting = record(1, 10, counters(5, 0, 1));
    waiting.conn.flags = SERVER | LISTENERS_OWNER;
    bench.tick(&[waiting], &[]);
    waiting.conn = Conn { owner: owner("worker"), flags: SERVER, ..waiting.conn };
    waiting.counters.sent = 8;
    let snapshot = bench.tick(&[waiting], &[]);
    assert_eq!(sum(&snapshot, "active", &[("comm", "curl")]), 0);
    assert_eq!(sum(&snapshot, "active", &[("comm", "worker")]), 1);
    assert_eq!(sum(&snapshot, "bytes_sent_total", &[("comm", "worker")]), 3);
    assert_eq!(sum(&snapshot, "opened_total", &[]), 1);
}

#[test]
fn spilled_records_are_late_but_not_lost() {
    let mut bench = Bench::usual();
    let record = closed(record(1, 10, counters(100, 0, 5)));
    bench.kernel.put("SPILL", as_bytes(&1u64), as_bytes(&record));
    let snapshot = bench.tick(&[], &[]);
    assert_eq!(sum(&snapshot, "bytes_sent_total", &[]), 100);
    assert_eq!(sum(&bench.tick(&[], &[]), "bytes_sent_total", &[]), 100);
}

#[test]
fn a_listeners_drops_are_counted_and_it_is_no_connection() {
    let mut bench = Bench::usual();
    let mut listener = record(1, 10, Counters { drops: 3, ..Counters::default() });
    listener.conn = Conn { flags: LISTENER, ports: 0, established: 0, ..listener.conn };
    (listener.sport, listener.dport) = (80, 0);
    std::mem::swap(&mut listener.saddr, &mut listener.daddr);
    let snapshot = bench.tick(&[listener], &[]);
    let labels = [("dst_ip", "10.0.0.2"), ("dst_port", "80"), ("role", "server")];
    assert_eq!(sum(&snapshot, "listen_overflows_total", &labels), 3);
    assert_eq!(sum(&snapshot, "active", &[]), 0);
}

#[test]
fn names_that_look_the_same_share_one_row() {
    let mut bench = Bench::usual();
    let named = |sk, bytes: &[u8]| {
        let mut record = closed(record(sk, 10, counters(10, 0, 1)));
        record.conn.owner.comm = [0; 16];
        record.conn.owner.comm[..bytes.len()].copy_from_slice(bytes);
        record
    };
    let snapshot = bench.tick(&[], &[named(1, b"a\xff\n\"\\"), named(2, b"a\xfe\n\"\\")]);
    let family = snapshot.family("sidecar_connection_bytes_sent_total").unwrap();
    assert_eq!(family.rows.len(), 1);
    assert_eq!(family.rows[0].labels.get("comm"), Some("a\u{fffd}\n\"\\"));
    assert_eq!((sum(&snapshot, "bytes_sent_total", &[]), sum(&snapshot, "label_sets", &[])), (20, 1));
}

#[test]
fn unwanted_labels_are_left_out_and_their_series_joined() {
    let mut bench = Bench::new(&start(10, &["dst_port", "pid"]), &["accept_fexit"]);
    let mut elsewhere = closed(record(2, 10, counters(1, 0, 1)));
    elsewhere.saddr[0] = 9;
    let snapshot = bench.tick(&[], &[closed(record(1, 10, counters(1, 0, 1))), elsewhere]);
    let family = snapshot.family("sidecar_connection_bytes_sent_total").unwrap();
    assert_eq!(family.rows.len(), 1);
    let labels: Vec<_> = family.rows[0].labels.iter().collect();
    assert_eq!(labels, [("dst_port", "80"), ("pid", "7")]);
}

#[test]
fn a_duration_on_a_bound_belongs_to_its_bucket() {
    let mut bench = Bench::usual();
    let mut exact = closed(record(1, 10, counters(1, 0, 1)));
    exact.now = exact.conn.established + 1_000_000_000;
    let mut above = closed(record(2, 10, counters(1, 0, 1)));
    above.now = above.conn.established + 1_000_000_001;
    let snapshot = bench.tick(&[], &[exact, above]);
    let Value::Histogram(histogram) =
        &snapshot.family("sidecar_connection_duration_seconds").unwrap().rows[0].value
    else {
        panic!("not a histogram")
    };
    let one_second = histogram.bounds.iter().position(|bound| (*bound - 1.0).abs() < f64::EPSILON).unwrap();
    assert_eq!((histogram.counts[one_second], histogram.counts[one_second + 1]), (1, 1));
}

#[test]
fn bytes_that_are_no_record_are_an_error_and_not_a_number() {
    let mut bench = Bench::usual();
    bench.kernel.iterators.insert("sweep".into(), vec![1; size_of::<Record>() + 3]);
    let result = bench.collector.collect(&mut bench.kernel, &mut Rows::default());
    assert!(matches!(result, Err(CollectError::Malformed(_))));
}

#[test]
fn records_have_no_padding_that_could_leak_or_differ() {
    assert_eq!(size_of::<Record>(), 8 + size_of::<Conn>() + 32 + 16 + 16 + 8 + 8 + 8);
    assert_eq!(size_of::<Conn>(), 32 + 24 + 32 + 16 + 8);
    let original = record(1, 2, counters(3, 4, 5));
    let copy: &Record = view(as_bytes(&original)).unwrap();
    assert_eq!((copy.conn.sk, copy.conn.born, copy.counters), (1, 2, counters(3, 4, 5)));
}
