//! Arguments of `sidecar trace`. The event types there are come from the probes.

use std::{path::PathBuf, time::Duration};

use clap::{ValueEnum, builder::PossibleValuesParser};
use sidecar_core::EventSpec;
use sidecar_probes::PROBES;

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TraceFormat {
    /// A line in columns, for people
    #[value(alias = "text")]
    Table,
    /// One JSON object a line, as docs/events.md describes
    Json,
}

/// What to show, how, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct TraceArgs {
    /// Types of events, separated by commas
    #[arg(value_name = "TYPE", required = true, value_delimiter = ',', value_parser = PossibleValuesParser::new(types()))]
    pub(crate) types: Vec<String>,
    /// How to show them
    #[arg(long, value_enum, default_value_t = TraceFormat::Table)]
    pub(crate) format: TraceFormat,
    /// Stop after this time, as 500ms, 10s or 5m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Stop after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// No colours even on a terminal; a variable `NO_COLOR` does the same
    #[arg(long)]
    pub(crate) no_color: bool,
}

impl TraceArgs {
    /// Whether events of this type are shown.
    pub(crate) fn wants(&self, spec: &EventSpec) -> bool {
        self.types.iter().any(|name| name == spec.kind)
    }
}

/// Every event type of every probe.
fn types() -> Vec<&'static str> {
    PROBES.iter().flat_map(|probe| probe.events).map(|spec| spec.kind).collect()
}

/// A length of time with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 500ms, 10s or 5m"))?;
    if duration.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(duration) }
}
