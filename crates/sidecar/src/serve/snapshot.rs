//! A snapshot as JSON, for programs that want rows rather than a page to parse: `sidecar top --connect`, scripts.
//!
//! Written piece by piece as the client takes it, so that an answer of 100,000 rows needs no memory of its own.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::{Bytes, HttpBody};
use humantime::format_rfc3339_nanos;
use hyper::body::Frame;
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use sidecar_core::{Row, Snapshot, Value};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of a piece, about.
const PIECE: usize = 16 * 1024;
/// Snapshots being read at a time; each may be the only one that holds its rows.
pub(super) const MOST_ALIVE: usize = 8;

/// The body of an answer.
pub(super) struct Document {
    snapshot: Arc<Snapshot>,
    /// The next metric and its next row; none when the end is written.
    next: Option<(usize, usize)>,
    has_begun: bool,
    has_rows: bool,
    _alive: OwnedSemaphorePermit,
}

impl Document {
    pub(super) fn new(snapshot: Arc<Snapshot>, alive: OwnedSemaphorePermit) -> Self {
        Self { snapshot, next: Some((0, 0)), has_begun: false, has_rows: false, _alive: alive }
    }

    /// The next bytes; none after the last.
    fn piece(&mut self) -> Option<Vec<u8>> {
        let (mut family, mut row) = self.next?;
        let mut out = Vec::with_capacity(PIECE + 1024);
        if !self.has_begun {
            self.has_begun = true;
            let Snapshot { taken, started, .. } = &*self.snapshot;
            let (taken, started) = (format_rfc3339_nanos(*taken), format_rfc3339_nanos(*started));
            out.extend(format!("{{\"taken\":\"{taken}\",\"started\":\"{started}\",\"rows\":[\n").bytes());
        }
        while out.len() < PIECE {
            let Some(rows) = self.snapshot.families.get(family) else {
                out.extend(b"\n]}\n");
                self.next = None;
                return Some(out);
            };
            let Some(one) = rows.rows.get(row) else {
                (family, row) = (family + 1, 0);
                continue;
            };
            if std::mem::replace(&mut self.has_rows, true) {
                out.extend(b",\n");
            }
            // Text and numbers into memory: nothing of that can fail.
            let _ = serde_json::to_writer(&mut out, &Line(rows.metric.name, one));
            row += 1;
        }
        self.next = Some((family, row));
        Some(out)
    }
}

impl HttpBody for Document {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.get_mut().piece().map(|piece| Ok(Frame::data(piece.into()))))
    }
}

/// A metric's name and a row of it.
struct Line<'a>(&'a str, &'a Row);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(metric, row) = self;
        let mut line = serializer.serialize_struct("row", 3)?;
        line.serialize_field("metric", metric)?;
        line.serialize_field("labels", &Labels(row))?;
        match &row.value {
            Value::Counter(count) => line.serialize_field("value", count)?,
            Value::CounterF64(number) | Value::Gauge(number) => line.serialize_field("value", number)?,
            Value::Histogram(histogram) => line.serialize_field("value", &Histogram(histogram))?,
        }
        line.end()
    }
}

struct Labels<'a>(&'a Row);

impl Serialize for Labels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.labels.iter().chain(self.0.extra))
    }
}

struct Histogram<'a>(&'a sidecar_core::HistogramValue);

impl Serialize for Histogram<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("count", &self.0.count())?;
        map.serialize_entry("sum", &self.0.sum)?;
        map.serialize_entry("bounds", self.0.bounds)?;
        map.serialize_entry("counts", &*self.0.counts)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use sidecar_core::{HistogramValue, Kind, Metric, Rows, Unit};
    use tokio::sync::Semaphore;

    use super::*;

    static THINGS: Metric = Metric {
        name: "sidecar_things_total",
        help: "Things",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["thing"],
    };
    static TIMES: Metric = Metric {
        name: "sidecar_times_seconds",
        help: "Times",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &[],
    };

    fn pieces(rows: Rows) -> Vec<Vec<u8>> {
        let taken = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        let alive = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut document = Document::new(Arc::new(rows.finish(taken, SystemTime::UNIX_EPOCH)), alive);
        std::iter::from_fn(|| document.piece()).collect()
    }

    #[test]
    fn every_row_is_there_with_all_its_labels_and_its_value() {
        let mut rows = Rows::default();
        let labels = sidecar_core::Labels::new([("thing", "a \"quoted\"\nthing")]);
        rows.push_with(&THINGS, &labels, Some(("reason", "reset")), Value::Counter(u64::MAX));
        let histogram = HistogramValue { bounds: &[0.5, 1.0], counts: vec![1, 0, 2].into(), sum: 7.5 };
        rows.push(&TIMES, &sidecar_core::Labels::default(), Value::Histogram(histogram));
        let read: serde_json::Value = serde_json::from_slice(&pieces(rows).concat()).unwrap();
        let expected = serde_json::json!({
            "taken": "1970-01-01T00:00:01.500000000Z",
            "started": "1970-01-01T00:00:00.000000000Z",
            "rows": [
                {
                    "metric": "sidecar_things_total",
                    "labels": { "thing": "a \"quoted\"\nthing", "reason": "reset" },
                    "value": u64::MAX,
                },
                {
                    "metric": "sidecar_times_seconds",
                    "labels": {},
                    "value": { "count": 3, "sum": 7.5, "bounds": [0.5, 1.0], "counts": [1, 0, 2] },
                },
            ],
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn many_rows_come_in_pieces_of_about_the_same_size() {
        let mut rows = Rows::default();
        for number in 0..20_000u64 {
            let labels = sidecar_core::Labels::new([("thing", number.to_string())]);
            rows.push(&THINGS, &labels, Value::Counter(number));
        }
        let pieces = pieces(rows);
        assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() < PIECE + 1024));
        let read: serde_json::Value = serde_json::from_slice(&pieces.concat()).unwrap();
        let rows = read["rows"].as_array().unwrap();
        for (at, row) in rows.iter().enumerate() {
            assert_eq!((&row["value"], &row["labels"]["thing"]), (&at.into(), &at.to_string().into()));
        }
        assert_eq!(rows.len(), 20_000);
    }

    #[test]
    fn without_rows_it_is_a_document_all_the_same() {
        let read: serde_json::Value = serde_json::from_slice(&pieces(Rows::default()).concat()).unwrap();
        assert_eq!(read["rows"], serde_json::json!([]));
    }
}
