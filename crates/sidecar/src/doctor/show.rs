//! What was found, for people and for programs. The document for programs is described in `docs/doctor.md`; its
//! `schema` number changes when a member is renamed or removed.

use std::fmt::Write as _;

use serde::Serialize;
use sidecar_core::{HookReport, ProbeState};

use super::{
    Findings,
    check::{Check, Level},
    trial::Trial,
};
use crate::{
    cli::LONG_VERSION,
    listing::text::{self, WIDTH, wrap},
    serve::probes as api,
};

/// Column the findings stand at: behind the mark and the name.
const FOUND: usize = 27;
/// Column of a probe's hooks.
const HOOKS: usize = 8;
/// Room for the name of a hook.
const HOOK: usize = 38;

/// For people.
pub(super) fn text(findings: &Findings, coloured: bool) -> String {
    let mut out = format!("sidecar {LONG_VERSION}\n\nMachine\n");
    for check in &findings.checks {
        row(&mut out, check, coloured);
    }
    out.push_str("\nProbes\n");
    for trial in &findings.trials {
        probe(&mut out, trial, &findings.checks, coloured);
    }
    let _ = writeln!(out, "\n{}", wrap(&format!("Result: {}", findings.summary), 0, WIDTH));
    out
}

fn row(out: &mut String, check: &Check, coloured: bool) {
    let name = check.name.replace('_', " ");
    let found = wrap(&check.found, FOUND, WIDTH);
    let _ = writeln!(out, "  {} {name:<19}{}", mark(check.level, coloured), found.trim_start());
    advice(out, &check.advice, FOUND);
}

fn probe(out: &mut String, trial: &Trial, checks: &[Check], coloured: bool) {
    let report = &trial.report;
    let level = match report.state {
        ProbeState::Active => Level::Ok,
        ProbeState::Off => Level::Unknown,
        ProbeState::Degraded => Level::Warn,
        ProbeState::Unsupported | ProbeState::Failed => Level::Fail,
    };
    let state = report.state.as_str();
    // Where there are hooks, they tell the reason below.
    let told = report.reason.is_empty() || !report.hooks.is_empty();
    let word = if told { state.to_owned() } else { format!("{state}: {}", report.reason) };
    let _ = writeln!(
        out,
        "  {} {:<19}{}",
        mark(level, coloured),
        report.probe,
        wrap(&word, FOUND, WIDTH).trim_start()
    );
    let same = |check: &&Check| !check.advice.is_empty() && check.advice == report.advice;
    match checks.iter().find(same) {
        Some(check) => advice(out, &format!("see {} above", check.name.replace('_', " ")), FOUND),
        None => advice(out, &report.advice, FOUND),
    }
    for hook in &report.hooks {
        ladder(out, hook, trial);
    }
}

fn ladder(out: &mut String, report: &HookReport, trial: &Trial) {
    let declared = trial.probe.hooks.iter().find(|hook| hook.name == report.hook);
    let declared = declared.or(trial.probe.hooks.first());
    let used = match report.used {
        Some(step) if step.degrades.is_empty() => step.via.to_string(),
        Some(step) => format!("{}: {}", step.via, step.degrades),
        None => format!("none: {}", declared.map_or("", |hook| hook.missing)),
    };
    let at = HOOKS + HOOK;
    let _ = writeln!(out, "{:HOOKS$}{:<HOOK$}{}", "", report.hook, wrap(&used, at, WIDTH).trim_start());
    for (step, why) in &report.refused {
        let _ = writeln!(out, "{}", wrap(&format!("refused {}: {why}", step.via), HOOKS + 2, WIDTH));
    }
}

fn advice(out: &mut String, text: &str, indent: usize) {
    if !text.is_empty() {
        let _ = writeln!(out, "{}", wrap(&format!("-> {text}"), indent, WIDTH));
    }
}

/// Five columns.
fn mark(level: Level, coloured: bool) -> String {
    let (word, colour) = match level {
        Level::Ok => ("ok", 32),
        Level::Unknown => ("-", 0),
        Level::Warn => ("warn", 33),
        Level::Fail => ("FAIL", 31),
    };
    if coloured { format!("\x1b[{colour}m{word:<5}\x1b[0m") } else { format!("{word:<5}") }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    version: &'static str,
    exit_code: u8,
    summary: &'a str,
    checks: &'a [Check],
    probes: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    report: api::Probe<'a>,
    missing_capabilities: &'a [&'static str],
}

/// For programs.
pub(super) fn json(findings: &Findings) -> String {
    text::json(&Document {
        schema: 1,
        version: LONG_VERSION,
        exit_code: findings.exit as u8,
        summary: &findings.summary,
        checks: &findings.checks,
        probes: findings.trials.iter().map(entry).collect(),
    })
}

fn entry(trial: &Trial) -> Entry<'_> {
    Entry { report: api::probe(&trial.report), missing_capabilities: &trial.missing }
}
