//! The rows: what has been counted for each label set, bounded by `metrics.max_series`.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use rustc_hash::FxHashMap;
use sidecar_core::{HistogramValue, Labels, Rows, Start, Value};

use super::{
    metrics,
    names::{self, Call, HERE},
    shared::{self, Rest},
    slots::{Process, wanted},
    tables::Times,
};

/// A label set must have been idle for so long before it makes room for another.
const IDLE: Duration = Duration::from_hours(1);
/// What stands for whatever has no row of its own.
const OTHER: &str = "other";

/// What has been counted for one call of one process.
struct Series {
    labels: Labels,
    calls: u64,
    interrupted: u64,
    errors: Vec<Errors>,
    touched: Duration,
}

struct Errors {
    name: Cow<'static, str>,
    labels: Labels,
    count: u64,
}

/// All label sets.
pub(super) struct Table {
    max: usize,
    wanted: Vec<&'static str>,
    series: Vec<Option<Series>>,
    free: Vec<usize>,
    by_labels: HashMap<Labels, usize>,
    /// By slot and call, so that no text is made for what is known.
    index: FxHashMap<(u32, Call), usize>,
    times: FxHashMap<Call, (Labels, Times)>,
    /// Label sets that count towards the limit, and rows of errors.
    sets: usize,
    errors: usize,
    overflowed: u64,
    purged: Option<Duration>,
}

impl Table {
    pub(super) fn new(start: &Start) -> Self {
        Self {
            max: start.max_series,
            wanted: wanted(start).collect(),
            series: Vec::new(),
            free: Vec::new(),
            by_labels: HashMap::new(),
            index: FxHashMap::default(),
            times: FxHashMap::default(),
            sets: 0,
            errors: 0,
            overflowed: 0,
            purged: None,
        }
    }

    /// Counts calls of a slot that ended alike; `process` is `None` for those that have no slot.
    pub(super) fn add(
        &mut self,
        slot: u32,
        process: Option<&Process>,
        (call, errno): (Call, u32),
        count: u64,
        now: Duration,
    ) {
        let at = match self.index.get(&(slot, call)) {
            Some(&at) => at,
            None => self.find(slot, process, call, now),
        };
        let is_other = process.is_none() || !self.index.contains_key(&(slot, call));
        self.overflowed += if is_other { count } else { 0 };
        let Some(series) = &mut self.series[at] else { return };
        series.touched = now;
        series.calls += count;
        match errno {
            0 => {}
            _ if shared::interrupted(errno) => series.interrupted += count,
            _ => self.fail(at, names::errno(errno), count),
        }
    }

    /// Counts calls nobody knows who made.
    pub(super) fn add_rest(&mut self, call: Call, rest: &Rest, now: Duration) {
        let at = self.other(call, now);
        self.overflowed += rest.calls;
        let Some(series) = &mut self.series[at] else { return };
        series.touched = now;
        series.calls += rest.calls;
        series.interrupted += rest.interrupted;
        if rest.errors > 0 {
            self.fail(at, Cow::Borrowed(OTHER), rest.errors);
        }
    }

    /// Adds durations.
    pub(super) fn time(&mut self, call: Call, more: &Times) {
        let known = self.times.len() < self.max || self.times.contains_key(&call);
        let call = if known { call } else { UNKNOWN };
        let (_, times) = self
            .times
            .entry(call)
            .or_insert_with(|| (Labels::new([("syscall", call_name(call))]), Times::default()));
        times.add(more);
    }

    fn fail(&mut self, at: usize, name: Cow<'static, str>, count: u64) {
        let Some(series) = &mut self.series[at] else { return };
        if let Some(errors) = series.errors.iter_mut().find(|errors| errors.name == name) {
            errors.count += count;
            return;
        }
        // The rest of the errors has a row, too.
        if self.errors >= self.max && name != OTHER {
            return self.fail(at, Cow::Borrowed(OTHER), count);
        }
        self.errors += 1;
        let mut pairs: Vec<(&'static str, Box<str>)> =
            series.labels.iter().map(|(name, value)| (name, value.into())).collect();
        pairs.insert(1, ("errno", name.as_ref().into()));
        series.errors.push(Errors { name, labels: Labels::new(pairs), count });
    }

    /// The series of a process's call; the rest's if there is no room for one more.
    fn find(&mut self, slot: u32, process: Option<&Process>, call: Call, now: Duration) -> usize {
        let Some(process) = process else { return self.other(call, now) };
        let name = call_name(call);
        let pairs = process.iter().map(|(label, value)| (*label, value.clone()));
        let labels = Labels::new(std::iter::once(("syscall", name.as_ref().into())).chain(pairs));
        let at = match self.by_labels.get(&labels).copied() {
            Some(at) => at,
            None if self.sets < self.max || self.make_room(now) => {
                self.sets += 1;
                self.insert(labels, now)
            }
            None => return self.other(call, now),
        };
        // What several keys share is found again by its text.
        if self.index.len() >= 2 * self.max {
            self.index.clear();
        }
        self.index.insert((slot, call), at);
        at
    }

    /// The series of everybody else's calls of that kind. There are as many as calls have names, and one more.
    fn other(&mut self, call: Call, now: Duration) -> usize {
        let name = if call.is_known(HERE) { call.name(HERE) } else { Cow::Borrowed(OTHER) };
        let others = self.wanted.iter().map(|label| (*label, Box::from(OTHER)));
        let labels = Labels::new(std::iter::once(("syscall", name.as_ref().into())).chain(others));
        match self.by_labels.get(&labels) {
            Some(&at) => at,
            None => self.insert(labels, now),
        }
    }

    fn insert(&mut self, labels: Labels, now: Duration) -> usize {
        let series =
            Series { labels: labels.clone(), calls: 0, interrupted: 0, errors: Vec::new(), touched: now };
        let at = self.free.pop().unwrap_or_else(|| {
            self.series.push(None);
            self.series.len() - 1
        });
        self.series[at] = Some(series);
        self.by_labels.insert(labels, at);
        at
    }

    /// Drops the label sets nobody has used for an hour. Only when room is needed: a series should not vanish because
    /// it is idle.
    fn make_room(&mut self, now: Duration) -> bool {
        // Looking through all of them for every call would cost more than the calls.
        if self.purged == Some(now) {
            return false;
        }
        self.purged = Some(now);
        let others = self.wanted.len();
        let (series, free) = (&mut self.series, &mut self.free);
        let (mut sets, mut errors) = (0, 0);
        self.by_labels.retain(|labels, &mut at| {
            let Some(known) = &series[at] else { return false };
            let is_other = others > 0 && labels.iter().skip(1).all(|(_, value)| value == OTHER);
            let stays = is_other || known.touched + IDLE > now;
            if stays {
                sets += usize::from(!is_other);
                errors += known.errors.len();
            } else {
                series[at] = None;
                free.push(at);
            }
            stays
        });
        (self.sets, self.errors) = (sets, errors);
        self.index.clear();
        self.sets < self.max
    }

    /// Forgets whose these slots were: they will be somebody else's.
    pub(super) fn release(&mut self, slots: &[u32]) {
        if !slots.is_empty() {
            self.index.retain(|(slot, _), _| !slots.contains(slot));
        }
    }

    /// Rows of every label set, and of the table itself.
    pub(super) fn rows(&self, rows: &mut Rows) {
        for series in self.series.iter().flatten() {
            rows.push(&metrics::CALLS, &series.labels, Value::Counter(series.calls));
            if series.interrupted > 0 {
                rows.push(&metrics::INTERRUPTED, &series.labels, Value::Counter(series.interrupted));
            }
            for errors in &series.errors {
                rows.push(&metrics::ERRORS, &errors.labels, Value::Counter(errors.count));
            }
        }
        for (labels, times) in self.times.values() {
            let value = HistogramValue {
                bounds: &metrics::BOUNDS,
                counts: times.buckets.into(),
                sum: times.nanos as f64 / 1e9,
            };
            rows.push(&metrics::SECONDS, labels, Value::Histogram(value));
        }
        let none = Labels::default();
        rows.push(&metrics::OVERFLOWED, &none, Value::Counter(self.overflowed));
        rows.push(&metrics::LABEL_SETS, &none, Value::Gauge(self.sets as f64));
    }
}

/// A call without a name and beyond the limit; no table has it.
pub(super) const UNKNOWN: Call = Call { number: shared::REST_COMPAT - 1, compat: false };

fn call_name(call: Call) -> Cow<'static, str> {
    if call == UNKNOWN { Cow::Borrowed(OTHER) } else { call.name(HERE) }
}
