//! Sums of a snapshot's rows by the value of one label.

use std::collections::BTreeMap;

use sidecar_core::{CountSpec, Metric, Row, Snapshot, Value};

/// One group.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Group {
    pub(super) count: u64,
    pub(super) errors: u64,
    /// Where there are any durations.
    pub(super) seconds: f64,
}

/// All groups by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tally(pub(super) BTreeMap<String, Group>);

impl Tally {
    /// Adds up the rows of what is counted.
    pub(super) fn of(snapshot: &Snapshot, spec: &CountSpec, by: &str) -> Self {
        let mut tally = Self::default();
        tally.add(snapshot, Some(spec.all), by, |group, value| group.count += whole(value));
        tally.add(snapshot, spec.errors, by, |group, value| group.errors += whole(value));
        tally.add(snapshot, spec.seconds, by, |group, value| {
            if let Value::Histogram(histogram) = value {
                group.seconds += histogram.sum;
            }
        });
        tally.0.retain(|_, group| *group != Group::default());
        tally
    }

    fn add(
        &mut self,
        snapshot: &Snapshot,
        metric: Option<&Metric>,
        by: &str,
        add: impl Fn(&mut Group, &Value),
    ) {
        let Some(family) = metric.and_then(|metric| snapshot.family(metric.name)) else { return };
        for row in &family.rows {
            if let Some(name) = label(row, by) {
                add(self.0.entry(name.to_owned()).or_default(), &row.value);
            }
        }
    }

    /// What was added since an earlier one.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let mut groups = self.0.clone();
        for (name, group) in &mut groups {
            let then = earlier.0.get(name).copied().unwrap_or_default();
            *group = Group {
                count: group.count.saturating_sub(then.count),
                errors: group.errors.saturating_sub(then.errors),
                seconds: (group.seconds - then.seconds).max(0.0),
            };
        }
        groups.retain(|_, group| group.count > 0 || group.errors > 0);
        Self(groups)
    }

    /// Everything together.
    pub(super) fn total(&self) -> Group {
        self.0.values().fold(Group::default(), |sum, group| Group {
            count: sum.count + group.count,
            errors: sum.errors + group.errors,
            seconds: sum.seconds + group.seconds,
        })
    }

    /// The groups, the largest first.
    pub(super) fn largest(&self) -> Vec<(&str, Group)> {
        let mut groups: Vec<(&str, Group)> =
            self.0.iter().map(|(name, group)| (name.as_str(), *group)).collect();
        groups.sort_by(|one, other| other.1.count.cmp(&one.1.count).then(one.0.cmp(other.0)));
        groups
    }
}

fn label<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    let own = row.extra.filter(|(label, _)| *label == name).map(|(_, value)| value);
    own.or_else(|| row.labels.get(name))
}

fn whole(value: &Value) -> u64 {
    match value {
        Value::Counter(count) => *count,
        Value::CounterF64(number) | Value::Gauge(number) => *number as u64,
        Value::Histogram(histogram) => histogram.count(),
    }
}
