//! The figures as they are kept in `bench/results`, and how they come out of what the machines said.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    guest::Said,
    plan::{Busy, Plan},
};
use crate::shell::root;

/// The variants in a machine's script without anything running, before and after the others.
pub(super) const BEFORE: &str = "work before";
pub(super) const AFTER: &str = "work after";

/// Where and with what the figures were taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) date: String,
    /// Of the agent.
    pub(super) revision: String,
    pub(super) kernel: String,
    pub(super) qemu: String,
    pub(super) tools: String,
    pub(super) processor: String,
    pub(super) runs: u32,
}

/// What a probe costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ProbeResults {
    pub(super) probe: String,
    pub(super) facts: Facts,
    pub(super) workloads: Vec<Measured>,
    pub(super) agent: Option<AgentCost>,
}

/// One workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) title: String,
    /// Instructions it takes when nothing watches.
    pub(super) work: f64,
    pub(super) target: Option<f64>,
    pub(super) added: Vec<Added>,
}

/// What something adds to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Added {
    pub(super) by: String,
    /// Mean over the machines.
    pub(super) instructions: f64,
    /// Half of the way between the lowest and the highest.
    pub(super) spread: f64,
}

/// What the agent's own process uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct AgentCost {
    pub(super) workload: String,
    pub(super) operations: u32,
    pub(super) instructions_per_operation: f64,
    pub(super) target: f64,
    /// When nothing happens, with its readings and scrapes.
    pub(super) idle_instructions_per_second: f64,
}

/// One figure of the agent as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Figure {
    pub(super) title: String,
    pub(super) value: f64,
    pub(super) unit: String,
    pub(super) target: Option<f64>,
}

/// The agent as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct AgentResults {
    pub(super) facts: Facts,
    pub(super) figures: Vec<Figure>,
}

/// What the machines' times say: each variant against the work itself in the same machine.
pub(super) fn measured(plan: &Plan, variants: &[String], machines: &[Said]) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for workload in plan.workloads() {
        let mut work = Vec::new();
        let mut differences = vec![Vec::new(); variants.len()];
        for said in machines {
            let time = |variant: &str| {
                let key = (variant.to_owned(), workload.name.to_owned());
                said.blocks.get(&key).and_then(|blocks| typical(blocks))
            };
            let alone = [BEFORE, AFTER].map(time);
            let [Some(before), Some(after)] = alone else {
                anyhow::bail!("a machine did not measure {}", workload.name);
            };
            let alone = f64::midpoint(before, after);
            work.push(alone);
            for (variant, differences) in variants.iter().zip(&mut differences) {
                differences.extend(time(variant).map(|time| time - alone));
            }
        }
        let added = variants.iter().zip(&differences).filter_map(|(by, differences)| {
            let (instructions, spread) = mean_and_spread(differences)?;
            Some(Added { by: by.clone(), instructions, spread })
        });
        all.push(Measured {
            name: workload.name.to_owned(),
            title: workload.title.to_owned(),
            work: mean_and_spread(&work).context("no machine ran")?.0,
            target: plan.targets.get(workload.name).copied().flatten(),
            added: added.collect(),
        });
    }
    Ok(all)
}

/// What the agent's process used: while idle, and for each operation beyond that.
pub(super) fn agent_cost(busy: &Busy, machines: &[Said]) -> Result<AgentCost> {
    let (mut idle, mut each) = (Vec::new(), Vec::new());
    for said in machines {
        let [begin, quiet, end] = [said.usage("begin")?, said.usage("quiet")?, said.usage("end")?];
        let rate = (quiet.run - begin.run) / (quiet.at - begin.at);
        idle.push(rate * 1e9);
        each.push((end.run - quiet.run - rate * (end.at - quiet.at)) / f64::from(busy.operations));
    }
    let mean = |values: &[f64]| mean_and_spread(values).map(|(mean, _)| mean).context("no machine ran");
    Ok(AgentCost {
        workload: busy.workload.clone(),
        operations: busy.operations,
        instructions_per_operation: mean(&each)?,
        target: busy.target,
        idle_instructions_per_second: mean(&idle)?,
    })
}

/// The mean without the highest and the lowest: one block in which something rare happened must not count for all.
fn typical(blocks: &[f64]) -> Option<f64> {
    let mut sorted = blocks.to_vec();
    sorted.sort_by(f64::total_cmp);
    let inner = if sorted.len() > 2 { &sorted[1..sorted.len() - 1] } else { &sorted };
    (!inner.is_empty()).then(|| inner.iter().sum::<f64>() / inner.len() as f64)
}

fn mean_and_spread(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().min_by(f64::total_cmp)?;
    let high = values.iter().copied().max_by(f64::total_cmp)?;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    Some((round(mean), round((high - low) / 2.0)))
}

/// A tenth of an instruction is more than anybody can know.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn directory() -> PathBuf {
    root().join("bench/results")
}

/// The file of the agent as a whole.
pub(super) const AGENT: &str = "agent";

/// Keeps results under a name.
pub(super) fn save(name: &str, results: &impl Serialize) -> Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(results)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("  wrote bench/results/{name}.json");
    Ok(())
}

/// All results there are: those of the probes in order, and the agent's.
pub(super) fn load() -> Result<(Vec<ProbeResults>, Option<AgentResults>)> {
    let (mut probes, mut agent) = (Vec::new(), None);
    let Ok(entries) = fs::read_dir(directory()) else { return Ok((probes, agent)) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let context = || format!("{} is not what `cargo xtask bench --save` writes", path.display());
        if path.file_stem().is_some_and(|stem| stem == AGENT) {
            agent = Some(serde_json::from_str(&text).with_context(context)?);
        } else {
            probes.push(serde_json::from_str(&text).with_context(context)?);
        }
    }
    Ok((probes, agent))
}

#[cfg(test)]
mod tests {
    use super::{super::plan::WORKLOADS, *};

    fn said(times: &[(&str, f64)]) -> Said {
        let mut said = Said::default();
        for workload in &WORKLOADS {
            for (variant, time) in times {
                said.blocks.insert(((*variant).to_owned(), workload.name.to_owned()), vec![*time]);
            }
        }
        said
    }

    #[test]
    fn what_is_added_is_against_the_work_in_the_same_machine() {
        let plan: Plan = serde_json::from_str(r#"{ "targets": { "getppid": null, "udp": 20 } }"#).unwrap();
        let machines = [
            said(&[(BEFORE, 100.0), ("a", 160.0), (AFTER, 110.0)]),
            said(&[(BEFORE, 200.0), ("a", 265.0), (AFTER, 210.0)]),
        ];
        let measured = measured(&plan, &["a".to_owned(), "b".to_owned()], &machines).unwrap();
        assert_eq!(measured[0].added, [Added { by: "a".to_owned(), instructions: 57.5, spread: 2.5 }]);
        let first = (Some(measured[0].work), measured[0].target, measured[1].target);
        assert_eq!(first, (Some(155.0), None, Some(20.0)));
    }

    #[test]
    fn what_an_idle_agent_uses_is_not_the_operations_fault() {
        let busy = Busy { workload: "udp".to_owned(), operations: 1000, target: 5.0 };
        let mut said = Said::default();
        for (label, at, run) in [("begin", 0.0, 50.0), ("quiet", 1e9, 1050.0), ("end", 2e9, 9050.0)] {
            let usage = super::super::guest::Usage { at, run, resident: 0.0, maps: 0.0 };
            said.usages.insert(label.to_owned(), usage);
        }
        let cost = agent_cost(&busy, &[said]).unwrap();
        assert_eq!(
            cost,
            AgentCost {
                workload: "udp".to_owned(),
                operations: 1000,
                instructions_per_operation: 7.0,
                target: 5.0,
                idle_instructions_per_second: 1000.0,
            }
        );
    }

    #[test]
    fn one_unusual_block_does_not_count() {
        assert_eq!(typical(&[4.0, 1.0, 900.0, 2.0]), Some(3.0));
        assert_eq!(typical(&[4.0, 2.0]), Some(3.0));
        assert_eq!(typical(&[]), None);
    }
}
