//! The collector on tables the tests write themselves: what was added since the last reading, whose it is, and that nothing
//! is lost when tables or slots change hands.

use std::{mem::offset_of, sync::Arc, time::Duration};

use sidecar_common::owner::Owner;
use sidecar_core::{Collector, OptionValue, Options, Rows, Snapshot, Start, Value, probe::Names};

use super::{
    PROBE,
    shared::{
        self, CELLS, Cell, FIRST_SLOT, Key, OTHER, REST_PER_PAGE, Rest, State, TIMED_CELLS, TimedCell,
        account, plain_key,
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

const GETPID: u32 = 39;
const READ: u32 = 0;
const OPENAT: u32 = 257;
const CPUS: usize = 2;

/// A collector with its kernel, attached.
struct Bench {
    kernel: FakeKernel,
    collector: Box<dyn Collector>,
}

impl Bench {
    fn new(max_series: usize, processes: u64, latency: bool) -> Self {
        let options =
            [("latency", OptionValue::Bool(latency)), ("max_processes", OptionValue::Integer(processes))];
        let start = Start {
            names: Arc::new(Numbers),
            options: Options(options.into()),
            labels: vec!["role".into(), "comm".into()],
            max_series,
            max_connections: 100,
            filtered: false,
            event_bytes: 0,
        };
        let mut kernel = FakeKernel { now: Duration::from_secs(100), ..FakeKernel::default() };
        let mut collector = (PROBE.start)(&start);
        collector.attached(&mut kernel).unwrap();
        Self { kernel, collector }
    }

    fn usual() -> Self {
        Self::new(2000, 100, false)
    }

    /// Gives a process of this name a slot.
    fn process(&self, name: &str, slot: u32) {
        self.kernel.put("SLOTS", as_bytes(&owner(name)), as_bytes(&slot));
    }

    /// Writes one page of all CPUs.
    fn page(&self, page: u32, cpus: [&[(u64, u64)]; CPUS]) {
        let mut bytes = Vec::new();
        for cells in cpus {
            assert!(cells.len() <= CELLS);
            let empty = std::iter::repeat(&(0, 0));
            for &(key, calls) in cells.iter().chain(empty).take(CELLS) {
                bytes.extend_from_slice(as_bytes(&Cell { key, calls }));
            }
        }
        self.kernel.put("CALLS", &page.to_ne_bytes(), &bytes);
    }

    /// One tick, a second later.
    fn tick(&mut self) -> Snapshot {
        self.kernel.now += Duration::from_secs(1);
        let mut rows = Rows::default();
        self.collector.collect(&mut self.kernel, &mut rows).unwrap();
        let now = std::time::SystemTime::now();
        rows.finish(now, now)
    }

    /// The slots handed to the kernel side since the last time.
    fn handed_out(&self) -> Vec<u32> {
        let queued = std::mem::take(&mut *self.kernel.queued.borrow_mut());
        queued.iter().map(|slot| *view::<u32>(slot).unwrap()).collect()
    }

    /// What the programs see: first page, pages less one, ready.
    fn state(&self) -> [u64; 3] {
        let maps = self.kernel.maps.borrow();
        let bytes = &maps[".bss.state"][0u32.to_ne_bytes().as_slice()];
        assert_eq!(bytes.len(), size_of::<State>());
        [offset_of!(State, first_page), offset_of!(State, page_mask), offset_of!(State, ready)]
            .map(|at| *view::<u64>(&bytes[at..at + 8]).unwrap())
    }
}

fn owner(name: &str) -> Owner {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    Owner { comm, ..Owner::UNKNOWN }
}

/// The key of a successful call in the first page.
fn ok(slot: u32, number: u32) -> u64 {
    plain_key(account(slot, 0), number)
}

fn failed(slot: u32, number: u32, errno: u32) -> u64 {
    Key { slot, number, compat: false, errno }.special()
}

/// The rows of a metric: label values joined by spaces, and the count.
fn rows(snapshot: &Snapshot, metric: &str) -> Vec<(String, u64)> {
    let Some(family) = snapshot.family(&format!("sidecar_syscall_{metric}")) else { return Vec::new() };
    let mut rows: Vec<_> = family
        .rows
        .iter()
        .map(|row| {
            let values: Vec<&str> = row.labels.iter().map(|(_, value)| value).collect();
            let count = match &row.value {
                Value::Counter(count) => *count,
                Value::Gauge(number) | Value::CounterF64(number) => *number as u64,
                Value::Histogram(histogram) => histogram.count(),
            };
            (values.join(" "), count)
        })
        .collect();
    rows.sort();
    rows
}

fn expect(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
    rows.iter().map(|(labels, count)| ((*labels).to_owned(), *count)).collect()
}

#[test]
fn nothing_is_counted_before_slots_are_there() {
    let bench = Bench::new(2000, 3, false);
    assert_eq!(bench.handed_out(), [2, 3, 4]);
    assert_eq!(bench.state(), [0, 7, 1]);
}

#[test]
fn the_same_kind_of_call_is_added_up_over_processors_and_pages() {
    let mut bench = Bench::usual();
    bench.process("nginx", 5);
    bench.page(0, [&[(ok(5, READ), 3), (failed(5, OPENAT, 2), 1)], &[(ok(5, READ), 4)]]);
    bench.page(3, [&[(failed(5, OPENAT, 13), 2)], &[(ok(5, OPENAT), 10), (failed(5, READ, 512), 6)]]);
    let page = bench.tick();
    assert_eq!(rows(&page, "calls_total"), expect(&[("openat nginx", 13), ("read nginx", 13)]));
    assert_eq!(
        rows(&page, "errors_total"),
        expect(&[("openat EACCES nginx", 2), ("openat ENOENT nginx", 1)])
    );
    assert_eq!(rows(&page, "interrupted_total"), expect(&[("read nginx", 6)]));
}

#[test]
fn reading_again_adds_only_what_is_new() {
    let mut bench = Bench::usual();
    bench.process("a", 2);
    bench.page(0, [&[(ok(2, READ), 3)], &[]]);
    bench.tick();
    bench.tick();
    bench.page(0, [&[(ok(2, READ), 5)], &[(ok(2, GETPID), 1)]]);
    let page = bench.tick();
    assert_eq!(rows(&page, "calls_total"), expect(&[("getpid a", 1), ("read a", 5)]));
}

#[test]
fn a_nearly_full_table_is_changed_for_the_other_and_what_comes_late_still_counts() {
    let mut bench = Bench::new(256, 100, false);
    bench.process("a", 2);
    let cells: Vec<(u64, u64)> = (0..200).map(|number| (ok(2, number), 1)).collect();
    bench.page(0, [&cells, &[]]);
    bench.tick();
    assert_eq!(bench.state()[0], 1, "more than three quarters of 256 cells are taken");
    // Programs that were running then have counted one more, others have begun in the new table.
    let late: Vec<(u64, u64)> = cells.iter().map(|(key, _)| (*key, 2)).collect();
    bench.page(0, [&late, &[]]);
    bench.page(1, [&[], &[(plain_key(account(2, 1), 0), 5)]]);
    let page = bench.tick();
    let sum = |page: &Snapshot| rows(page, "calls_total").iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(sum(&page), 405);
    // The old one is empty by now, and what was read of it is not read again.
    assert!(!bench.kernel.maps.borrow()["CALLS"].contains_key(0u32.to_ne_bytes().as_slice()));
    assert_eq!(sum(&bench.tick()), 405);
    let filled: Vec<(u64, u64)> = (0..200).map(|number| (plain_key(account(2, 1), number), 5)).collect();
    bench.page(1, [&filled, &[(plain_key(account(2, 1), 0), 5)]]);
    assert_eq!(sum(&bench.tick()), 400 + 1000 + 5);
    assert_eq!(bench.state()[0], 0, "back again");
}

#[test]
fn calls_without_a_cell_or_a_slot_are_everybody_elses() {
    let mut bench = Bench::usual();
    let mut rest = vec![Rest { calls: 0, errors: 0, interrupted: 0 }; REST_PER_PAGE as usize * CPUS];
    rest[READ as usize] = Rest { calls: 7, errors: 2, interrupted: 1 };
    rest[READ as usize + REST_PER_PAGE as usize] = Rest { calls: 1, errors: 0, interrupted: 0 };
    let bytes: Vec<u8> = rest.iter().flat_map(|rest| as_bytes(rest).to_vec()).collect();
    bench.kernel.put("REST", &0u32.to_ne_bytes(), &bytes);
    bench.page(0, [&[(ok(OTHER, GETPID), 4), (ok(OTHER, 4000), 1)], &[]]);
    bench.tick();
    let page = bench.tick();
    let expected = [("getpid other", 4), ("other other", 1), ("read other", 8)];
    assert_eq!(rows(&page, "calls_total"), expect(&expected));
    assert_eq!(rows(&page, "errors_total"), expect(&[("read other other", 2)]));
    assert_eq!(rows(&page, "interrupted_total"), expect(&[("read other", 1)]));
    assert_eq!(rows(&page, "overflowed_total"), expect(&[("", 13)]));
}

#[test]
fn label_sets_are_limited_and_the_rest_keeps_its_calls_and_errors() {
    let mut bench = Bench::new(2, 100, false);
    for (name, slot) in [("a", 2), ("b", 3), ("c", 4)] {
        bench.process(name, slot);
    }
    let cells: Vec<(u64, u64)> =
        (2..5).flat_map(|slot| [(ok(slot, READ), 10), (failed(slot, READ, 5), 1)]).collect();
    bench.page(0, [&cells, &[]]);
    let page = bench.tick();
    let counted = rows(&page, "calls_total");
    assert_eq!(counted.len(), 3, "{counted:?}");
    assert_eq!(counted.iter().map(|(_, count)| count).sum::<u64>(), 33);
    assert!(counted.contains(&("read other".to_owned(), 11)), "{counted:?}");
    assert_eq!(rows(&page, "errors_total").iter().map(|(_, count)| count).sum::<u64>(), 3);
    assert_eq!(rows(&page, "label_sets"), expect(&[("", 2)]));
}

#[test]
fn scarce_slots_of_idle_processes_are_given_to_others_once_nobody_has_them_in_hand() {
    let mut bench = Bench::new(2000, 4, false);
    bench.handed_out();
    for (name, slot) in [("a", 2), ("b", 3), ("c", 4), ("d", 5)] {
        bench.process(name, slot);
    }
    bench.page(0, [&[(ok(2, READ), 1)], &[]]);
    bench.tick();
    for calls in 2..12 {
        // One of them goes on.
        bench.page(0, [&[(ok(2, READ), calls)], &[]]);
        bench.tick();
    }
    let known: Vec<u32> =
        bench.kernel.maps.borrow()["SLOTS"].values().map(|slot| *view::<u32>(slot).unwrap()).collect();
    assert_eq!(known, [2], "the idle ones are taken back");
    assert_eq!(bench.handed_out(), [0; 0], "but may still be in somebody's hands");
    // A program that had one in hand counts under its old owner.
    bench.page(0, [&[(ok(2, READ), 11), (ok(3, READ), 1)], &[]]);
    let page = bench.tick();
    assert!(rows(&page, "calls_total").contains(&("read b".to_owned(), 1)));
    assert_eq!(bench.handed_out(), [3, 4, 5]);
    // From then on it is its new owner's, and the old one's count stays.
    bench.process("e", 3);
    bench.page(0, [&[(ok(2, READ), 11), (ok(3, READ), 6)], &[]]);
    let page = bench.tick();
    assert_eq!(rows(&page, "calls_total"), expect(&[("read a", 11), ("read b", 1), ("read e", 5)]));
}

#[test]
fn durations_are_those_of_the_call_whoever_makes_it() {
    let mut bench = Bench::new(2000, 100, true);
    bench.process("a", 2);
    bench.process("b", 3);
    let mut cells = vec![TimedCell { key: 0, nanos: 0, untimed: 0, buckets: [0; 13] }; TIMED_CELLS * CPUS];
    let timed = |key, nanos, untimed, bucket: usize, count| {
        let mut cell = TimedCell { key, nanos, untimed, buckets: [0; 13] };
        cell.buckets[bucket] = count;
        cell
    };
    cells[7] = timed(ok(2, READ), 4_000, 1, 0, 9);
    cells[TIMED_CELLS + 3] = timed(failed(3, READ, 11), 1_000_000_000, 0, 10, 1);
    let bytes: Vec<u8> = cells.iter().flat_map(|cell| as_bytes(cell).to_vec()).collect();
    bench.kernel.put("TIMED_CALLS", &0u32.to_ne_bytes(), &bytes);
    bench.tick();
    let page = bench.tick();
    assert_eq!(rows(&page, "calls_total"), expect(&[("read a", 10), ("read b", 1)]));
    assert_eq!(
        rows(&page, "seconds"),
        expect(&[("read", 10)]),
        "the one whose beginning was not seen is not in it"
    );
    let Value::Histogram(value) = &page.family("sidecar_syscall_seconds").unwrap().rows[0].value else {
        panic!()
    };
    assert_eq!((value.counts[0], value.counts[10], value.counts.len()), (9, 1, 13));
    assert!((value.sum - 1.000_004).abs() < 1e-9, "{}", value.sum);
}

#[test]
fn a_table_of_another_size_is_an_error_and_not_a_number() {
    let mut bench = Bench::usual();
    bench.kernel.put("CALLS", &0u32.to_ne_bytes(), &[1; 20]);
    let error = bench.collector.collect(&mut bench.kernel, &mut Rows::default()).unwrap_err();
    assert!(error.to_string().contains("another size"), "{error}");
}

#[test]
fn keys_say_what_they_were_made_of() {
    for key in [
        Key { slot: 2, number: 0, compat: true, errno: 0 },
        Key { slot: 65_535, number: u32::MAX, compat: false, errno: 4095 },
        Key { slot: FIRST_SLOT, number: 0x4000_0001, compat: true, errno: 38 },
    ] {
        assert_eq!(Key::of(key.special()), key);
    }
    let plain = plain_key(account(0xffef, shared::MAX_PAGES - 1), 12);
    assert_eq!(Key::of(plain), Key { slot: 0xffef, number: 12, compat: false, errno: 0 });
    assert_eq!(shared::page(plain, 99, 99), shared::MAX_PAGES - 1);
    assert!(account(0xffff, shared::MAX_PAGES - 1) < shared::ACCOUNT_LIMIT);
}
