//! How long a page takes to write and how big it is: `cargo run --release -p sidecar-exporters --example encode`.
//!
//! The rows are shaped like the agent's own: label sets of five labels, each shared by a dozen counters and gauges and
//! one histogram of 20 buckets, so that one label set makes 35 series.

use std::time::{Duration, Instant, SystemTime};

use sidecar_core::{HistogramValue, Kind, Labels, Metric, Rows, Snapshot, Unit, Value};
use sidecar_exporters::prometheus::{Format, encode};

const SERIES_PER_SET: usize = 12 + 23;
const BOUNDS: &[f64] = &[
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5,
    1.0, 5.0,
];

fn metric(i: usize) -> &'static Metric {
    let (name, kind) = match i {
        0..8 => (format!("sidecar_connection_thing_{i}_total"), Kind::Counter),
        8..12 => (format!("sidecar_connection_level_{i}"), Kind::Gauge),
        _ => ("sidecar_connection_duration_seconds".into(), Kind::Histogram),
    };
    let unit = if i < 12 { Unit::None } else { Unit::Seconds };
    Box::leak(Box::new(Metric {
        name: name.leak(),
        help: "Measured by the benchmark",
        kind,
        unit,
        labels: &[],
    }))
}

fn value(i: usize, set: u64) -> Value {
    match i {
        0..8 => Value::Counter(set * 1_000_003 + i as u64),
        8..12 => Value::Gauge(set as f64 / 3.0),
        _ => {
            let counts = (0..=BOUNDS.len() as u64).map(|bucket| bucket * set % 997).collect();
            Value::Histogram(HistogramValue { bounds: BOUNDS, counts, sum: set as f64 / 7.0 })
        }
    }
}

/// With `shared`, the rows of a label set hold one allocation, as collectors' rows do.
fn snapshot(series: usize, shared: bool) -> Snapshot {
    let labels = |set: usize| {
        Labels::new([
            ("service", format!("service-{}", set % 97)),
            ("container", format!("container-{}", set % 31)),
            ("role", if set.is_multiple_of(2) { "client" } else { "server" }.into()),
            ("peer", format!("10.{}.{}.{}", set >> 16, set >> 8 & 255, set & 255)),
            ("peer_port", (1024 + set % 50_000).to_string()),
        ])
    };
    let sets: Vec<_> = (0..series.div_ceil(SERIES_PER_SET)).map(labels).collect();
    let metrics: Vec<_> = (0..13).map(metric).collect();
    let mut rows = Rows::default();
    for (set, kept) in sets.iter().enumerate() {
        for (i, metric) in metrics.iter().enumerate() {
            let own = (!shared).then(|| labels(set));
            rows.push(metric, own.as_ref().unwrap_or(kept), value(i, set as u64));
        }
    }
    rows.finish(SystemTime::now(), SystemTime::now())
}

fn main() {
    for (series, shared) in [(50_000, true), (50_000, false), (500_000, true), (500_000, false)] {
        let snapshot = snapshot(series, shared);
        for format in Format::ALL {
            let mut out = Vec::new();
            let mut times: Vec<Duration> = Vec::new();
            let mut samples = 0;
            for _ in 0..11 {
                out.clear();
                let start = Instant::now();
                samples = encode(&snapshot, format, &mut out).samples;
                times.push(start.elapsed());
            }
            let first = times[0];
            times.sort_unstable();
            println!(
                "{samples} series, {} labels, {}: median {:.1} ms, first {:.1} ms (new buffer), {:.1} MB",
                if shared { "shared" } else { "separate" },
                format.as_str(),
                times[times.len() / 2].as_secs_f64() * 1e3,
                first.as_secs_f64() * 1e3,
                out.len() as f64 / 1e6,
            );
        }
    }
}
