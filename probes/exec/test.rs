//! The collector on a kernel the tests write themselves: what is counted under which name, and what events say.

use std::{
    collections::BTreeMap,
    mem::{offset_of, size_of},
    sync::Arc,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use sidecar_common::{event::EventHeader, owner::Owner};
use sidecar_core::{
    CollectError, Collector, Event, EventSpec, EventValue, Events, Listener, OptionValue, Options, Rows,
    Snapshot, Start, Value, probe::Names,
};

use super::{
    PROBE, metrics,
    shared::{
        EXEC, EXEC_EVENT, EXEC_HEAD, EXIT, EXIT_EVENT, EXIT_FAILURE, Exec, Exit, FAILED, LIFETIME_SUM,
        LIFETIMES, OVERFLOW, bucket, ending, what,
    },
};
use crate::{fake::FakeKernel, plain::as_bytes};

struct Numbers;

impl Names for Numbers {
    fn cgroup(&self, id: u64) -> String {
        format!("/{id}")
    }
}

fn start(labels: &[&str], redact: bool) -> Start {
    Start {
        names: Arc::new(Numbers),
        options: Options(BTreeMap::from([("redact", OptionValue::Bool(redact))])),
        labels: labels.iter().map(ToString::to_string).collect(),
        max_series: 8,
        max_connections: 1,
        filtered: false,
        event_bytes: 0,
    }
}

fn key(comm: &[u8], what: u32) -> Owner {
    let mut owner = Owner { reserved: what, ..Owner::UNKNOWN };
    owner.comm[..comm.len()].copy_from_slice(comm);
    owner
}

fn collect(collector: &mut dyn Collector, kernel: &mut FakeKernel) -> Snapshot {
    let mut rows = Rows::default();
    collector.collect(kernel, &mut rows).unwrap();
    rows.finish(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH)
}

/// Rows of a metric as `labels result → count`.
fn shown(snapshot: &Snapshot, metric: &str) -> Vec<(String, u64)> {
    let Some(family) = snapshot.family(metric) else { return Vec::new() };
    let row = |row: &sidecar_core::Row| {
        let labels: Vec<_> = row.labels.iter().map(|(_, value)| value.to_owned()).collect();
        let Value::Counter(count) = row.value else { panic!("not a counter") };
        (format!("{} {}", labels.join(","), row.extra.unwrap().1), count)
    };
    family.rows.iter().map(row).collect()
}

#[test]
fn counts_are_shown_by_name_and_by_what_happened() {
    let mut kernel = FakeKernel::default();
    let put = |map: &str, key: Owner, count: u64| kernel.put(map, as_bytes(&key), as_bytes(&count));
    put("COUNTS", key(b"cat", what(EXEC, 0)), 3);
    put("COUNTS", key(b"cat", what(EXIT, 0)), 2);
    put("COUNTS", key(b"cat", what(EXIT, EXIT_FAILURE)), 4);
    put("COUNTS", key(b"cat", what(EXIT, 9)), 1);
    put("FAILED_COUNTS", key(b"sh", what(FAILED, 2)), 7);
    put("FAILED_COUNTS", key(b"sh", what(FAILED, 13)), 5);
    let mut collector = (PROBE.start)(&start(&["comm"], true));
    let snapshot = collect(&mut *collector, &mut kernel);
    let expect = |metric, expected: &[(&str, u64)]| {
        let mut rows = shown(&snapshot, metric);
        rows.sort();
        assert_eq!(
            rows,
            expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<Vec<_>>()
        );
    };
    expect("sidecar_exec_total", &[("cat ok", 3), ("sh EACCES", 5), ("sh ENOENT", 7)]);
    expect("sidecar_exec_exits_total", &[("cat SIGKILL", 1), ("cat failure", 4), ("cat success", 2)]);
    assert_eq!(collector.fill(), [("COUNTS", 4), ("FAILED_COUNTS", 2)]);
}

#[test]
fn names_that_look_the_same_share_one_row() {
    let mut kernel = FakeKernel::default();
    for (name, count) in [(b"a\xff", 1u64), (b"a\xfe", 2)] {
        kernel.put("COUNTS", as_bytes(&key(name, what(EXEC, 0))), as_bytes(&count));
    }
    let snapshot = collect(&mut *(PROBE.start)(&start(&["comm"], true)), &mut kernel);
    assert_eq!(shown(&snapshot, "sidecar_exec_total"), [("a\u{fffd} ok".to_owned(), 3)]);
}

#[test]
fn process_ids_and_cgroups_are_labels_if_they_are_asked_for() {
    let kernel = FakeKernel::default();
    let owner = Owner { pid: 7, cgroup: 5, ..key(b"cat", what(EXEC, 0)) };
    kernel.put("COUNTS", as_bytes(&owner), as_bytes(&1u64));
    let mut kernel = kernel;
    let snapshot =
        collect(&mut *(PROBE.start)(&start(&["comm", "pid", "cgroup", "role"], true)), &mut kernel);
    let labels: Vec<_> = snapshot.family("sidecar_exec_total").unwrap().rows[0]
        .labels
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    assert_eq!(labels, ["comm=cat", "pid=7", "cgroup=/5"]);
}

#[test]
fn what_had_no_room_is_counted_as_other() {
    let mut kernel = FakeKernel::default();
    for (kind, count) in [(EXEC, 2), (FAILED, 3), (EXIT, 4)] {
        kernel.sums.insert(("COUNTERS", OVERFLOW + kind), count);
    }
    let snapshot = collect(&mut *(PROBE.start)(&start(&["comm"], true)), &mut kernel);
    assert_eq!(shown(&snapshot, "sidecar_exec_total"), [("other other".to_owned(), 5)]);
    assert_eq!(shown(&snapshot, "sidecar_exec_exits_total"), [("other other".to_owned(), 4)]);
}

#[test]
fn counters_that_stand_still_for_an_hour_make_room_but_only_when_it_is_needed() {
    let mut kernel = FakeKernel::default();
    let mut collector = (PROBE.start)(&start(&["comm"], true));
    let put = |kernel: &FakeKernel, name: u8, count: u64| {
        kernel.put("COUNTS", as_bytes(&key(&[name], what(EXEC, 0))), as_bytes(&count));
    };
    (b'a'..=b'f').for_each(|name| put(&kernel, name, 1));
    collect(&mut *collector, &mut kernel);
    kernel.now = Duration::from_secs(4_000);
    collect(&mut *collector, &mut kernel);
    assert_eq!(kernel.maps.borrow()["COUNTS"].len(), 6);
    put(&kernel, b'g', 1);
    put(&kernel, b'a', 2);
    let snapshot = collect(&mut *collector, &mut kernel);
    assert_eq!(shown(&snapshot, "sidecar_exec_total").len(), 7);
    assert_eq!(kernel.maps.borrow()["COUNTS"].len(), 2);
}

#[test]
fn a_lifetime_on_a_bound_belongs_to_its_bucket() {
    for (at, bound) in LIFETIMES.iter().enumerate() {
        assert_eq!((bucket(*bound), bucket(*bound + 1)), (at as u32, at as u32 + 1));
        let seconds = metrics::LIFETIME_SECONDS[at];
        assert!((*bound as f64 / 1e9 - seconds).abs() < 1e-12, "{bound} ns is not {seconds} s");
    }
    assert_eq!((bucket(0), bucket(u64::MAX)), (0, LIFETIMES.len() as u32));
    let mut kernel = FakeKernel::default();
    for (slot, count) in [(0, 1), (2, 5), (LIFETIMES.len() as u32, 2), (LIFETIME_SUM, 1_500_000_000)] {
        kernel.sums.insert(("COUNTERS", slot), count);
    }
    let snapshot = collect(&mut *(PROBE.start)(&start(&["comm"], true)), &mut kernel);
    let Value::Histogram(histogram) =
        &snapshot.family("sidecar_exec_lifetime_seconds").unwrap().rows[0].value
    else {
        panic!("not a histogram")
    };
    assert_eq!(
        (histogram.counts[0], histogram.counts[2], histogram.counts[14], histogram.count()),
        (1, 5, 2, 8)
    );
    assert!((histogram.sum - 1.5).abs() < f64::EPSILON);
}

#[test]
fn an_end_is_told_from_the_status_as_wait_tells_it() {
    assert_eq!((ending(0), ending(3 << 8), ending(9), ending(0x8b)), (0, EXIT_FAILURE, 9, 11));
}

#[derive(Default)]
struct Heard(Vec<Event>);

impl Listener for Heard {
    fn event(&mut self, event: Event) {
        self.0.push(event);
    }

    fn lost(&mut self, _: &'static EventSpec, _: u64) {}
}

fn hear(records: Vec<Vec<u8>>, redact: bool) -> (Vec<Event>, Result<(), CollectError>) {
    let mut kernel = FakeKernel::default();
    kernel.rings.insert("EVENTS".into(), records);
    let mut heard = Heard::default();
    let offset = Duration::from_secs(1_000);
    let result = (PROBE.start)(&start(&[], redact)).events(&mut kernel, &mut Events::new(offset, &mut heard));
    (heard.0, result)
}

/// What the kernel side writes for an exec.
fn exec(path: &[u8], args: &[u8], there: u32, result: i32) -> Vec<u8> {
    let record = Exec {
        header: EventHeader { time: 5, kind: EXEC_EVENT, extra: path.len() as u32 },
        owner: Owner { pid: 7, cgroup: 9, ..key(b"name", 0) },
        parent: 6,
        uid: 1000,
        result,
        args: there,
        text: [0; 1536],
    };
    let mut bytes = as_bytes(&record)[..EXEC_HEAD].to_vec();
    bytes.extend([path, args].concat());
    bytes
}

fn text(event: &Event, name: &str) -> String {
    match event.value(name).unwrap() {
        EventValue::Text(text) => text.clone(),
        EventValue::Word(word) => (*word).to_owned(),
        EventValue::List(texts) => texts.join(" "),
        EventValue::Number(number) => number.to_string(),
        EventValue::Bool(is_so) => is_so.to_string(),
        EventValue::Unknown => "?".to_owned(),
        EventValue::Seconds(time) => format!("{time:?}"),
    }
}

#[test]
fn an_exec_says_who_did_what() {
    let (events, result) = hear(vec![exec(b"/bin/x\0", b"x\0--password\0s\0\0", 16, 0)], true);
    result.unwrap();
    let event = &events[0];
    let said = |names: &[&str]| names.iter().map(|name| text(event, name)).collect::<Vec<_>>();
    assert_eq!(said(&["pid", "ppid", "uid", "comm", "cgroup"]), ["7", "6", "1000", "name", "/9"]);
    assert_eq!(said(&["result", "path", "args", "args_cut"]), ["ok", "/bin/x", "x --password *** ", "false"]);
    assert_eq!((event.spec.kind, event.monotonic), ("exec", Duration::from_nanos(5)));
    assert_eq!(event.wall, SystemTime::UNIX_EPOCH + Duration::new(1_000, 5));
}

#[test]
fn what_was_cut_or_is_not_known_is_said() {
    let records = vec![exec(b"/x\0", b"x\0half", 7, 0), exec(b"", b"", 0, -13)];
    let (events, result) = hear(records, true);
    result.unwrap();
    assert_eq!((text(&events[0], "args"), text(&events[0], "args_cut")), ("x half".into(), "true".into()));
    let failed = ["result", "path", "args"].map(|name| text(&events[1], name));
    assert_eq!(failed, ["EACCES", "?", ""]);
}

#[test]
fn secrets_are_shown_only_if_the_user_wants_them() {
    let (events, _) = hear(vec![exec(b"x\0", b"x\0token=abc\0", 12, 0)], false);
    assert_eq!(text(&events[0], "args"), "x token=abc");
}

#[test]
fn an_exit_says_how_and_after_how_long() {
    let exit = |status| {
        let record = Exit {
            header: EventHeader { time: 5, kind: EXIT_EVENT, extra: status },
            owner: Owner { pid: 7, ..key(b"name", 0) },
            parent: 6,
            uid: 0,
            lifetime: 1_500,
            pages: 10,
        };
        as_bytes(&record).to_vec()
    };
    let (events, result) = hear(vec![exit(3 << 8), exit(9), exit(0x8b)], true);
    result.unwrap();
    let said =
        |at: usize| ["code", "signal", "core_dumped", "lifetime_seconds"].map(|name| text(&events[at], name));
    assert_eq!(said(0), ["3", "?", "false", "1.5µs"]);
    assert_eq!(said(1), ["?", "SIGKILL", "false", "1.5µs"]);
    assert_eq!(said(2), ["?", "SIGSEGV", "true", "1.5µs"]);
}

#[test]
fn the_text_begins_where_both_sides_think_it_does() {
    assert_eq!((offset_of!(Exec, text), size_of::<Exec>()), (EXEC_HEAD, EXEC_HEAD + 1536));
    assert_eq!(size_of::<Exit>(), 16 + size_of::<Owner>() + 8 + 16);
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_events_or_an_error_and_nothing_worse(
        bytes in proptest::collection::vec(any::<u8>(), 0..1700),
        kind in 0u32..4,
        path in any::<u32>(),
    ) {
        let mut bytes = bytes;
        if bytes.len() >= 16 {
            bytes[8..12].copy_from_slice(&kind.to_ne_bytes());
            bytes[12..16].copy_from_slice(&path.to_ne_bytes());
        }
        let is_exec = kind == EXEC_EVENT && (EXEC_HEAD..=size_of::<Exec>()).contains(&bytes.len());
        let (events, result) = hear(vec![bytes], true);
        if is_exec {
            prop_assert!(result.is_ok() && events.len() == 1);
            prop_assert_eq!(events[0].values.len(), events[0].spec.fields.len());
        }
        prop_assert!(result.is_ok() == (events.len() == 1));
    }
}
