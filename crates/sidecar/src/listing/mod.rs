//! What the probes declare about themselves, shown three ways: `sidecar probes` for people, the same for programs, and
//! the reference pages of the documentation. Nothing here looks at the kernel; that is `doctor`'s part.

mod pages;
#[cfg(test)]
mod tests;
pub(crate) mod text;

use std::fmt::Write as _;

use serde::Serialize;
use sidecar_core::{Hook, Kind, Metric, Probe, Step};
use sidecar_probes::PROBES;

pub(crate) use self::pages::{metrics_page, probes_page};
use self::text::WIDTH;
use crate::{cli::Format, config::Config};

/// Column the values of a probe's block stand at.
const VALUES: usize = 16;

/// The probes, with this configuration's choice of them.
pub(crate) fn probes(config: &Config, format: Format) -> String {
    let enabled = |probe: &Probe| config.probes.get(probe.name).is_some_and(|settings| settings.enabled);
    match format {
        Format::Text => {
            let blocks: Vec<String> = PROBES.iter().map(|probe| block(probe, enabled(probe))).collect();
            format!("{}\nWhat works on this machine: sidecar doctor\n", blocks.join("\n"))
        }
        Format::Json => {
            let probes = PROBES.iter().map(|probe| Entry::new(probe, enabled(probe))).collect();
            text::json(&Document { probes })
        }
    }
}

/// One probe for people.
fn block(probe: &Probe, enabled: bool) -> String {
    let state = if enabled { "enabled" } else { "off" };
    let mut out = format!("{} ({state})\n", probe.name);
    let _ = writeln!(out, "{}", text::wrap(probe.summary, 2, WIDTH));
    out.push_str(&field("cost", probe.cost));
    out.push_str(&field("capabilities", &capabilities(probe)));
    out.push_str(&column("hooks", probe.hooks.iter().map(ladder)));
    out.push_str(&column("metrics", probe.metrics.iter().map(|metric| metric.name.to_owned())));
    out
}

fn field(name: &str, value: &str) -> String {
    format!("  {name:<width$}{}\n", text::wrap(value, VALUES, WIDTH).trim_start(), width = VALUES - 2)
}

/// A field with several values, one below the other.
fn column(name: &str, values: impl Iterator<Item = String>) -> String {
    values.enumerate().map(|(index, value)| field(if index == 0 { name } else { "" }, &value)).collect()
}

/// A hook with its steps, best first.
fn ladder(hook: &Hook) -> String {
    let steps: Vec<String> = hook.steps.iter().map(|step| step.via.to_string()).collect();
    let optional = if hook.required { "" } else { " (optional)" };
    format!("{}{optional}: {}", hook.name, steps.join(", else "))
}

fn capabilities(probe: &Probe) -> String {
    if probe.capabilities.is_empty() { "none".to_owned() } else { probe.capabilities.join(", ") }
}

/// The word for a metric's kind that Prometheus users know.
const fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Info => "info",
    }
}

#[derive(Serialize)]
struct Document {
    probes: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    probe: &'static str,
    enabled: bool,
    summary: &'static str,
    cost: &'static str,
    capabilities: &'static [&'static str],
    hooks: Vec<HookEntry>,
    metrics: Vec<MetricEntry>,
}

#[derive(Serialize)]
struct HookEntry {
    hook: &'static str,
    required: bool,
    missing: &'static str,
    steps: Vec<StepEntry>,
}

#[derive(Serialize)]
struct StepEntry {
    program: &'static str,
    via: String,
    degrades: &'static str,
}

#[derive(Serialize)]
struct MetricEntry {
    name: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
}

impl Entry {
    fn new(probe: &Probe, enabled: bool) -> Self {
        let Probe { name, summary, cost, capabilities, .. } = *probe;
        let step = |step: &Step| StepEntry {
            program: step.program,
            via: step.via.to_string(),
            degrades: step.degrades,
        };
        let hook = |hook: &Hook| HookEntry {
            hook: hook.name,
            required: hook.required,
            missing: hook.missing,
            steps: hook.steps.iter().map(step).collect(),
        };
        let metric = |metric: &&Metric| MetricEntry {
            name: metric.name,
            kind: kind(metric),
            unit: metric.unit.suffix(),
            labels: metric.labels,
            help: metric.help,
        };
        Self {
            probe: name,
            enabled,
            summary,
            cost,
            capabilities,
            hooks: probe.hooks.iter().map(hook).collect(),
            metrics: probe.metrics.iter().map(metric).collect(),
        }
    }
}
