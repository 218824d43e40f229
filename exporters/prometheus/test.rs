//! What is written reads back: against a reader made from the format's text alone, and against files read by eye.

use std::time::{Duration, UNIX_EPOCH};

use proptest::{collection::vec, option, prelude::*, sample::subsequence};
use sidecar_core::{HistogramValue, Kind, Labels, Metric, Rows, Snapshot, Unit, Value};

use super::{Encoding, Format, Written, encode};

const fn metric(name: &'static str, kind: Kind, unit: Unit) -> Metric {
    Metric { name, help: "A metric of the test", kind, unit, labels: &[] }
}

pub(super) static REQUESTS: Metric = metric("sidecar_test_requests_total", Kind::Counter, Unit::None);
pub(super) static BUSY: Metric = metric("sidecar_test_busy_seconds_total", Kind::Counter, Unit::Seconds);
pub(super) static OPEN: Metric = metric("sidecar_test_open", Kind::Gauge, Unit::None);
pub(super) static FILL: Metric = metric("sidecar_test_fill_ratio", Kind::Gauge, Unit::Ratio);
pub(super) static LATENCY: Metric = metric("sidecar_test_latency_seconds", Kind::Histogram, Unit::Seconds);
pub(super) static BUILD: Metric = Metric {
    help: "A backslash \\, a \"quote\" and\na line feed",
    ..metric("sidecar_test_build_info", Kind::Info, Unit::None)
};

pub(super) const BOUNDS: &[f64] = &[0.005, 1.0, 1e6];
const OTHER_BOUNDS: &[f64] = &[2.5];

pub(super) fn text(snapshot: &Snapshot, encoding: impl Into<Encoding>) -> String {
    let mut out = Vec::new();
    encode(snapshot, encoding, &mut out);
    String::from_utf8(out).unwrap()
}

fn finish(rows: Rows) -> Snapshot {
    rows.finish(
        UNIX_EPOCH + Duration::from_secs(1_700_000_600),
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_250),
    )
}

fn histogram(bounds: &'static [f64], counts: &[u64], sum: f64) -> Value {
    Value::Histogram(HistogramValue { bounds, counts: counts.into(), sum })
}

/// One of everything.
pub(super) fn example() -> Snapshot {
    let web = Labels::new([("service", "web"), ("peer", "10.0.0.1:443")]);
    let odd = Labels::new([("service", "a\\b \"c\"\nd"), ("peer", "zoë\t\u{7}")]);
    let bare = Labels::new::<&str>([]);
    let mut rows = Rows::default();
    rows.push(&BUILD, &Labels::new([("version", "1.2.3")]), Value::Gauge(1.0));
    for labels in [&web, &odd, &bare] {
        rows.push(&REQUESTS, labels, Value::Counter(18_446_744_073_709_551_615));
        rows.push(&BUSY, labels, Value::CounterF64(0.125));
    }
    rows.push_with(&OPEN, &web, Some(("state", "idle")), Value::Gauge(-2.0));
    rows.push_with(&OPEN, &web, Some(("state", "active")), Value::Gauge(f64::INFINITY));
    rows.push_with(&OPEN, &bare, Some(("state", "idle")), Value::Gauge(f64::NAN));
    rows.push(&FILL, &odd, Value::Gauge(0.1));
    rows.push(&LATENCY, &web, histogram(BOUNDS, &[1, 2, 0, 4], 1e7));
    rows.push(&LATENCY, &bare, histogram(OTHER_BOUNDS, &[0, 0], 0.0));
    finish(rows)
}

#[test]
fn the_example_is_written_as_in_the_files() {
    let created = Encoding { format: Format::OpenMetrics, created: true };
    for (encoding, file, expected) in [
        (Format::Text.into(), "example.prom", include_str!("testdata/example.prom")),
        (Format::OpenMetrics.into(), "example.om", include_str!("testdata/example.om")),
        (created, "example-created.om", include_str!("testdata/example-created.om")),
    ] {
        similar(&text(&example(), encoding), expected, file);
    }
}

fn similar(actual: &str, expected: &str, file: &str) {
    for (i, (actual, expected)) in actual.split('\n').zip(expected.split('\n')).enumerate() {
        assert_eq!(actual, expected, "{file}, line {}", i + 1);
    }
    assert_eq!(actual.len(), expected.len(), "{file}");
}

#[test]
fn values_that_make_no_sense_are_left_out_and_counted() {
    let labels = Labels::default();
    let mut rows = Rows::default();
    rows.push(&REQUESTS, &labels, Value::Gauge(1.0));
    rows.push(&BUSY, &labels, Value::CounterF64(f64::NAN));
    rows.push(&BUSY, &labels, Value::CounterF64(-1.0));
    rows.push(&OPEN, &labels, histogram(BOUNDS, &[0, 0, 0, 0], 0.0));
    rows.push(&LATENCY, &labels, Value::Counter(1));
    rows.push(&LATENCY, &labels, histogram(BOUNDS, &[0, 0], 0.0));
    rows.push(&FILL, &labels, Value::Gauge(0.5));
    let mut out = Vec::new();
    let written = encode(&finish(rows), Format::Text, &mut out);
    assert_eq!(written, Written { samples: 1, refused: 6 });
    assert_eq!(read(&String::from_utf8(out).unwrap()), [sample("sidecar_test_fill_ratio", &[], 0.5)]);
}

#[test]
fn an_empty_snapshot_is_a_valid_page() {
    assert_eq!(text(&finish(Rows::default()), Format::Text), "");
    assert_eq!(text(&finish(Rows::default()), Format::OpenMetrics), "# EOF\n");
}

/// One sample line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
}

fn sample(name: &str, labels: &[(&str, &str)], value: f64) -> Sample {
    let labels = labels.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    Sample { name: name.into(), labels, value }
}

/// The sample lines of a page, read character by character as the format's description says.
fn read(page: &str) -> Vec<Sample> {
    assert!(page.is_empty() || page.ends_with('\n'), "the last line must end");
    page.split_terminator('\n').filter(|line| !line.starts_with("# ")).map(read_line).collect()
}

fn read_line(line: &str) -> Sample {
    let mut chars = line.chars().peekable();
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| *c != '{' && *c != ' ') {
        name.push(c);
    }
    let mut labels = Vec::new();
    let mut open = chars.next() == Some('{');
    while open {
        let label: String = std::iter::from_fn(|| chars.next_if(|c| *c != '=')).collect();
        assert_eq!((chars.next(), chars.next()), (Some('='), Some('"')), "{line}");
        let mut value = String::new();
        loop {
            match chars.next().expect("the value ends with a quote") {
                '"' => break,
                '\\' => value.push(match chars.next() {
                    Some('n') => '\n',
                    Some(c @ ('\\' | '"')) => c,
                    other => panic!("{other:?} is no escape in {line}"),
                }),
                c => value.push(c),
            }
        }
        labels.push((label, value));
        open = match chars.next() {
            Some(',') => true,
            Some('}') => false,
            other => panic!("{other:?} after a label in {line}"),
        };
        assert!(open || chars.next() == Some(' '), "{line}");
    }
    let value: String = chars.collect();
    Sample { name, labels, value: value.parse().expect(&value) }
}

/// Any label value, with a liking for what could break out of one.
pub(super) fn hostile() -> impl Strategy<Value = String> {
    let special =
        prop::sample::select(vec!['"', '\\', '\n', '\r', '\0', '{', '}', ',', '=', ' ', '#', 'n', 'é']);
    vec(prop_oneof![special, any::<char>()], 0..8).prop_map(String::from_iter)
}

fn label_sets() -> impl Strategy<Value = Vec<Labels>> {
    let names = subsequence(vec!["service", "peer", "role", "container"], 0..=4);
    let set = names.prop_flat_map(|names| {
        let values = vec(hostile(), names.len());
        values.prop_map(move |values| Labels::new(names.iter().copied().zip(values)))
    });
    vec(set, 1..30)
}

/// Rows as (metric, label set, extra label's value): any order, any gaps, any repetition.
type Plan = Vec<(usize, prop::sample::Index, Option<&'static str>, f64)>;

fn plan() -> impl Strategy<Value = Plan> {
    let extra = option::of(prop::sample::select(vec!["idle", "active"]));
    let value =
        prop_oneof![any::<f64>().prop_filter("a number", |v| !v.is_nan()), (0..9_u32).prop_map(f64::from)];
    vec((0..3_usize, any::<prop::sample::Index>(), extra, value), 0..80)
}

fn build(sets: &[Labels], plan: &Plan) -> (Snapshot, Vec<Sample>) {
    let gauges = [&OPEN, &FILL];
    let mut rows = Rows::default();
    let mut expected: Vec<Vec<Sample>> = vec![Vec::new(); 3];
    let mut order = Vec::new();
    for (which, set, extra, value) in plan {
        let labels = set.get(sets);
        let extra = extra.map(|state| ("state", state));
        let pairs: Vec<_> = labels.iter().chain(extra).collect();
        if !order.contains(which) {
            order.push(*which);
        }
        if let Some(metric) = gauges.get(*which) {
            rows.push_with(metric, labels, extra, Value::Gauge(*value));
            expected[*which].push(sample(metric.name, &pairs, *value));
            continue;
        }
        rows.push_with(&LATENCY, labels, extra, histogram(OTHER_BOUNDS, &[3, 4], *value));
        for (bound, count) in [("2.5", 3.0), ("+Inf", 7.0)] {
            let pairs: Vec<_> = pairs.iter().copied().chain([("le", bound)]).collect();
            expected[2].push(sample("sidecar_test_latency_seconds_bucket", &pairs, count));
        }
        expected[2].push(sample("sidecar_test_latency_seconds_sum", &pairs, *value));
        expected[2].push(sample("sidecar_test_latency_seconds_count", &pairs, 7.0));
    }
    (finish(rows), order.into_iter().flat_map(|which| expected[which].clone()).collect())
}

proptest! {
    #[test]
    fn whatever_the_labels_a_reader_gets_the_same_samples_back(sets in label_sets(), plan in plan()) {
        let (snapshot, expected) = build(&sets, &plan);
        for format in Format::ALL {
            prop_assert_eq!(&read(&text(&snapshot, format)), &expected);
        }
    }

    #[test]
    fn help_stays_on_its_line(help in hostile()) {
        let help: &'static str = Box::leak(help.into_boxed_str());
        let metric: &'static Metric = Box::leak(Box::new(Metric { help, ..metric("a", Kind::Gauge, Unit::None) }));
        let mut rows = Rows::default();
        rows.push(metric, &Labels::default(), Value::Gauge(1.0));
        prop_assert_eq!(text(&finish(rows), Format::Text).matches('\n').count(), 3);
    }
}
