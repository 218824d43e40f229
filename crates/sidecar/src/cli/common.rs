//! The flags that set configuration keys. They are made from the list of keys, so a key has its flag, default and help
//! in one place; their values stay text here and are checked with the file and the environment.

use std::{path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::PossibleValuesParser};
use sidecar_core::OptionKind;

use crate::config::{KEYS, Key};

const CONFIG: &str = "config";
const PROBE: &str = "probe";
const NO_PROBE: &str = "no-probe";
const AGENT: &str = "Agent";

/// Time between two views of a live command unless told otherwise.
const LIVE_INTERVAL: Duration = Duration::from_secs(1);
/// The flag every command has; live ones take units as well.
const INTERVAL_KEY: &str = "metrics.interval_secs";

/// What the command line says about the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CommonArgs {
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
    /// The keys set by flags.
    pub(crate) flags: Vec<FlagValue>,
    /// `--probe NAME` (true) and `--no-probe NAME` (false).
    pub(crate) probes: Vec<(String, bool)>,
}

/// A key set by a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlagValue {
    /// Full key.
    pub(crate) key: &'static str,
    /// The flag with its dashes.
    pub(crate) name: String,
    /// Its values, unchecked; more than one when a list flag is repeated.
    pub(crate) texts: Vec<String>,
}

impl CommonArgs {
    /// For live commands: the interval, and the arguments without it.
    pub(crate) fn live_interval(&self) -> Result<(Self, Duration), String> {
        let mut rest = self.clone();
        let Some(at) = rest.flags.iter().position(|flag| flag.key == INTERVAL_KEY) else {
            return Ok((rest, LIVE_INTERVAL));
        };
        let flag = rest.flags.remove(at);
        let text = flag.texts.last().map_or("", String::as_str);
        let seconds = text.parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let parsed = seconds.map_or_else(|| humantime::parse_duration(text).ok(), Some);
        match parsed.filter(|interval| *interval >= Duration::from_millis(100)) {
            Some(interval) => Ok((rest, interval)),
            None => Err(format!("{} {text}: expected at least 100ms, as in 500ms, 1s or 5m", flag.name)),
        }
    }
}

impl Args for CommonArgs {
    fn augment_args(command: Command) -> Command {
        let command = command
            .args(KEYS.iter().filter(|key| key.heading != AGENT).map(argument))
            .arg(
                Arg::new(CONFIG)
                    .long(CONFIG)
                    .value_name("FILE")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("Configuration file [default: ./config.yaml, then /etc/sidecar/config.yaml]")
                    .help_heading(AGENT)
                    .global(true),
            )
            .args(KEYS.iter().filter(|key| key.heading == AGENT).map(argument));
        let switch = |name: &'static str, help: &'static str| {
            let many = Arg::new(name).long(name).action(ArgAction::Append).value_delimiter(',');
            many.value_name("NAME").help(help).help_heading(AGENT).global(true)
        };
        command
            .arg(switch(PROBE, "Switch a probe on (`sidecar probes` lists them)"))
            .arg(switch(NO_PROBE, "Switch a probe off"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The flag of a key.
fn argument(key: &'static Key) -> Arg {
    let arg = Arg::new(key.spec.name)
        .long(key.flag)
        .aliases(key.aliases)
        .value_name(key.placeholder)
        .help_heading(key.heading)
        .global(true);
    let shown = match key.spec.default.trim_matches(['[', ']']) {
        "" | "false" => key.spec.help.to_owned(),
        default => format!("{} [default: {}]", key.spec.help, default.replace(", ", ",")),
    };
    let arg = arg.help(shown);
    match key.spec.kind {
        OptionKind::Bool => {
            let arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
            arg.value_parser(PossibleValuesParser::new(["true", "false"])).hide_possible_values(true)
        }
        OptionKind::Integers { .. } | OptionKind::Texts | OptionKind::Choices(_) => {
            arg.action(ArgAction::Append)
        }
        OptionKind::Choice(words) => arg.value_parser(PossibleValuesParser::new(words)),
        OptionKind::Integer { .. } | OptionKind::Text => arg,
    }
}

impl FromArgMatches for CommonArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flag = |key: &'static Key| {
            let texts: Vec<String> = matches.get_many::<String>(key.spec.name)?.cloned().collect();
            Some(FlagValue { key: key.spec.name, name: format!("--{}", key.flag), texts })
        };
        let mut probes = Vec::new();
        for (name, on) in [(PROBE, true), (NO_PROBE, false)] {
            probes.extend(
                matches.get_many::<String>(name).into_iter().flatten().map(|name| (name.clone(), on)),
            );
        }
        Ok(Self {
            config: matches.get_one::<PathBuf>(CONFIG).cloned(),
            flags: KEYS.iter().filter_map(flag).collect(),
            probes,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
