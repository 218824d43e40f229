//! The listings against the declarations they are made from.

use serde_json::Value;
use sidecar_core::{Kind, Metric, Step, Unit, Via, View};

use super::*;
use crate::{
    cli::CommonArgs,
    config::{self, Config},
};

fn config(switches: &[(&str, bool)]) -> Config {
    let probes = switches.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect();
    // A file that sets nothing, so that none lying about is read.
    let file = Some("/dev/null".into());
    let args = CommonArgs { config: file, probes, ..CommonArgs::default() };
    config::load(&args, std::iter::empty(), PROBES).unwrap()
}

#[test]
fn every_probe_is_listed_with_everything_it_declares() {
    let text = probes(&config(&[]), Format::Text);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for probe in PROBES {
        let state = if probe.enabled { "enabled" } else { "off" };
        assert!(words.contains(&format!("{} ({state}) {}", probe.name, probe.summary)), "{text}");
        assert!(words.contains(probe.cost), "{text}");
        for metric in probe.metrics {
            assert!(words.split(' ').any(|word| word == metric.name), "{}: {text}", metric.name);
        }
        for word in probe.hooks.iter().flat_map(|hook| hook.steps).map(|step| step.via.to_string()) {
            assert!(words.contains(&word), "{word}: {text}");
        }
    }
}

#[test]
fn lines_fit_the_terminal() {
    let text = probes(&config(&[]), Format::Text);
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
}

#[test]
fn a_probe_switched_off_is_shown_as_off() {
    let name = PROBES[0].name;
    let config = config(&[(name, false)]);
    assert!(probes(&config, Format::Text).starts_with(&format!("{name} (off)\n")));
    let document: Value = serde_json::from_str(&probes(&config, Format::Json)).unwrap();
    assert_eq!(document["probes"][0]["enabled"], false);
}

#[test]
fn the_document_for_programs_holds_ladders_in_order_and_metrics_with_their_types() {
    let document: Value = serde_json::from_str(&probes(&config(&[]), Format::Json)).unwrap();
    let listed = document["probes"].as_array().unwrap();
    assert_eq!(listed.len(), PROBES.len());
    for (entry, probe) in listed.iter().zip(PROBES) {
        assert_eq!(entry["probe"], probe.name);
        assert_eq!(entry["capabilities"], serde_json::json!(probe.capabilities));
        for (hook, declared) in entry["hooks"].as_array().unwrap().iter().zip(probe.hooks) {
            let programs: Vec<_> =
                hook["steps"].as_array().unwrap().iter().map(|step| &step["program"]).collect();
            let expected: Vec<_> = declared.steps.iter().map(|step| step.program).collect();
            assert_eq!(programs, expected);
            assert_eq!(hook["required"], declared.required);
        }
        assert_eq!(entry["metrics"].as_array().unwrap().len(), probe.metrics.len());
    }
}

static LATENCY: Metric = Metric {
    name: "sidecar_made_up_latency_seconds",
    help: "Time from a | to b",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    labels: &["comm", "role"],
};

#[test]
fn the_metrics_page_has_a_row_for_each_metric_with_bars_escaped() {
    let page = metrics_page(PROBES, &[&LATENCY]);
    let row =
        r"| `sidecar_made_up_latency_seconds` | histogram | seconds | `comm`, `role` | Time from a \| to b |";
    let own = page.split("## The agent itself").nth(1).unwrap();
    assert!(own.lines().any(|line| line == row), "{page}");
    for metric in PROBES.iter().flat_map(|probe| probe.metrics) {
        assert_eq!(page.matches(&format!("| `{}` |", metric.name)).count(), 1, "{}", metric.name);
    }
}

#[test]
fn the_probes_page_names_each_step_and_what_is_less_exact_with_it() {
    const STEPS: &[Step] = &[
        Step { program: "a", via: Via::Fexit("f"), degrades: "" },
        Step { program: "b", via: Via::Tracepoint("sock", "t"), degrades: "only a | b" },
    ];
    const HOOKS: &[Hook] =
        &[Hook { name: "made up", required: false, missing: "nothing is seen", steps: STEPS }];
    let probe = Probe {
        hooks: HOOKS,
        metrics: PROBES[0].metrics,
        counts: &[],
        view: View::NONE,
        events: &[],
        options: &[],
        fields: &[],
        capabilities: &[],
        rings: &[],
        name: "made_up",
        summary: "Nothing",
        enabled: false,
        cost: "none",
        plan: PROBES[0].plan,
        start: PROBES[0].start,
    };
    let page = probes_page(&[&probe]);
    let row = r"| made up | no | `fexit/f`, `tracepoint/t` (only a \| b) | nothing is seen |";
    assert!(page.lines().any(|line| line == row), "{page}");
    let line = "| [`made_up`](#made_up) | Nothing | no | none | none |";
    assert!(page.lines().any(|found| found == line), "{page}");
}
