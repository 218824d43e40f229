//! The collector on a kernel side made by hand, and what becomes of its records.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use sidecar_common::{event::EventHeader, owner::Owner};
use sidecar_core::{
    Collector as _, Event, EventSpec, EventValue, Events, Labels, Listener, OptionValue, Options, Rows,
    Snapshot, Start, Value, probe::Names,
};

use super::{
    collect::{Opens, result},
    decode::{self, escaped, flags_text},
    metrics,
    shared::{
        BASE_BYTES, BOUNDS_NANOS, BUCKETS, CELLS, CUT, Cell, Key, NAME_BYTES, OPEN_EVENT, OPENED_HEAD,
        Opened, PREFIX_WORDS, Table, bucket, place,
    },
};
use crate::{fake::FakeKernel, plain::as_bytes};

struct Numbers;

impl Names for Numbers {
    fn cgroup(&self, id: u64) -> String {
        format!("/{id}")
    }
}

fn start(max_series: usize) -> Start {
    let options = [("latency", OptionValue::Bool(true)), ("paths", OptionValue::Texts(Vec::new()))];
    Start {
        names: Arc::new(Numbers),
        options: Options(options.into_iter().collect()),
        labels: vec!["comm".into()],
        max_series,
        max_connections: 1,
        filtered: false,
        event_bytes: 65_536,
    }
}

const NO_CELL: Cell =
    Cell { changes: 0, key: Key { comm: [0; 2], who: 0, cgroup: 0 }, count: 0, changes_begun: 0 };
const NO_TABLE: Table = Table { turn: 0, nanos: 0, buckets: [0; BUCKETS], cells: [NO_CELL; CELLS] };

fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

fn cell(name: &str, errno: u64, count: u64) -> Cell {
    let comm = comm(name);
    let word = |at: usize| u64::from_ne_bytes(comm[at..at + 8].try_into().unwrap());
    Cell { key: Key { comm: [word(0), word(8)], who: errno, cgroup: 0 }, count, ..NO_CELL }
}

/// A kernel with two processors whose tables hold these cells, and a map with these counts.
fn kernel(tables: [&[Cell]; 2], counts: &[(&str, u32, u64)]) -> FakeKernel {
    let kernel = FakeKernel::default();
    let mut bytes = Vec::new();
    for cells in tables {
        let mut table = NO_TABLE;
        table.cells[..cells.len()].copy_from_slice(cells);
        (table.buckets[3], table.nanos) = (2, 1_000);
        bytes.extend_from_slice(as_bytes(&table));
    }
    kernel.put("TABLES", &0u32.to_ne_bytes(), &bytes);
    for (name, errno, count) in counts {
        let owner = Owner { comm: comm(name), reserved: *errno, ..Owner::UNKNOWN };
        kernel.put("COUNTS", as_bytes(&owner), as_bytes(count));
    }
    kernel
}

fn collect(opens: &mut Opens, mut kernel: FakeKernel) -> Snapshot {
    let mut rows = Rows::default();
    opens.collect(&mut kernel, &mut rows).unwrap();
    rows.finish(std::time::SystemTime::UNIX_EPOCH, std::time::SystemTime::UNIX_EPOCH)
}

fn count(snapshot: &Snapshot, name: &str, word: &str) -> u64 {
    let wanted = Labels::new([("comm", name)]);
    let rows = snapshot.family("sidecar_open_total").map(|family| family.rows.as_slice()).unwrap_or_default();
    let mut found = rows.iter().filter(|row| row.labels == wanted && row.extra == Some(("result", word)));
    match found.next().map(|row| &row.value) {
        Some(Value::Counter(count)) => *count,
        _ => 0,
    }
}

#[test]
fn what_processors_and_the_map_have_counted_is_added_up() {
    let tables = [&[cell("a", 0, 3), cell("b", 2, 5)][..], &[cell("a", 0, 4)]];
    let snapshot = collect(&mut Opens::new(&start(10)), kernel(tables, &[("a", 0, 100), ("a", 13, 7)]));
    assert_eq!((count(&snapshot, "a", "ok"), count(&snapshot, "a", "EACCES")), (107, 7));
    assert_eq!(count(&snapshot, "b", "ENOENT"), 5);
    let Value::Histogram(times) = &snapshot.family("sidecar_open_seconds").unwrap().rows[0].value else {
        panic!("no histogram")
    };
    assert_eq!((times.count(), times.counts[3]), (4, 4));
    assert!((times.sum - 2e-6).abs() < 1e-12);
}

#[test]
fn a_count_on_its_way_to_the_map_is_missed_for_once_and_never_seen_twice() {
    let mut opens = Opens::new(&start(10));
    let mut read = |cells: &[Cell], counts: &[(&str, u32, u64)]| {
        count(&collect(&mut opens, kernel([cells, &[]], counts)), "a", "ok")
    };
    assert_eq!(read(&[cell("a", 0, 50)], &[]), 50);
    // The map was read before, the table after the move.
    assert_eq!(read(&[cell("b", 0, 1)], &[]), 50);
    assert_eq!(read(&[cell("b", 0, 1)], &[("a", 0, 60)]), 60);
    // A cell that changed while it was copied.
    let torn = Cell { changes_begun: 1, ..cell("a", 0, 999) };
    assert_eq!(read(&[torn], &[("a", 0, 60)]), 60);
    assert_eq!(read(&[cell("a", 0, 2)], &[("a", 0, 60)]), 62);
}

#[test]
fn names_are_the_same_whatever_is_behind_their_zero() {
    let mut other = cell("a", 0, 4);
    other.key.comm[1] = u64::MAX;
    let snapshot = collect(&mut Opens::new(&start(10)), kernel([&[cell("a", 0, 3)], &[other]], &[]));
    assert_eq!(count(&snapshot, "a", "ok"), 7);
}

#[test]
fn beyond_the_series_there_may_be_the_rest_is_other() {
    let mut opens = Opens::new(&start(2));
    let cells = [cell("a", 0, 1), cell("b", 0, 2), cell("c", 0, 4), cell("d", 0, 8)];
    let mut fake = kernel([&cells, &[]], &[]);
    fake.sums.insert(("OVERFLOW", 0), 16);
    let snapshot = collect(&mut opens, fake);
    let rows = &snapshot.family("sidecar_open_total").unwrap().rows;
    assert_eq!(rows.len(), 3);
    let total: u64 =
        rows.iter().map(|row| if let Value::Counter(count) = row.value { count } else { 0 }).sum();
    assert_eq!(total, 31);
    assert!(count(&snapshot, "other", "other") >= 16);
}

#[test]
fn idle_counters_make_room_but_not_those_a_table_has() {
    let mut opens = Opens::new(&start(2));
    let counts = [("a", 0, 1), ("b", 0, 1)];
    collect(&mut opens, kernel([&[cell("b", 0, 1)], &[]], &counts));
    let mut later = kernel([&[cell("b", 0, 1)], &[]], &counts);
    later.now = Duration::from_hours(2);
    let mut rows = Rows::default();
    opens.collect(&mut later, &mut rows).unwrap();
    let maps = later.maps.borrow();
    let left: Vec<_> = maps["COUNTS"].keys().collect();
    let kept = Owner { comm: comm("b"), ..Owner::UNKNOWN };
    assert_eq!(left, [as_bytes(&kept)]);
}

#[test]
fn results_have_names() {
    let names = [0, 2, 24, 512, 516, 0xffff, 4000].map(result);
    assert_eq!(names, ["ok", "ENOENT", "EMFILE", "interrupted", "interrupted", "unknown", "other"]);
}

#[test]
fn bounds_in_seconds_and_nanoseconds_are_the_same_and_belong_to_their_buckets() {
    for (at, (nanos, seconds)) in BOUNDS_NANOS.iter().zip(&metrics::BOUNDS).enumerate() {
        assert!((*nanos as f64 / 1e9 - seconds).abs() < 1e-12, "{nanos} ns is not {seconds} s");
        assert_eq!((bucket(*nanos), bucket(nanos + 1)), (at, at + 1), "{nanos} ns");
    }
    assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
}

#[test]
fn flags_are_written_as_the_manual_writes_them() {
    let flags = |flags: i32| flags_text(u64::from(flags.cast_unsigned()));
    assert_eq!(flags(0), "O_RDONLY");
    assert_eq!(flags(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC), "O_WRONLY|O_CREAT|O_TRUNC");
    assert_eq!(flags(libc::O_RDWR | libc::O_SYNC), "O_RDWR|O_SYNC");
    assert_eq!(flags(libc::O_DSYNC), "O_RDONLY|O_DSYNC");
    assert_eq!(flags(libc::O_TMPFILE | libc::O_RDWR), "O_RDWR|O_TMPFILE");
    assert_eq!(flags(libc::O_DIRECTORY | libc::O_CLOEXEC), "O_RDONLY|O_DIRECTORY|O_CLOEXEC");
    assert_eq!(flags_text(1 << 40), "O_RDONLY|0x10000000000");
}

#[test]
fn a_prefix_is_its_bytes_and_counts_no_others() {
    let (table, used) = super::prefixes(&["/etc/".into(), "x".repeat(200)]);
    assert_eq!(used, 2);
    assert_eq!(table[0].words[0].to_ne_bytes(), *b"/etc/\0\0\0");
    assert_eq!(table[0].masks[0].to_ne_bytes(), [0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
    assert_eq!((table[0].masks[1], table[1].masks), (0, [u64::MAX; PREFIX_WORDS]));
}

#[test]
fn prefixes_that_do_not_fit_are_complained_about() {
    let complains = |paths: Vec<String>| {
        let mut start = start(10);
        start.options.0.insert("paths", OptionValue::Texts(paths));
        Opens::new(&start).attached(&mut FakeKernel::default()).is_err()
    };
    assert!(!complains(vec!["x".repeat(64); 8]));
    assert!(
        complains(vec!["x".repeat(65)]) && complains(vec!["/".into(); 9]) && complains(vec![String::new()])
    );
}

#[derive(Default)]
struct Heard(Vec<Event>);

impl Listener for Heard {
    fn event(&mut self, event: Event) {
        self.0.push(event);
    }
    fn lost(&mut self, spec: &'static EventSpec, _: u64) {
        panic!("{} lost", spec.kind);
    }
}

fn hear(bytes: &[u8]) -> Option<Event> {
    let mut heard = Heard::default();
    decode::record(bytes, &Numbers, &mut Events::new(Duration::ZERO, &mut heard)).ok()?;
    heard.0.pop()
}

fn record(path: &[u8]) -> Vec<u8> {
    let owner = Owner { cgroup: 9, comm: comm("name"), pid: 12, reserved: 0 };
    let mut record = Opened {
        header: EventHeader { time: 5, kind: OPEN_EVENT, extra: path.len() as u32 },
        owner,
        flags: 0o101,
        nanos: 1_500,
        mode: 0o644,
        dfd: -100,
        parent: 11,
        uid: 1000,
        result: -13,
        path_flags: CUT,
        path: [0; BASE_BYTES + NAME_BYTES],
    };
    record.path[..path.len()].copy_from_slice(path);
    as_bytes(&record)[..OPENED_HEAD + path.len()].to_vec()
}

#[test]
fn a_record_says_all_of_its_event() {
    let event = hear(&record(b"/tmp/a\\b\xff")).unwrap();
    let value = |name: &str| event.value(name).unwrap().clone();
    let text = |text: &str| EventValue::Text(text.into());
    assert_eq!((value("pid"), value("ppid")), (EventValue::Number(12), EventValue::Number(11)));
    assert_eq!((value("uid"), value("comm")), (EventValue::Number(1000), text("name")));
    assert_eq!((value("cgroup"), value("result")), (text("/9"), EventValue::Word("EACCES")));
    assert_eq!((value("flags"), value("mode")), (text("O_WRONLY|O_CREAT"), text("0644")));
    assert_eq!((value("dfd"), value("path")), (EventValue::Unknown, text("/tmp/a\\\\b\\xff")));
    assert_eq!(value("latency_seconds"), EventValue::Seconds(Duration::from_nanos(1_500)));
    assert_eq!(
        (value("path_cut"), value("path_relative")),
        (EventValue::Bool(true), EventValue::Bool(false))
    );
}

proptest! {
    #[test]
    fn any_bytes_are_an_event_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        if let Some(event) = hear(&bytes) {
            prop_assert_eq!(event.values.len(), event.spec.fields.len());
        }
        // The same with a head that is right.
        let mut whole = record(b"");
        whole.extend_from_slice(&bytes[..bytes.len().min(1536)]);
        prop_assert!(hear(&whole).is_some());
    }

    #[test]
    fn different_paths_stay_different(a in prop::collection::vec(any::<u8>(), 0..20), b in prop::collection::vec(any::<u8>(), 0..20)) {
        prop_assert_eq!(a == b, escaped(&a) == escaped(&b));
    }

    #[test]
    fn keys_have_a_cell(comm in any::<[u64; 2]>(), who in any::<u64>(), cgroup in any::<u64>()) {
        prop_assert!(place(comm, who, cgroup) < CELLS);
    }
}
