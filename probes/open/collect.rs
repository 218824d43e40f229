//! From the kernel's counters to rows.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use sidecar_common::{event, owner::Owner};
use sidecar_core::{CollectError, Collector, Events, HistogramValue, Kernel, Labels, Rows, Start, Value};

use super::{
    decode, labels, metrics,
    shared::{
        BUCKETS, CALLS, Cell, MAX_PREFIXES, PREFIX_WORDS, RESTART, Table, UNKNOWN_ERRNO, URING, WITH_CGROUP,
        WITH_COMM, WITH_PID,
    },
};
use crate::plain::{as_bytes, view};

/// How long a counter must have stood still before it makes room for another.
const IDLE_SECONDS: u64 = 3600;
/// The row for what there was no room for.
const OTHER: &str = "other";

/// A counter as it was last seen.
struct Counter {
    /// What the kernel said.
    last: u64,
    /// What its row says; nothing if the rest's row has it.
    row: Option<u64>,
    /// Monotonic seconds of its last change.
    changed: u64,
}

/// The collector.
pub(super) struct Opens {
    start: Start,
    labels: u32,
    latency: bool,
    counters: FxHashMap<Owner, Counter>,
    /// Opens counted in no row of their own, without those the kernel side knows of.
    others: u64,
    entries: u64,
    buffer: Vec<u8>,
}

/// One label set with the result, as users see it.
type Named = (Vec<(&'static str, String)>, &'static str);

/// What the kernel said in one reading.
#[derive(Default)]
struct Reading {
    counts: FxHashMap<Owner, u64>,
    /// Which of them are in the map.
    stored: Vec<Owner>,
    /// Which of them a table has.
    held: FxHashSet<Owner>,
    buckets: [u64; BUCKETS],
    nanos: u64,
}

impl Opens {
    pub(super) fn new(start: &Start) -> Self {
        Self {
            labels: labels(start),
            latency: start.options.bool(super::LATENCY),
            start: start.clone(),
            counters: FxHashMap::default(),
            others: 0,
            entries: 0,
            buffer: Vec::new(),
        }
    }

    /// The map first, then the tables: a count that moves from a table to the map is missed for once and never seen twice.
    fn read(&mut self, kernel: &dyn Kernel) -> Result<Reading, CollectError> {
        let mut reading = Reading::default();
        let mut is_sound = true;
        kernel.for_each(
            "COUNTS",
            false,
            &mut |key, count| match (view::<Owner>(key), view::<u64>(count)) {
                (Some(key), Some(count)) => {
                    *reading.counts.entry(*key).or_default() += count;
                    reading.stored.push(*key);
                }
                _ => is_sound = false,
            },
        )?;
        for table in [CALLS, URING] {
            self.buffer.clear();
            kernel.per_cpu("TABLES", table, &mut self.buffer)?;
            for table in self.buffer.chunks(size_of::<Table>()) {
                match view::<Table>(table) {
                    Some(table) => reading.add(table),
                    None => is_sound = false,
                }
            }
        }
        if is_sound {
            Ok(reading)
        } else {
            Err(CollectError::Malformed("counters of another size than expected".into()))
        }
    }

    /// Adds what is new to the rows. Nothing moves back: what was missed this time is there the next.
    fn advance(&mut self, counts: &FxHashMap<Owner, u64>, now: u64) {
        let mut rows = self.counters.values().filter(|counter| counter.row.is_some()).count();
        for (key, &count) in counts {
            let counter = self.counters.entry(*key).or_insert_with(|| {
                let has_room = rows < self.start.max_series;
                rows += usize::from(has_room);
                Counter { last: 0, row: has_room.then_some(0), changed: now }
            });
            let more = count.saturating_sub(counter.last);
            if more > 0 {
                counter.last = count;
                counter.changed = now;
                *counter.row.as_mut().unwrap_or(&mut self.others) += more;
            }
        }
    }

    /// Lets go of counters that have stood still for long, if the map is nearly full.
    fn release(&mut self, kernel: &dyn Kernel, reading: &Reading, now: u64) -> Result<(), CollectError> {
        self.entries = reading.stored.len() as u64;
        if self.entries * 8 < self.start.max_series as u64 * 7 {
            return Ok(());
        }
        for key in reading.stored.iter().filter(|key| !reading.held.contains(key)) {
            if self.counters.get(key).is_some_and(|counter| now - counter.changed >= IDLE_SECONDS) {
                self.counters.remove(key);
                kernel.delete("COUNTS", as_bytes(key))?;
            }
        }
        Ok(())
    }

    /// The labels of a process, and the result in words.
    fn name(&self, key: &Owner) -> Named {
        let mut labels = Vec::with_capacity(3);
        if self.labels & WITH_COMM != 0 {
            labels.push(("comm", decode::text_of(&key.comm).into_owned()));
        }
        if self.labels & WITH_PID != 0 {
            labels.push(("pid", key.pid.to_string()));
        }
        if self.labels & WITH_CGROUP != 0 {
            labels.push(("cgroup", self.start.names.cgroup(key.cgroup)));
        }
        (labels, result(key.reserved))
    }

    fn others(&self) -> Named {
        let names = [("comm", WITH_COMM), ("pid", WITH_PID), ("cgroup", WITH_CGROUP)];
        let wanted = names.iter().filter(|(_, bit)| self.labels & bit != 0);
        (wanted.map(|(name, _)| (*name, OTHER.to_owned())).collect(), OTHER)
    }
}

impl Reading {
    fn add(&mut self, table: &Table) {
        for cell in &table.cells {
            // A cell that changed while it was copied says nothing.
            if cell.count > 0 && cell.changes == cell.changes_begun {
                let key = owner(cell);
                *self.counts.entry(key).or_default() += cell.count;
                self.held.insert(key);
            }
        }
        self.buckets.iter_mut().zip(&table.buckets).for_each(|(sum, count)| *sum += count);
        self.nanos += table.nanos;
    }
}

/// The key of a cell as it is in the map.
fn owner(cell: &Cell) -> Owner {
    let key = &cell.key;
    let mut comm = [0; 16];
    comm[..8].copy_from_slice(&key.comm[0].to_ne_bytes());
    comm[8..].copy_from_slice(&key.comm[1].to_ne_bytes());
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    comm[end..].fill(0);
    Owner { cgroup: key.cgroup, comm, pid: (key.who >> 32) as u32, reserved: key.who as u32 }
}

/// The name of an errno, and words for what is none.
pub(super) fn result(errno: u32) -> &'static str {
    match errno {
        0 => "ok",
        UNKNOWN_ERRNO => "unknown",
        RESTART..=516 => "interrupted",
        _ => {
            let number = i32::try_from(errno).unwrap_or(i32::MAX);
            syscalls::Errno::new(number).name().unwrap_or(OTHER)
        }
    }
}

impl Collector for Opens {
    fn attached(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        let paths = self.start.options.texts(super::PATHS);
        let fits = |path: &String| (1..=PREFIX_WORDS * 8).contains(&path.len());
        if paths.len() <= MAX_PREFIXES && paths.iter().all(fits) {
            return Ok(());
        }
        Err(CollectError::Malformed(format!(
            "probes.open.paths: only the first {MAX_PREFIXES} paths count, of each the first {} bytes, and empty ones not",
            PREFIX_WORDS * 8
        )))
    }

    fn rescoped(&mut self, _: &mut dyn Kernel, _: bool) -> Result<(), CollectError> {
        // What has been counted stays; what happens from now on is counted under the new filter.
        Ok(())
    }

    fn drain(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }

    fn fill(&self) -> Vec<(&'static str, u64)> {
        vec![("COUNTS", self.entries)]
    }

    fn collect(&mut self, kernel: &mut dyn Kernel, rows: &mut Rows) -> Result<(), CollectError> {
        let now = kernel.monotonic().as_secs();
        let reading = self.read(kernel)?;
        self.advance(&reading.counts, now);
        self.release(kernel, &reading, now)?;
        // Names that look the same, once they are text, are one row.
        let mut named: BTreeMap<Named, u64> = BTreeMap::new();
        for (key, counter) in &self.counters {
            if let Some(count) = counter.row {
                *named.entry(self.name(key)).or_default() += count;
            }
        }
        let others = self.others + kernel.per_cpu_sum("OVERFLOW", 0)?;
        if others > 0 {
            *named.entry(self.others()).or_default() += others;
        }
        for ((labels, word), count) in named {
            let labels = Labels::new(labels);
            rows.push_with(&metrics::OPENS, &labels, Some(("result", word)), Value::Counter(count));
        }
        if self.latency {
            let value = HistogramValue {
                bounds: &metrics::BOUNDS,
                counts: reading.buckets.into(),
                sum: reading.nanos as f64 / 1e9,
            };
            rows.push(&metrics::SECONDS, &Labels::default(), Value::Histogram(value));
        }
        Ok(())
    }

    fn events(&mut self, kernel: &mut dyn Kernel, out: &mut Events<'_>) -> Result<(), CollectError> {
        let mut malformed = None;
        kernel.drain(event::RING, &mut |bytes| {
            if let Err(error) = decode::record(bytes, &*self.start.names, out) {
                malformed = Some(error);
            }
        })?;
        malformed.map_or(Ok(()), Err)
    }
}
