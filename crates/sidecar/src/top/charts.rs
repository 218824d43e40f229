//! Counters of the machine over time, a line for each value of one label.

use std::{
    collections::{BTreeMap, VecDeque},
    time::SystemTime,
};

use sidecar_core::{Rate, Row, Snapshot};

use super::processes::whole;

/// Points kept of each line: as many as the widest terminal shows.
const POINTS: usize = 512;
/// Lines of one counter; more would not fit anywhere.
const LINES: usize = 64;

/// One line.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Track {
    pub(super) total: u64,
    /// Things a second, the newest last.
    pub(super) points: VecDeque<f64>,
}

/// One counter.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) rate: &'static Rate,
    /// By the label's value.
    pub(super) tracks: BTreeMap<String, Track>,
    /// When the totals were read.
    read: Option<SystemTime>,
}

impl Chart {
    pub(super) fn new(rate: &'static Rate) -> Self {
        Self { rate, tracks: BTreeMap::new(), read: None }
    }

    /// Forgets what was before: the counters begin anew.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.rate);
    }

    /// Takes over a snapshot.
    pub(super) fn add(&mut self, snapshot: &Snapshot) {
        let Some(family) = snapshot.family(self.rate.metric.name) else { return };
        let before = self.read.replace(snapshot.taken);
        let passed = before.and_then(|before| snapshot.taken.duration_since(before).ok());
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for row in &family.rows {
            if let Some(value) = label(row, self.rate.by) {
                *sums.entry(value).or_default() += whole(&row.value);
            }
        }
        for (name, total) in &sums {
            if !self.tracks.contains_key(*name) && self.tracks.len() < LINES {
                self.tracks.insert((*name).to_owned(), Track::default());
            }
            if let Some(track) = self.tracks.get_mut(*name) {
                let added = total.saturating_sub(std::mem::replace(&mut track.total, *total));
                track.points.extend(passed.map(|passed| added as f64 / passed.as_secs_f64().max(1e-3)));
            }
        }
        for (name, track) in &mut self.tracks {
            if !sums.contains_key(name.as_str()) && passed.is_some() {
                track.points.push_back(0.0);
            }
            while track.points.len() > POINTS {
                track.points.pop_front();
            }
        }
    }
}

/// The value of a label, whether the row shares it or not.
pub(super) fn label<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    let own = row.extra.filter(|(label, _)| *label == name).map(|(_, value)| value);
    own.or_else(|| row.labels.get(name))
}
