//! Everything the snapshots say about one process, row by row.

use std::{collections::HashMap, time::Duration};

use sidecar_core::{Kind, Metric, Row, Snapshot, Value};

use super::processes::{Who, whole};

/// A row of the process.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    pub(super) metric: &'static Metric,
    /// Its labels but for those that name the process.
    pub(super) labels: String,
    pub(super) value: Value,
    /// Added in a second; gauges have none.
    pub(super) rate: Option<f64>,
}

/// The process's rows in the order of the snapshot, those of one metric by how much they grow.
pub(super) fn facts(who: &Who, now: &Snapshot, before: Option<(&Snapshot, Duration)>) -> Vec<Fact> {
    let mut facts = Vec::new();
    for family in now.families.iter() {
        let earlier: HashMap<String, u64> = before
            .and_then(|(snapshot, _)| snapshot.family(family.metric.name))
            .map(|family| of(who, &family.rows).map(|row| (others(row), whole(&row.value))).collect())
            .unwrap_or_default();
        let mut of_metric: Vec<Fact> = of(who, &family.rows)
            .map(|row| {
                let labels = others(row);
                let rate = before.filter(|_| family.metric.kind != Kind::Gauge).map(|(_, passed)| {
                    let then = earlier.get(&labels).copied().unwrap_or(0);
                    whole(&row.value).saturating_sub(then) as f64 / passed.as_secs_f64().max(1e-3)
                });
                Fact { metric: family.metric, labels, value: row.value.clone(), rate }
            })
            .collect();
        of_metric.sort_by(|one, other| {
            let rates = other.rate.unwrap_or(0.0).total_cmp(&one.rate.unwrap_or(0.0));
            rates
                .then_with(|| whole(&other.value).cmp(&whole(&one.value)))
                .then(one.labels.cmp(&other.labels))
        });
        facts.append(&mut of_metric);
    }
    facts
}

fn of<'a>(who: &'a Who, rows: &'a [Row]) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| Who::of(row).as_ref() == Some(who))
}

fn others(row: &Row) -> String {
    let own = row.extra.iter().copied();
    let shared = row.labels.iter().filter(|(name, _)| !["pid", "comm", "cgroup"].contains(name));
    shared.chain(own).map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
