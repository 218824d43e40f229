//! Arguments of `sidecar count`. What can be counted comes from the probes.

use std::time::Duration;

use clap::{ValueEnum, builder::PossibleValuesParser};
use sidecar_core::{CountSpec, Probe};
use sidecar_probes::PROBES;

use super::trace::duration;

/// How counts are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CountFormat {
    /// A table, for people
    #[value(alias = "text")]
    Table,
    /// One JSON object for each interval, and one for the summary
    Json,
}

/// What to count, how to show it, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct CountArgs {
    /// What to count
    #[arg(value_name = "WHAT", value_parser = PossibleValuesParser::new(nouns()))]
    pub(crate) noun: String,
    /// Group by this label: for most things comm, pid or cgroup, or one of
    /// their own (syscalls: syscall; packets: interface, protocol)
    #[arg(long, value_name = "LABEL")]
    pub(crate) by: Option<String>,
    /// Show only so many groups, the largest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) top: Option<u64>,
    /// How to show them
    #[arg(long, value_enum, default_value_t = CountFormat::Table)]
    pub(crate) format: CountFormat,
    /// Stop after this time, as 500ms, 10s or 5m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
}

impl CountArgs {
    /// The probe that counts it, and how.
    pub(crate) fn spec(&self) -> Option<(&'static Probe, &'static CountSpec)> {
        specs().find(|(_, spec)| spec.noun == self.noun)
    }

    /// The label to group by, or what is wrong with the one asked for.
    pub(crate) fn group(&self, spec: &'static CountSpec) -> Result<&'static str, String> {
        let Some(by) = &self.by else { return Ok(spec.by) };
        let groups = spec.groups();
        groups.iter().find(|label| *label == by).copied().ok_or_else(|| {
            format!("--by {by}: {} have no such label; they have {}", spec.noun, groups.join(", "))
        })
    }
}

fn specs() -> impl Iterator<Item = (&'static Probe, &'static CountSpec)> {
    PROBES.iter().flat_map(|probe| probe.counts.iter().map(move |spec| (*probe, spec)))
}

/// Everything that can be counted.
fn nouns() -> Vec<&'static str> {
    specs().map(|(_, spec)| spec.noun).collect()
}
