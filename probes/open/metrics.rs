//! The probe's metrics.

use sidecar_core::{Kind, Metric, Unit};

use super::shared::BUCKETS;

pub(super) static OPENS: Metric = Metric {
    name: "sidecar_open_total",
    help: "Opens of files and directories that ended, by result: ok, the name of the errno, or interrupted by a signal",
    kind: Kind::Counter,
    unit: Unit::None,
    labels: &["comm", "result"],
};

pub(super) static SECONDS: Metric = Metric {
    name: "sidecar_open_seconds",
    help: "How long opens took, failed ones included; with probes.open.latency",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    labels: &[],
};

/// Upper bounds of `SECONDS`; the kernel side counts by the same in nanoseconds.
pub(super) const BOUNDS: [f64; BUCKETS - 1] = [
    0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01,
    0.05, 0.1, 1.0, 10.0,
];
