//! Writes families line by line.
//!
//! Label text is escaped once per label set: collectors push their families in the same order of label sets, so the
//! next family finds the text by walking along the family before it and copies it from where it already stands in the
//! buffer. No hash table, no copy of the labels.

use std::{ops::Range, time::SystemTime};

use sidecar_core::{Family, HistogramValue, Kind, Labels, Metric, Row, Value};

use super::{Encoding, Format, Written, number};

/// How many label sets in a row a family may lack before its order counts as another one.
const LOOKAHEAD: usize = 8;

/// Where the text of a label set stands in the buffer.
struct Group<'a> {
    labels: &'a Labels,
    text: Range<usize>,
}

/// The `le` texts of the bounds seen last; the rows of a family share theirs.
#[derive(Default)]
struct Bounds {
    of: &'static [f64],
    texts: Vec<String>,
}

impl Bounds {
    fn set(&mut self, bounds: &'static [f64]) {
        if !std::ptr::eq(self.of, bounds) {
            self.of = bounds;
            self.texts = bounds.iter().map(|&bound| number::canonical(bound)).collect();
        }
    }
}

/// A sample's value.
#[derive(Clone, Copy)]
enum Number {
    Whole(u64),
    Float(f64),
}

pub(super) struct Writer<'a, 'out> {
    out: &'out mut Vec<u8>,
    format: Format,
    /// When counters began; `None` if nobody wants to know.
    created: Option<f64>,
    bounds: Bounds,
    /// Label sets of the family before this one, in order.
    before: Vec<Group<'a>>,
    /// Label sets of this family so far.
    groups: Vec<Group<'a>>,
    /// The first entry of `before` not yet met again.
    cursor: usize,
    written: Written,
}

impl<'a, 'out> Writer<'a, 'out> {
    pub(super) fn new(encoding: Encoding, started: SystemTime, out: &'out mut Vec<u8>) -> Self {
        let wanted = encoding.created && encoding.format == Format::OpenMetrics;
        Self {
            out,
            format: encoding.format,
            created: wanted.then(|| number::unix_seconds(started)),
            bounds: Bounds::default(),
            before: Vec::new(),
            groups: Vec::new(),
            cursor: 0,
            written: Written::default(),
        }
    }

    pub(super) fn finish(self) -> Written {
        if self.format == Format::OpenMetrics {
            self.out.extend_from_slice(b"# EOF\n");
        }
        self.written
    }

    pub(super) fn family(&mut self, family: &'a Family) {
        std::mem::swap(&mut self.before, &mut self.groups);
        self.groups.clear();
        self.cursor = 0;
        self.header(family.metric);
        for row in &family.rows {
            match &row.value {
                Value::Histogram(value) if fits(family.metric, value) => {
                    self.histogram(family.metric, row, value);
                }
                value => match scalar(family.metric.kind, value) {
                    Some(number) => self.scalar(family.metric, row, number),
                    None => self.written.refused += 1,
                },
            }
        }
    }

    fn header(&mut self, metric: &Metric) {
        let (name, kind) = (metric.family(), metric.kind);
        match self.format {
            Format::Text => {
                self.describe("HELP", name, suffix(kind), metric.help, false);
                self.describe("TYPE", name, suffix(kind), type_in_text(kind), false);
            }
            Format::OpenMetrics => {
                self.describe("TYPE", name, "", type_in_open_metrics(kind), false);
                if let Some(unit) = unit(metric) {
                    self.describe("UNIT", name, "", unit, false);
                }
                self.describe("HELP", name, "", metric.help, true);
            }
        }
    }

    /// A `# WHAT name text` line.
    fn describe(&mut self, what: &str, name: &str, suffix: &str, text: &str, quotes: bool) {
        for part in ["# ", what, " ", name, suffix, " "] {
            self.out.extend_from_slice(part.as_bytes());
        }
        escape(text, quotes, self.out);
        self.out.push(b'\n');
    }

    fn scalar(&mut self, metric: &Metric, row: &'a Row, number: Number) {
        self.sample(metric.family(), suffix(metric.kind), row, number);
        if metric.kind == Kind::Counter {
            self.created(metric, row);
        }
    }

    fn histogram(&mut self, metric: &Metric, row: &'a Row, value: &HistogramValue) {
        self.bounds.set(value.bounds);
        let start = self.out.len();
        self.name(metric.family(), "_bucket");
        if self.labels(row) == 0 {
            self.out.push(b'{');
        } else {
            self.out.push(b',');
        }
        self.out.extend_from_slice(b"le=\"");
        let prefix = start..self.out.len();
        let mut total = 0_u64;
        for (i, count) in value.counts.iter().enumerate() {
            if i > 0 {
                self.out.extend_from_within(prefix.clone());
            }
            total = total.saturating_add(*count);
            let bound = self.bounds.texts.get(i).map_or("+Inf", String::as_str);
            self.out.extend_from_slice(bound.as_bytes());
            self.out.extend_from_slice(b"\"} ");
            self.number(Number::Whole(total));
        }
        self.sample(metric.family(), "_sum", row, Number::Float(value.sum));
        self.sample(metric.family(), "_count", row, Number::Whole(total));
        self.created(metric, row);
    }

    fn created(&mut self, metric: &Metric, row: &'a Row) {
        if let Some(seconds) = self.created {
            self.sample(metric.family(), "_created", row, Number::Float(seconds));
        }
    }

    fn sample(&mut self, name: &str, suffix: &str, row: &'a Row, number: Number) {
        self.name(name, suffix);
        if self.labels(row) > 0 {
            self.out.push(b'}');
        }
        self.out.push(b' ');
        self.number(number);
    }

    fn name(&mut self, name: &str, suffix: &str) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(suffix.as_bytes());
    }

    /// Writes the row's labels with an opening brace and without a closing one, or nothing if it has none. Returns
    /// the number of bytes written.
    fn labels(&mut self, row: &'a Row) -> usize {
        let start = self.out.len();
        self.shared_labels(&row.labels);
        if let Some((name, value)) = row.extra {
            self.out.push(if self.out.len() == start { b'{' } else { b',' });
            label(name, value, self.out);
        }
        self.out.len() - start
    }

    fn shared_labels(&mut self, labels: &'a Labels) {
        if let Some(last) = self.groups.last()
            && last.labels.same(labels)
        {
            self.out.extend_from_within(last.text.clone());
            return;
        }
        let start = self.out.len();
        let ahead = self.before.iter().skip(self.cursor).take(LOOKAHEAD);
        if let Some((skipped, group)) = ahead.enumerate().find(|(_, group)| group.labels.same(labels)) {
            self.cursor += skipped + 1;
            self.out.extend_from_within(group.text.clone());
        } else {
            for (i, (name, value)) in labels.iter().enumerate() {
                self.out.push(if i == 0 { b'{' } else { b',' });
                label(name, value, self.out);
            }
        }
        self.groups.push(Group { labels, text: start..self.out.len() });
    }

    /// Writes a value and ends the line.
    fn number(&mut self, number: Number) {
        match number {
            Number::Whole(value) => number::whole(value, self.out),
            Number::Float(value) => number::float(value, self.out),
        }
        self.out.push(b'\n');
        self.written.samples += 1;
    }
}

/// Whether a histogram can be written as one of `metric`.
fn fits(metric: &Metric, value: &HistogramValue) -> bool {
    metric.kind == Kind::Histogram && value.counts.len() == value.bounds.len() + 1
}

/// The value to write for a row of a metric of this kind; `None` if it makes no sense there.
fn scalar(kind: Kind, value: &Value) -> Option<Number> {
    match (kind, value) {
        (Kind::Info, Value::Counter(_) | Value::Gauge(_)) => Some(Number::Whole(1)),
        (Kind::Counter | Kind::Gauge, Value::Counter(value)) => Some(Number::Whole(*value)),
        (Kind::Counter, Value::CounterF64(value)) if *value >= 0.0 => Some(Number::Float(*value)),
        (Kind::Gauge, Value::Gauge(value)) => Some(Number::Float(*value)),
        _ => None,
    }
}

const fn suffix(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => "",
    }
}

const fn type_in_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge | Kind::Info => "gauge",
        Kind::Histogram => "histogram",
    }
}

const fn type_in_open_metrics(kind: Kind) -> &'static str {
    match kind {
        Kind::Info => "info",
        kind => type_in_text(kind),
    }
}

/// The unit to declare. One that is not the end of the name would make a reader refuse the whole scrape.
fn unit(metric: &Metric) -> Option<&'static str> {
    let unit = metric.unit.suffix();
    let stem = metric.family().strip_suffix(unit)?;
    (!unit.is_empty() && stem.ends_with('_') && metric.kind != Kind::Info).then_some(unit)
}

/// `name="value"`, the value escaped.
fn label(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    escape(value, true, out);
    out.push(b'"');
}

/// Writes `text` with backslash, line feed and, with `quotes`, the double quote escaped. Everything else, control
/// characters included, stands for itself in both formats.
fn escape(text: &str, quotes: bool, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    let special = |&byte: &u8| byte == b'\\' || byte == b'\n' || (quotes && byte == b'"');
    while let Some(at) = rest.iter().position(special) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\n' => b"\\n",
            b'"' => b"\\\"",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}
