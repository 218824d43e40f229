//! What a number means: declared once beside its probe, and from there in HELP and TYPE lines, docs and checks.

/// How a value behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; starts at zero when the agent starts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in upper-inclusive buckets.
    Histogram,
    /// Always 1; the labels are the message.
    Info,
}

/// Base unit of the value; the metric's name ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A plain number of things.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A share between 0 and 1.
    Ratio,
}

impl Unit {
    /// The word OpenMetrics wants in a UNIT line and at the end of the name; empty for plain numbers.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Ratio => "ratio",
        }
    }
}

/// The definition of a metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Full Prometheus name: `sidecar_<probe>_<thing>[_<unit>][_total]`.
    pub name: &'static str,
    /// One sentence without a full stop at its end.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// Labels it can have. A probe whose label set is configurable lists those of the default set.
    pub labels: &'static [&'static str],
}

impl Metric {
    /// The OpenMetrics family name: a counter's without `_total`, an info's without `_info`.
    pub fn family(&self) -> &'static str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }
}
