//! Rows of a snapshot as lines of processes: what each has done since the snapshot before, and altogether.

use std::{cmp::Ordering, collections::HashMap, time::Duration};

use sidecar_core::{Column, Kind, Row, Snapshot, Value};

/// Whose a row is. What its labels do not tell is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Who {
    pub(super) pid: String,
    pub(super) comm: String,
    pub(super) cgroup: String,
}

impl Who {
    /// None if the labels speak of no process.
    pub(super) fn of(row: &Row) -> Option<Self> {
        let mut who = Self::default();
        for (name, value) in row.labels.iter() {
            match name {
                "pid" => value.clone_into(&mut who.pid),
                "comm" => value.clone_into(&mut who.comm),
                "cgroup" => value.clone_into(&mut who.cgroup),
                _ => {}
            }
        }
        (who != Self::default()).then_some(who)
    }

    /// Name and cgroup, as far as they are known.
    pub(super) fn name(&self) -> String {
        match (self.comm.as_str(), self.cgroup.as_str()) {
            ("", cgroup) => cgroup.to_owned(),
            (comm, "") => comm.to_owned(),
            (comm, cgroup) => format!("{comm} {cgroup}"),
        }
    }

    fn number(&self) -> Option<u64> {
        self.pid.parse().ok()
    }
}

/// A number of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Cell {
    pub(super) total: u64,
    /// Added in a second, or a gauge's present value; unknown before the second snapshot.
    pub(super) rate: Option<f64>,
}

/// A process and its numbers, one for each column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) who: Who,
    pub(super) cells: Vec<Cell>,
}

/// What lines are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Pid,
    Name,
    Column(usize),
}

/// Sums of a snapshot by process.
pub(super) type Sums = HashMap<Who, Vec<u64>>;

/// Adds up the rows of each column.
pub(super) fn sums(snapshot: &Snapshot, columns: &[&'static Column]) -> Sums {
    let mut sums = Sums::new();
    for (at, column) in columns.iter().enumerate() {
        for family in column.metrics.iter().filter_map(|metric| snapshot.family(metric.name)) {
            for row in &family.rows {
                if let Some(who) = Who::of(row) {
                    sums.entry(who).or_insert_with(|| vec![0; columns.len()])[at] += whole(&row.value);
                }
            }
        }
    }
    sums
}

/// The lines of these sums, `earlier` being those of so long ago.
pub(super) fn lines(
    sums: &Sums,
    earlier: Option<(&Sums, &[Duration])>,
    columns: &[&'static Column],
) -> Vec<Line> {
    let cell = |who: &Who, at: usize, total: u64| {
        let rate = if is_gauge(columns[at]) {
            Some(total as f64)
        } else {
            earlier.map(|(earlier, passed)| {
                // A process that was not there had done nothing.
                let before = earlier.get(who).map_or(0, |then| then[at]);
                total.saturating_sub(before) as f64 / passed[at].as_secs_f64().max(1e-3)
            })
        };
        Cell { total, rate }
    };
    let line = |(who, totals): (&Who, &Vec<u64>)| Line {
        who: who.clone(),
        cells: totals.iter().enumerate().map(|(at, total)| cell(who, at, *total)).collect(),
    };
    sums.iter().map(line).collect()
}

/// Puts the lines in order; equal ones by how much else they do, then by their names, so that nothing jumps about.
pub(super) fn sort(lines: &mut [Line], key: Key, descending: bool, totals: bool) {
    lines.sort_by(|one, other| {
        let first = match key {
            Key::Pid => one.who.number().cmp(&other.who.number()),
            Key::Name => one.who.name().cmp(&other.who.name()),
            Key::Column(at) => by_cell(&one.cells[at], &other.cells[at], totals),
        };
        let first = if descending { first.reverse() } else { first };
        first
            .then_with(|| busy(other).cmp(&busy(one)))
            .then_with(|| one.who.number().cmp(&other.who.number()).then_with(|| one.who.cmp(&other.who)))
    });
}

fn by_cell(one: &Cell, other: &Cell, totals: bool) -> Ordering {
    let rates = one.rate.unwrap_or(0.0).total_cmp(&other.rate.unwrap_or(0.0));
    let sums = one.total.cmp(&other.total);
    if totals { sums.then(rates) } else { rates.then(sums) }
}

/// How many things it does now.
fn busy(line: &Line) -> usize {
    line.cells.iter().filter(|cell| cell.rate.is_some_and(|rate| rate > 0.0)).count()
}

pub(super) fn is_gauge(column: &Column) -> bool {
    column.metrics.iter().all(|metric| metric.kind == Kind::Gauge)
}

/// A value as a number of things.
pub(super) fn whole(value: &Value) -> u64 {
    match value {
        Value::Counter(count) => *count,
        Value::CounterF64(number) | Value::Gauge(number) => *number as u64,
        Value::Histogram(histogram) => histogram.count(),
    }
}
