//! What the HTTP side counts about itself, as rows like everybody else's.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use sidecar_core::{Kind, Labels, Metric, Rows, Unit, Value};
use sidecar_exporters::prometheus::Format;

static SCRAPES: Metric = Metric {
    name: "sidecar_scrapes_total",
    help: "Pages of metrics served",
    kind: Kind::Counter,
    unit: Unit::None,
    labels: &["format"],
};

static BYTES: Metric = Metric {
    name: "sidecar_scrape_bytes_total",
    help: "Bytes of pages served, as sent (compressed if they were)",
    kind: Kind::Counter,
    unit: Unit::Bytes,
    labels: &["format"],
};

static ENCODING: Metric = Metric {
    name: "sidecar_scrape_encoding_seconds_total",
    help: "Time spent on writing and compressing pages",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    labels: &["format"],
};

static REFUSED: Metric = Metric {
    name: "sidecar_http_connections_refused_total",
    help: "Connections closed at once because too many were open",
    kind: Kind::Counter,
    unit: Unit::None,
    labels: &[],
};

/// Everything [`Stats::collect`] pushes.
pub(crate) static METRICS: &[&Metric] = &[&SCRAPES, &BYTES, &ENCODING, &REFUSED];

/// Counters of the HTTP side.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    formats: [PerFormat; Format::ALL.len()],
    refused_connections: AtomicU64,
}

#[derive(Debug, Default)]
struct PerFormat {
    scrapes: AtomicU64,
    bytes: AtomicU64,
    encoding_nanoseconds: AtomicU64,
}

impl Stats {
    pub(super) fn scrape(&self, format: Format, bytes: usize) {
        let counters = &self.formats[format as usize];
        counters.scrapes.fetch_add(1, Relaxed);
        counters.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn encoded(&self, format: Format, took: Duration) {
        self.formats[format as usize].encoding_nanoseconds.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    pub(super) fn refuse_connection(&self) {
        self.refused_connections.fetch_add(1, Relaxed);
    }

    /// The counters as rows.
    pub(crate) fn collect(&self, rows: &mut Rows) {
        for (format, counters) in Format::ALL.iter().zip(&self.formats) {
            let labels = Labels::new([("format", format.as_str())]);
            let seconds = counters.encoding_nanoseconds.load(Relaxed) as f64 / 1e9;
            rows.push(&SCRAPES, &labels, Value::Counter(counters.scrapes.load(Relaxed)));
            rows.push(&BYTES, &labels, Value::Counter(counters.bytes.load(Relaxed)));
            rows.push(&ENCODING, &labels, Value::CounterF64(seconds));
        }
        rows.push(&REFUSED, &Labels::default(), Value::Counter(self.refused_connections.load(Relaxed)));
    }
}
