//! What the Prometheus project's own readers make of a page: its Python parsers and `promtool`. Where they are not
//! installed the test says so and passes.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Output, Stdio},
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::Value as Json;
use sidecar_core::{HistogramValue, Labels, Rows, Snapshot, Value};

use super::{
    Encoding, Format,
    test::{BOUNDS, BUSY, LATENCY, OPEN, REQUESTS, example, hostile, text},
};

const READ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/prometheus/testdata/read.py");

/// Says why a test checked nothing, past the test runner's capture of output.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

fn run(program: &str, arguments: &[&str], input: &str) -> std::io::Result<Output> {
    let mut command = Command::new(program);
    let pipes = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    })
}

/// Name, labels and value of each sample line.
type Samples = Vec<(String, BTreeMap<String, String>, f64)>;

/// The samples of a page as the Python parser reads it; `None` if it is not installed.
fn read(page: &str, encoding: Encoding) -> Option<Samples> {
    let probe = Command::new("python3").args(["-c", "import prometheus_client"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        skip("the Python package prometheus_client is missing (pip install prometheus_client)");
        return None;
    }
    let output = run("python3", &[READ, encoding.format.as_str()], page).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let samples: Vec<Json> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    let read = samples.iter().map(|sample| {
        let labels =
            sample["labels"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value)));
        (text(&sample["name"]), labels.collect(), text(&sample["value"]).parse().unwrap())
    });
    Some(read.collect())
}

/// Many label sets nobody would choose, on metrics of every kind with labels.
fn hostile_snapshot() -> (Snapshot, Samples) {
    let mut runner = TestRunner::deterministic();
    let mut rows = Rows::default();
    let mut expected = Vec::new();
    let sets: Vec<_> = (0..500_u32)
        .map(|i| {
            let value = hostile().new_tree(&mut runner).unwrap().current();
            Labels::new([("id", i.to_string()), ("service", value)])
        })
        .collect();
    let mut expect = |name: &str, labels: &Labels, le: Option<&str>, value: f64| {
        let pairs = labels.iter().chain(le.map(|le| ("le", le)));
        expected.push((name.into(), pairs.map(|(n, v)| (n.into(), v.into())).collect(), value));
    };
    for (i, labels) in sets.iter().enumerate() {
        rows.push(&REQUESTS, labels, Value::Counter(i as u64));
        expect(REQUESTS.name, labels, None, i as f64);
    }
    for (i, labels) in sets.iter().enumerate() {
        rows.push(&OPEN, labels, Value::Gauge(i as f64 / 7.0));
        expect(OPEN.name, labels, None, i as f64 / 7.0);
    }
    for (i, labels) in sets.iter().enumerate() {
        let counts = [1, 0, i as u64, 2].into();
        rows.push(&LATENCY, labels, Value::Histogram(HistogramValue { bounds: BOUNDS, counts, sum: 0.75 }));
        let i = i as f64;
        for (le, count) in [("0.005", 1.0), ("1.0", 1.0), ("1e+06", 1.0 + i), ("+Inf", 3.0 + i)] {
            expect("sidecar_test_latency_seconds_bucket", labels, Some(le), count);
        }
        expect("sidecar_test_latency_seconds_sum", labels, None, 0.75);
        expect("sidecar_test_latency_seconds_count", labels, None, 3.0 + i);
    }
    let now = std::time::SystemTime::now();
    (rows.finish(now, now), expected)
}

#[test]
fn the_python_parsers_read_hostile_labels_back() {
    let (snapshot, expected) = hostile_snapshot();
    for format in Format::ALL {
        let Some(samples) = read(&text(&snapshot, format), format.into()) else { return };
        assert_eq!(samples.len(), expected.len());
        for (sample, expected) in samples.iter().zip(&expected) {
            assert_eq!(sample, expected, "{}", format.as_str());
        }
    }
}

#[test]
fn the_strict_open_metrics_parser_takes_the_example_with_and_without_start_times() {
    for (created, samples) in [(false, 21), (true, 29)] {
        let encoding = Encoding { format: Format::OpenMetrics, created };
        let Some(read) = read(&text(&example(), encoding), encoding) else { return };
        assert_eq!(read.len(), samples);
    }
}

#[test]
fn promtool_finds_nothing_to_say_about_names_help_and_types() {
    let labels = Labels::new([("service", "web")]);
    let mut rows = Rows::default();
    rows.push(&REQUESTS, &labels, Value::Counter(1));
    rows.push(&BUSY, &labels, Value::CounterF64(0.5));
    rows.push(&OPEN, &labels, Value::Gauge(1.0));
    let now = std::time::SystemTime::now();
    for page in [text(&rows.finish(now, now), Format::Text), text(&example(), Format::Text)] {
        let Ok(output) = run("promtool", &["check", "metrics"], &page) else {
            return skip("promtool is missing (it is in Debian's package prometheus)");
        };
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}
