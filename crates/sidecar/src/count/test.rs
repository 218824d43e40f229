//! Counting and showing, on snapshots the tests write themselves.

use std::time::{Duration, SystemTime};

use sidecar_core::{CountSpec, HistogramValue, Kind, Labels, Metric, Rows, Snapshot, Unit, Value};

use super::{
    show::Show,
    tally::{Group, Tally},
};
use crate::cli::{CommonArgs, CountArgs, CountFormat, FlagValue};

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str]) -> Metric {
    Metric { name, help: "", kind, unit: Unit::None, labels }
}

static ALL: Metric = metric("things_total", Kind::Counter, &["thing", "comm"]);
static ERRORS: Metric = metric("errors_total", Kind::Counter, &["thing", "errno", "comm"]);
static SECONDS: Metric = metric("seconds", Kind::Histogram, &["thing"]);
static SPEC: CountSpec =
    CountSpec { noun: "things", all: &ALL, errors: Some(&ERRORS), seconds: Some(&SECONDS), by: "thing" };

fn snapshot(counts: &[(&str, &str, u64)], errors: &[(&str, u64)], seconds: &[(&str, f64)]) -> Snapshot {
    let mut rows = Rows::default();
    for (thing, comm, count) in counts {
        rows.push(&ALL, &Labels::new([("thing", *thing), ("comm", *comm)]), Value::Counter(*count));
    }
    for (thing, count) in errors {
        let labels = Labels::new([("thing", *thing), ("errno", "EIO"), ("comm", "a")]);
        rows.push(&ERRORS, &labels, Value::Counter(*count));
    }
    for (thing, sum) in seconds {
        let value = HistogramValue { bounds: &[1.0], counts: [1, 0].into(), sum: *sum };
        rows.push(&SECONDS, &Labels::new([("thing", *thing)]), Value::Histogram(value));
    }
    rows.finish(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH)
}

fn args(by: Option<&str>, top: Option<u64>, format: CountFormat) -> CountArgs {
    CountArgs { noun: "things".into(), by: by.map(Into::into), top, format, duration: None }
}

#[test]
fn rows_are_added_up_by_any_of_their_labels() {
    let counts = [("x", "a", 3), ("x", "b", 4), ("y", "a", 5)];
    let snapshot = snapshot(&counts, &[("x", 2)], &[("x", 0.5)]);
    let by_thing = Tally::of(&snapshot, &SPEC, "thing");
    assert_eq!(by_thing.0["x"], Group { count: 7, errors: 2, seconds: 0.5 });
    assert_eq!(by_thing.0["y"], Group { count: 5, errors: 0, seconds: 0.0 });
    let by_comm = Tally::of(&snapshot, &SPEC, "comm");
    assert_eq!(by_comm.0["a"], Group { count: 8, errors: 2, seconds: 0.0 });
    assert_eq!(by_comm.total().count, 12);
}

#[test]
fn an_interval_shows_only_what_was_added() {
    let earlier = Tally::of(&snapshot(&[("x", "a", 3), ("y", "a", 5)], &[], &[]), &SPEC, "thing");
    let later = Tally::of(&snapshot(&[("x", "a", 10), ("y", "a", 5)], &[], &[]), &SPEC, "thing");
    assert_eq!(later.since(&earlier).largest(), [("x", Group { count: 7, ..Group::default() })]);
}

#[test]
fn the_summary_is_like_that_of_strace() {
    let tally = Tally::of(
        &snapshot(&[("x", "a", 3), ("y\u{1b}[2J", "a", 1)], &[("x", 2)], &[("x", 0.000_3)]),
        &SPEC,
        "thing",
    );
    let show = Show::new(&args(None, None, CountFormat::Table), &SPEC, "thing", false);
    let expected = "     %        count     errors      seconds usecs/call thing
------ ------------ ---------- ------------ ---------- ------------------------
 75.00            3          2     0.000300        100 x
 25.00            1                0.000000          0 y\u{fffd}[2J
------ ------------ ---------- ------------ ---------- ------------------------
100.00            4          2     0.000300         75 total
4 things in 2.0 s
";
    assert_eq!(show.summary(&tally, Duration::from_secs(2)), expected);
}

#[test]
fn of_many_groups_the_largest_are_shown_and_the_rest_is_said() {
    let counts: Vec<(String, u64)> = (1..=30).map(|number| (format!("t{number}"), number)).collect();
    let rows: Vec<(&str, &str, u64)> =
        counts.iter().map(|(name, count)| (name.as_str(), "a", *count)).collect();
    let tally = Tally::of(&snapshot(&rows, &[], &[]), &SPEC, "thing");
    let show = Show::new(&args(None, Some(2), CountFormat::Table), &SPEC, "thing", true);
    let text = show.interval(&tally, Duration::from_secs(1), Duration::from_secs(1));
    assert!(text.starts_with("\x1b[H\x1b[J1.0 s: 465 things, 465/s\n"), "{text:?}");
    assert!(text.contains(" t30\n") && text.contains(" t29\n") && !text.contains(" t28\n"), "{text}");
    assert!(text.ends_with("… and 28 more\n"), "{text}");
}

#[test]
fn json_has_one_object_a_line() {
    let tally = Tally::of(&snapshot(&[("x", "a", 3)], &[("x", 1)], &[]), &SPEC, "thing");
    let show = Show::new(&args(None, None, CountFormat::Json), &SPEC, "thing", true);
    let text = show.interval(&tally, Duration::from_millis(500), Duration::from_secs(9));
    let line: serde_json::Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
    let expected = serde_json::json!({
        "kind": "interval",
        "noun": "things",
        "elapsed_seconds": 0.5,
        "total": { "count": 3, "errors": 1 },
        "groups": [{ "thing": "x", "count": 3, "errors": 1 }],
    });
    assert_eq!(line, expected);
}

#[test]
fn what_cannot_be_grouped_by_says_what_can() {
    assert_eq!(args(Some("pid"), None, CountFormat::Table).group(&SPEC), Ok("pid"));
    let error = args(Some("port"), None, CountFormat::Table).group(&SPEC).unwrap_err();
    assert_eq!(error, "--by port: things have no such label; they have thing, comm, pid, cgroup");
}

#[test]
fn the_interval_takes_units_and_plain_seconds() {
    let with = |text: &str| {
        let flag =
            FlagValue { key: "metrics.interval_secs", name: "--interval".into(), texts: vec![text.into()] };
        CommonArgs { flags: vec![flag], ..CommonArgs::default() }.live_interval()
    };
    assert_eq!(CommonArgs::default().live_interval().unwrap().1, Duration::from_secs(1));
    assert_eq!(with("500ms").unwrap(), (CommonArgs::default(), Duration::from_millis(500)));
    assert_eq!(with("3").unwrap().1, Duration::from_secs(3));
    for text in ["0", "10ms", "soon", "-1s"] {
        let error = with(text).unwrap_err();
        assert!(error.starts_with(&format!("--interval {text}: expected")), "{error}");
    }
}
