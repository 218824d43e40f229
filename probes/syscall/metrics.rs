//! The probe's metrics.

use sidecar_core::{Kind, Metric, Unit};

use super::shared::BUCKETS;

static LABELS: &[&str] = &["syscall", "comm"];
static WITH_ERRNO: &[&str] = &["syscall", "errno", "comm"];
static OF_CALL: &[&str] = &["syscall"];

macro_rules! metrics {
    ($($name:ident = $metric:literal $kind:ident $unit:ident $labels:expr, $help:literal;)+) => {
        $(pub(super) static $name: Metric = Metric {
            name: concat!("sidecar_syscall_", $metric),
            help: $help,
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: $labels,
        };)+
        /// Every metric of the probe.
        pub(super) static ALL: &[&Metric] = &[$(&$name),+];
    };
}

metrics! {
    CALLS = "calls_total" Counter None LABELS, "System calls that returned";
    ERRORS = "errors_total" Counter None WITH_ERRNO, "System calls that failed, by error; those a signal interrupted before they could are not among them";
    INTERRUPTED = "interrupted_total" Counter None LABELS, "System calls a signal interrupted: the kernel then makes them again, which counts as another call, or they fail with EINTR";
    SECONDS = "seconds" Histogram Seconds OF_CALL, "Time from entering the kernel to leaving it, waiting included; with probes.syscall.latency";
    OVERFLOWED = "overflowed_total" Counter None &[], "System calls counted in rows of processes called `other`, because metrics.max_series, probes.syscall.max_processes or a table was full";
    LABEL_SETS = "label_sets" Gauge None &[], "Distinct label sets of calls";
}

/// Upper bounds of `seconds`.
pub(super) const BOUNDS: [f64; BUCKETS - 1] =
    [0.000_001, 0.000_005, 0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.1, 1.0, 10.0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscall::shared::{BOUNDS_NANOS, bucket};

    #[test]
    fn bounds_in_seconds_and_nanoseconds_are_the_same() {
        for (nanos, seconds) in BOUNDS_NANOS.iter().zip(&BOUNDS) {
            assert!((*nanos as f64 / 1e9 - seconds).abs() < 1e-12, "{nanos} ns is not {seconds} s");
        }
    }

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_is_not_below_it() {
        for (at, &bound) in BOUNDS_NANOS.iter().enumerate() {
            assert_eq!((bucket(bound), bucket(bound + 1)), (at, at + 1), "{bound} ns");
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }
}
