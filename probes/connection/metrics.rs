//! The probe's metrics and their bucket bounds.

use sidecar_core::{Kind, Metric, Unit};

const LABELS: &[&str] = &["src_ip", "dst_ip", "dst_port", "role", "comm"];
const WITH_REASON: &[&str] = &["src_ip", "dst_ip", "dst_port", "role", "comm", "reason"];
const OF_LISTENER: &[&str] = &["dst_ip", "dst_port", "role", "comm"];

macro_rules! metrics {
    ($($name:ident = $metric:literal $kind:ident $unit:ident $labels:ident $help:literal;)+) => {
        $(pub(super) static $name: Metric = Metric {
            name: concat!("sidecar_connection_", $metric),
            help: $help,
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: $labels,
        };)+
        /// Every metric of the probe.
        pub(super) static ALL: &[&Metric] = &[$(&$name),+];
    };
}

const NONE: &[&str] = &[];

metrics! {
    BYTES_SENT = "bytes_sent_total" Counter None LABELS "Payload bytes sent, each byte once however often it was transmitted";
    BYTES_RECEIVED = "bytes_received_total" Counter None LABELS "Payload bytes received in order";
    PACKETS_SENT = "packets_sent_total" Counter None LABELS "Segments sent, retransmissions and empty ones included";
    PACKETS_RECEIVED = "packets_received_total" Counter None LABELS "Segments received, empty ones included";
    RETRANSMITS = "retransmits_total" Counter None LABELS "Segments sent again";
    OPENED = "opened_total" Counter None LABELS "Connections established";
    CLOSED = "closed_total" Counter None WITH_REASON "Established connections that ended, by how";
    FAILED = "failed_total" Counter None WITH_REASON "Connection attempts that were never established, by why";
    ACTIVE = "active" Gauge None LABELS "Established connections now";
    DURATION = "duration_seconds" Histogram Seconds LABELS "Time from established to the end of the connection";
    HANDSHAKE = "handshake_seconds" Histogram Seconds LABELS "Time from SYN to established";
    RTT = "rtt_seconds" Histogram Seconds LABELS "Smoothed round-trip time, one sample per connection that had traffic in an interval and one at its end";
    LISTEN_OVERFLOWS = "listen_overflows_total" Counter None OF_LISTENER "Connection requests dropped at the listening socket, its queue being full";
    OVERFLOWED = "overflowed_total" Counter None NONE "Connections counted in the row with every label `other`, because metrics.max_series label sets exist";
    LABEL_SETS = "label_sets" Gauge None NONE "Distinct label sets";
}

/// Bounds of each histogram.
pub(super) const BOUNDS: usize = 14;

/// Upper bounds of a histogram in nanoseconds, with what finds the bucket of a value in a few steps.
pub(super) struct Bounds {
    nanos: [u64; BOUNDS],
    /// For each power of two the first bound that is not below it.
    first: [u8; 64],
}

impl Bounds {
    const fn new(nanos: [u64; BOUNDS]) -> Self {
        let mut first = [0; 64];
        let mut power = 0;
        while power < 64 {
            while (first[power] as usize) < BOUNDS && nanos[first[power] as usize] < 1 << power {
                first[power] += 1;
            }
            power += 1;
        }
        Self { nanos, first }
    }

    /// The bucket of a value: the first bound that is not below it, for bounds are inclusive.
    pub(super) fn bucket(&self, nanos: u64) -> usize {
        let mut at = usize::from(self.first[nanos.max(1).ilog2() as usize]);
        while at < BOUNDS && self.nanos[at] < nanos {
            at += 1;
        }
        at
    }
}

/// Upper bounds of `duration_seconds`, nanoseconds.
pub(super) static DURATIONS: Bounds = Bounds::new([
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    300_000_000_000,
    1_800_000_000_000,
    3_600_000_000_000,
]);
/// The same in seconds.
pub(super) const DURATION_SECONDS: [f64; BOUNDS] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0];

/// Upper bounds of `handshake_seconds` and `rtt_seconds`, nanoseconds.
pub(super) static TRIP: Bounds = Bounds::new([
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
]);
/// The same in seconds.
pub(super) const TRIP_SECONDS: [f64; BOUNDS] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_whose_bound_is_not_below_it() {
        for bounds in [&DURATIONS, &TRIP] {
            let values = bounds.nanos.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
            for value in values.chain([0, 1, 2, 3, u64::MAX - 1, u64::MAX]).chain((0..64).map(|bit| 1 << bit))
            {
                let expected = bounds.nanos.partition_point(|&bound| bound < value);
                assert_eq!(bounds.bucket(value), expected, "{value}");
            }
        }
    }

    #[test]
    fn bounds_in_seconds_and_nanoseconds_are_the_same() {
        let pairs = DURATIONS.nanos.iter().zip(&DURATION_SECONDS).chain(TRIP.nanos.iter().zip(&TRIP_SECONDS));
        for (nanos, seconds) in pairs {
            assert!((*nanos as f64 / 1e9 - seconds).abs() < 1e-12, "{nanos} ns is not {seconds} s");
        }
    }
}
