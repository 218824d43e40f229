//! What is measured: the workloads, and for each probe the file `bench.json` in its folder that says what to compare it
//! with and what it may cost.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::shell::root;

/// An operation that is measured; what it does is in `bench/src/workloads.rs`.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// How often the time is taken, and over how many operations each time.
    pub(super) blocks: u32,
    pub(super) operations: u32,
    /// What the machine sets up for it, a command of `guest.sh`.
    pub(super) setup: Option<&'static str>,
}

pub(super) const WORKLOADS: [Workload; 7] = [
    Workload { name: "roundtrip", title: "TCP round trip", blocks: 7, operations: 1_000, setup: None },
    Workload {
        name: "connect",
        title: "connect, round trip, close",
        blocks: 7,
        operations: 1_000,
        setup: None,
    },
    Workload { name: "openclose", title: "open, close", blocks: 7, operations: 2_000, setup: None },
    Workload { name: "spawn", title: "start a process", blocks: 7, operations: 200, setup: None },
    Workload { name: "getppid", title: "getppid", blocks: 7, operations: 10_000, setup: None },
    Workload { name: "udp", title: "UDP send, receive", blocks: 7, operations: 2_000, setup: None },
    Workload { name: "frame", title: "frame received", blocks: 7, operations: 5_000, setup: Some("cable") },
];

/// `probes/NAME/bench.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// The workloads to measure, and the instructions the probe may add to an operation, if that is decided.
    pub(super) targets: BTreeMap<String, Option<f64>>,
    /// The hooks it uses, as kind and name: what an empty program there costs.
    #[serde(default)]
    pub(super) floors: Vec<String>,
    /// Programs of Debian's libbpf-tools that tell the same things, with their arguments.
    #[serde(default)]
    pub(super) others: Vec<String>,
    /// The probe's options, as `name=value`, each of which is measured as well.
    #[serde(default)]
    pub(super) also: Vec<String>,
    /// Work that makes the agent itself busy.
    pub(super) agent: Option<Busy>,
}

/// What the agent's own process uses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Busy {
    /// For each operation of this workload
    pub(super) workload: String,
    /// after so many of them,
    pub(super) operations: u32,
    /// and how many instructions that may be.
    pub(super) target: f64,
}

impl Plan {
    /// Its workloads, in the order of [`WORKLOADS`].
    pub(super) fn workloads(&self) -> impl Iterator<Item = &'static Workload> + '_ {
        WORKLOADS.iter().filter(|workload| self.targets.contains_key(workload.name))
    }
}

/// The plans of these probes, or of all that have one, by name.
pub(super) fn plans(names: &[String]) -> Result<BTreeMap<String, Plan>> {
    let mut plans = BTreeMap::new();
    for probe in probes()? {
        let path = root().join("probes").join(&probe).join("bench.json");
        if path.exists() && (names.is_empty() || names.contains(&probe)) {
            let text = fs::read_to_string(&path)?;
            let plan = parse(&text).with_context(|| format!("in {}", path.display()))?;
            plans.insert(probe, plan);
        }
    }
    if let Some(name) = names.iter().find(|name| !plans.contains_key(*name)) {
        bail!("there is no probes/{name}/bench.json");
    }
    Ok(plans)
}

fn parse(text: &str) -> Result<Plan> {
    let plan: Plan = serde_json::from_str(text)?;
    let named = plan.targets.keys().chain(plan.agent.as_ref().map(|busy| &busy.workload));
    for name in named {
        if !WORKLOADS.iter().any(|workload| workload.name == name) {
            let all = WORKLOADS.map(|workload| workload.name).join(", ");
            bail!("there is no workload `{name}`; there are {all}");
        }
    }
    Ok(plan)
}

/// All probes.
pub(super) fn probes() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("probes"))? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.join("kernel.rs").exists(), path.file_name()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_may_leave_out_everything_but_its_targets() {
        let plan = parse(r#"{ "targets": { "udp": 0, "getppid": null } }"#).unwrap();
        assert!(plan.floors.is_empty() && plan.others.is_empty() && plan.agent.is_none());
        assert_eq!(plan.workloads().map(|workload| workload.name).collect::<Vec<_>>(), ["getppid", "udp"]);
        assert_eq!([plan.targets["udp"], plan.targets["getppid"]], [Some(0.0), None]);
    }

    #[test]
    fn a_workload_that_does_not_exist_is_told_with_those_that_do() {
        let error = parse(r#"{ "targets": { "upd": 0 } }"#).unwrap_err().to_string();
        assert!(error.contains("`upd`") && error.contains("getppid, udp"), "{error}");
        assert!(parse(r#"{ "targets": {}, "floor": [] }"#).is_err());
    }
}
