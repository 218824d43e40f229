//! What of a probe's metrics a live view shows: declared beside the metrics, so that the view knows no probe.

use crate::{Metric, Unit};

/// A column of a process's line. Counters are shown as what they grow by in a second, gauges as they are.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// At most seven capital letters.
    pub title: &'static str,
    /// Added up; rows without any of the labels `comm`, `pid` and `cgroup` belong to no process.
    pub metrics: &'static [&'static Metric],
    /// Of the sum.
    pub unit: Unit,
    /// One sentence without a full stop at its end.
    pub help: &'static str,
}

/// A counter of the whole machine that is shown over time.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// What is counted, in the plural.
    pub title: &'static str,
    /// The counter.
    pub metric: &'static Metric,
    /// The label each value of which has a line of its own.
    pub by: &'static str,
}

/// Everything of a probe that a live view shows, besides its events.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// For each process.
    pub columns: &'static [Column],
    /// For the machine.
    pub rates: &'static [Rate],
}

impl View {
    /// Of a probe that has nothing to say about single processes.
    pub const NONE: Self = Self { columns: &[], rates: &[] };
}
