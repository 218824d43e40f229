//! The probe's metrics.

use sidecar_core::{Kind, Metric, Unit};

pub(super) static EXECS: Metric = Metric {
    name: "sidecar_exec_total",
    help: "Programs started, and starts that failed, by result: ok or the name of the errno. Started ones under their own name, failed ones under that of the process that tried",
    kind: Kind::Counter,
    unit: Unit::None,
    labels: &["comm", "result"],
};

pub(super) static EXITS: Metric = Metric {
    name: "sidecar_exec_exits_total",
    help: "Processes that ended, by reason: success (code 0), failure (another code) or the name of the signal",
    kind: Kind::Counter,
    unit: Unit::None,
    labels: &["comm", "reason"],
};

pub(super) static LIFETIME: Metric = Metric {
    name: "sidecar_exec_lifetime_seconds",
    help: "How long processes lived that have ended, from their fork",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    labels: &[],
};

/// Upper bounds of the lifetime's buckets; the kernel side counts by the same in nanoseconds.
pub(super) const LIFETIME_SECONDS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0];
