//! The agent as a whole: memory in a machine where nothing happens, and the rest beside us.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{
    Bench,
    guest::{self, Files, Script},
    results::{AgentResults, Figure},
};
use crate::{
    shell::{output, privileged, step},
    vm::kernels,
};

/// Kernels before 6.4 report what maps could hold and not what they do.
const KERNEL: &str = "newest";

/// Takes all figures.
pub(super) fn measure(bench: &Bench) -> Result<AgentResults> {
    let mut measured = beside(bench)?;
    measured.extend(quiet(bench)?);
    let mut results = AgentResults { facts: bench.facts.clone(), figures: Vec::new() };
    for (name, title, unit, scale, target) in FIGURES {
        let value = measured.get(name).with_context(|| format!("there is no figure {name}"))?;
        results.figures.push(Figure {
            title: title.to_owned(),
            value: (value * scale * 1e4).round() / 1e4,
            unit: unit.to_owned(),
            target,
        });
    }
    Ok(results)
}

/// Name, title, unit, what to multiply by, and target.
type Row = (&'static str, &'static str, &'static str, f64, Option<f64>);

const FIGURES: [Row; 13] = [
    ("start_ms", "start until all probes are attached and it answers", "ms", 1.0, Some(500.0)),
    ("quiet_resident_bytes", "resident on a quiet machine", "MB", 1e-6, Some(10.0)),
    ("quiet_map_bytes", "BPF maps on a quiet machine", "MB", 1e-6, Some(2.0)),
    ("steady_cpu_percent", "share of a processor at 10,000 short connections a minute", "%", 1.0, Some(0.5)),
    ("live_tracked", "live sockets for the next three", "", 1.0, None),
    ("live_resident_bytes", "resident with them", "MB", 1e-6, Some(60.0)),
    ("live_map_bytes", "BPF maps with them", "MB", 1e-6, None),
    ("live_collect_ms", "reading them", "ms", 1.0, None),
    ("series", "series for the next four", "", 1.0, None),
    ("series_encoding_ms", "encoding them", "ms", 1.0, Some(50.0)),
    ("series_scrape_ms", "a scrape as its client sees it", "ms", 1.0, None),
    ("series_bytes", "the page", "MB", 1e-6, None),
    ("series_resident_bytes", "resident with them", "MB", 1e-6, None),
];

/// On this computer, as root.
fn beside(bench: &Bench) -> Result<BTreeMap<String, f64>> {
    step("measuring the agent on this machine, for three minutes; other work on it makes the times longer");
    let mut command = privileged(&bench.program, "starting the agent")?;
    let said = output(command.arg("host").arg(&bench.agent))?;
    let figures = said.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("@@figure ")?.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    Ok(figures.collect())
}

/// In a machine where nothing happens but the scrapes.
fn quiet(bench: &Bench) -> Result<BTreeMap<String, f64>> {
    step("measuring the agent's memory on a quiet machine");
    let kernel = kernels::fetch(*kernels::select(&[KERNEL.to_owned()])?.first().context("no kernel")?)?;
    let files = Files::new(&bench.agent, &bench.program, &[])?;
    let mut script = Script::new();
    script.line("beside_agent agent sidecar\nsleep 600\nusage quiet\nend");
    let said = guest::boot(&kernel, &files, &script, &bench.work, "agent")?;
    anyhow::ensure!(said.problems.is_empty(), "{}", said.problems.join("; "));
    let usage = said.usage("quiet")?;
    Ok(BTreeMap::from([
        ("quiet_resident_bytes".to_owned(), usage.resident),
        ("quiet_map_bytes".to_owned(), usage.maps),
    ]))
}
