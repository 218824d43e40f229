//! A snapshot as text for Prometheus: the text format 0.0.4 and OpenMetrics 1.0.
//!
//! One buffer, written front to back, with no allocation per series: at 10^5 series the encoder, not the kernel side,
//! would otherwise be what the agent costs. Sockets, compression and caching belong to whoever serves the buffer.

mod accept;
mod number;
#[cfg(test)]
mod test;
#[cfg(test)]
mod test_peers;
mod writer;

use sidecar_core::Snapshot;

pub use accept::{Preference, preferences};

/// Which of the two text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus text 0.0.4, which everything reads.
    Text,
    /// OpenMetrics 1.0, which has units and an end mark: a cut-off scrape is noticed.
    OpenMetrics,
}

impl Format {
    /// Both, for tables with one entry per format.
    pub const ALL: [Self; 2] = [Self::Text, Self::OpenMetrics];

    /// The format an `Accept` header asks for; text 0.0.4 if it asks for nothing we have.
    pub fn negotiate(accept: Option<&str>) -> Self {
        accept.map_or(Self::Text, accept::negotiate)
    }

    /// The value of the `Content-Type` header. Prometheus 3 refuses a scrape without a known one.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The word for it in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::OpenMetrics => "openmetrics",
        }
    }
}

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// The format.
    pub format: Format,
    /// Whether OpenMetrics counters and histograms tell when they began, in a `_created` sample each. That is one
    /// more stored series per counter on every Prometheus that does not read it as a start time, hence off unless
    /// asked for.
    pub created: bool,
}

impl From<Format> for Encoding {
    fn from(format: Format) -> Self {
        Self { format, created: false }
    }
}

/// What [`encode`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Sample lines.
    pub samples: u64,
    /// Rows left out because their value does not fit the metric's kind, or is a NaN or negative counter. One such
    /// line would make a strict reader refuse all the others.
    pub refused: u64,
}

/// Appends `snapshot` to `out`.
pub fn encode(snapshot: &Snapshot, encoding: impl Into<Encoding>, out: &mut Vec<u8>) -> Written {
    let mut writer = writer::Writer::new(encoding.into(), snapshot.started, out);
    for family in snapshot.families.iter().filter(|family| !family.rows.is_empty()) {
        writer.family(family);
    }
    writer.finish()
}
