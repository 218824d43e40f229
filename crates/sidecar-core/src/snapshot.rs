//! All rows of one tick. Exporters and the API see nothing else.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use crate::{Labels, Metric};

/// Observations in upper-inclusive buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramValue {
    /// Upper bounds in the metric's unit, ascending, without `+Inf`.
    pub bounds: &'static [f64],
    /// Observations per bucket (not cumulative); one more than `bounds`, the last is `+Inf`'s.
    pub counts: Box<[u64]>,
    /// Sum of all observations in the metric's unit.
    pub sum: f64,
}

impl HistogramValue {
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A monotonic whole number.
    Counter(u64),
    /// A monotonic number of seconds or the like.
    CounterF64(f64),
    /// A number that goes up and down.
    Gauge(f64),
    /// A distribution.
    Histogram(HistogramValue),
}

/// One value of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The labels it shares with other rows.
    pub labels: Labels,
    /// A label only this row has, such as a `reason`.
    pub extra: Option<(&'static str, &'static str)>,
    /// Its value.
    pub value: Value,
}

/// All rows of one metric.
#[derive(Debug, Clone)]
pub struct Family {
    /// The definition.
    pub metric: &'static Metric,
    /// Its rows, in the order they were pushed.
    pub rows: Vec<Row>,
}

/// Collects rows in any order and keeps each metric's together.
#[derive(Debug, Default)]
pub struct Rows {
    families: Vec<Family>,
    index: HashMap<&'static str, usize>,
}

impl Rows {
    /// Adds one row.
    pub fn push(&mut self, metric: &'static Metric, labels: &Labels, value: Value) {
        self.push_with(metric, labels, None, value);
    }

    /// Adds one row that has a label of its own.
    pub fn push_with(
        &mut self,
        metric: &'static Metric,
        labels: &Labels,
        extra: Option<(&'static str, &'static str)>,
        value: Value,
    ) {
        let at = *self.index.entry(metric.name).or_insert_with(|| {
            self.families.push(Family { metric, rows: Vec::new() });
            self.families.len() - 1
        });
        self.families[at].rows.push(Row { labels: labels.clone(), extra, value });
    }

    /// Number of rows so far.
    pub fn len(&self) -> usize {
        self.families.iter().map(|family| family.rows.len()).sum()
    }

    /// Whether nothing has been pushed.
    pub fn is_empty(&self) -> bool {
        self.families.is_empty()
    }

    /// Ends the tick.
    pub fn finish(self, taken: SystemTime, started: SystemTime) -> Snapshot {
        Snapshot { taken, started, families: self.families.into() }
    }
}

/// All rows of one tick.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When the values were read.
    pub taken: SystemTime,
    /// When the agent began to count.
    pub started: SystemTime,
    /// The metrics that have rows.
    pub families: Arc<[Family]>,
}

impl Snapshot {
    /// The rows of the metric called `name`.
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families.iter().find(|family| family.metric.name == name)
    }
}
