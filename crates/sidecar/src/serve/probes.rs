//! The state of the probes as JSON: what `sidecar probes` shows, for programs.

use serde::Serialize;
use sidecar_core::{HookReport, ProbeReport, Step};

#[derive(Serialize)]
struct Document<'a> {
    probes: Vec<Probe<'a>>,
}

/// One probe's state with everything that led to it.
#[derive(Serialize)]
pub(crate) struct Probe<'a> {
    #[serde(rename = "probe")]
    name: &'a str,
    state: &'a str,
    reason: &'a str,
    advice: &'a str,
    hooks: Vec<Hook<'a>>,
}

#[derive(Serialize)]
struct Hook<'a> {
    #[serde(rename = "hook")]
    name: &'a str,
    used: Option<Used<'a>>,
    refused: Vec<Refused<'a>>,
}

#[derive(Serialize)]
struct Used<'a> {
    program: &'a str,
    via: String,
    degrades: &'a str,
}

#[derive(Serialize)]
struct Refused<'a> {
    program: &'a str,
    via: String,
    reason: &'a str,
}

/// The document `/api/v1/probes` answers with.
pub(super) fn json(reports: &[ProbeReport]) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Document { probes: reports.iter().map(probe).collect() })
}

/// One probe of it.
pub(crate) fn probe(report: &ProbeReport) -> Probe<'_> {
    Probe {
        name: report.probe,
        state: report.state.as_str(),
        reason: &report.reason,
        advice: &report.advice,
        hooks: report.hooks.iter().map(hook).collect(),
    }
}

fn hook(report: &HookReport) -> Hook<'_> {
    let used =
        |step: Step| Used { program: step.program, via: step.via.to_string(), degrades: step.degrades };
    Hook {
        name: &report.hook,
        used: report.used.map(used),
        refused: report
            .refused
            .iter()
            .map(|(step, reason)| Refused { program: step.program, via: step.via.to_string(), reason })
            .collect(),
    }
}
