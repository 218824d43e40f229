//! The agent's configuration: defaults < YAML file < environment < flags, every value checked and traced to its place.
//!
//! [`load`] builds it at start and again on SIGHUP; [`changes`] says what of a new one a running agent can take over.

mod cgroup;
mod changes;
mod error;
mod keys;
mod layers;
mod listen;
mod print;
mod reference;
pub(crate) mod target;
#[cfg(test)]
mod tests;
mod tree;
mod value;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use sidecar_core::{OptionValue, Options, Probe};

pub(crate) use self::{
    changes::changes,
    error::{ConfigErrors, Source},
    keys::{KEYS, Key},
    print::{defaults, json, verdict, yaml},
    reference::markdown,
};
use self::{
    error::Problem,
    keys::{ENABLED, Entry},
    layers::{Layers, Setting},
};

/// Files read when none is named, the first that exists.
pub(crate) const DEFAULT_FILES: [&str; 2] = ["./config.yaml", "/etc/sidecar/config.yaml"];

/// The configuration in effect.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// What to look at.
    pub(crate) target: Target,
    /// How much and how often to measure.
    pub(crate) metrics: Metrics,
    /// Where to serve; port 0 means any free one.
    pub(crate) listen: SocketAddr,
    /// How to log.
    pub(crate) log: Log,
    /// Every probe's own settings, by name.
    pub(crate) probes: BTreeMap<&'static str, ProbeSettings>,
    /// The file that was read, if any.
    pub(crate) file: Option<PathBuf>,
    /// Every key with its value and its source, in the order shown to users.
    values: Vec<(Entry, Setting)>,
}

/// `target`: which processes, ports and cgroups to look at. Kinds are joined by AND, entries of a kind by OR; an empty
/// kind passes everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    /// Process ids.
    pub(crate) pids: Vec<u32>,
    /// With the descendants of `pids`.
    pub(crate) children: bool,
    /// Ports of the side that listens.
    pub(crate) ports: Vec<u16>,
    /// cgroups as the user named them.
    pub(crate) cgroups: Vec<String>,
    /// Process names as the user wrote them.
    pub(crate) comms: Vec<String>,
}

impl Target {
    /// Whether anything is left out.
    pub(crate) fn is_filtered(&self) -> bool {
        *self != Self { children: self.children, ..Self::default() }
    }
}

/// `metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metrics {
    /// Time between two readings of the kernel.
    pub(crate) interval: Duration,
    /// Connections tracked at once.
    pub(crate) max_connections: u32,
    /// Label sets kept per probe.
    pub(crate) max_series: usize,
    /// When the kernel measures run times: `start`, `always` or `never`.
    pub(crate) program_stats: String,
    /// Labels of the connection metrics.
    pub(crate) labels: Vec<String>,
}

/// `log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    /// How lines are written.
    pub(crate) format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub(crate) level: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Whether the user himself has switched the probe off.
    pub(crate) fn refuses(&self, probe: &str) -> bool {
        let is_off = self.probes.get(probe).is_some_and(|settings| !settings.enabled);
        is_off && self.is_set(&format!("probes.{probe}.{ENABLED}"))
    }

    /// Whether the user has given this key a value.
    pub(crate) fn is_set(&self, path: &str) -> bool {
        let is_set =
            |(entry, setting): &(Entry, Setting)| entry.path == path && setting.source != Source::Default;
        self.values.iter().any(is_set)
    }
}

/// `probes.<name>`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProbeSettings {
    /// Whether it runs.
    pub(crate) enabled: bool,
    /// Its own keys.
    pub(crate) options: Options,
}

/// Reads and checks everything. Called again on SIGHUP with the same flags and environment: only the file can differ.
pub(crate) fn load(
    args: &crate::cli::CommonArgs,
    environment: impl Iterator<Item = (OsString, OsString)>,
    probes: &[&'static Probe],
) -> Result<Config, ConfigErrors> {
    let entries = keys::schema(probes);
    let mut layers = Layers::new(&entries);
    let file = args.config.clone().or_else(|| find(&DEFAULT_FILES));
    if let Some(file) = &file {
        layers.file(file);
    }
    let in_file = !layers.problems.is_empty();
    layers.environment(environment);
    layers.flags(args);
    let Layers { settings, mut problems, .. } = layers;
    let values: Vec<(Entry, Setting)> = entries.into_iter().zip(settings).collect();
    match contradictions(&values, &mut problems) {
        Some(listen) if problems.is_empty() => Ok(Config::assemble(values, listen, file)),
        _ => {
            problems.sort_by_key(|problem| problem.source.rank());
            let found = file.filter(|_| in_file && args.config.is_none());
            let note = found.map(|file| {
                format!("{} was found by its name; name another file with --config FILE", file.display())
            });
            Err(ConfigErrors { problems, note })
        }
    }
}

/// The first of these files that is there. One that cannot be looked at counts: leaving it out would surprise.
fn find(files: &[&str]) -> Option<PathBuf> {
    files.iter().map(Path::new).find(|path| !is_missing(path)).map(PathBuf::from)
}

fn is_missing(path: &Path) -> bool {
    let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    path.metadata().is_err_and(|error| absent.contains(&error.kind()))
}

/// Checks no single key can do. Returns the address to listen on if it is one.
fn contradictions(values: &[(Entry, Setting)], problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let get = |path: &str| values.iter().find(|(entry, _)| entry.path == path).map(|(_, setting)| setting);
    let pids_refused = problems.iter().any(|problem| problem.text.starts_with("target.pids:"));
    let mut refuse = |setting: &Setting, text: String| {
        problems.push(Problem { source: setting.source.clone(), text });
    };
    if let (Some(children), Some(pids)) = (get("target.children"), get("target.pids"))
        && children.value == OptionValue::Bool(true)
        && pids.value == OptionValue::Integers(Vec::new())
        && !pids_refused
    {
        refuse(
            children,
            "target.children: needs target.pids, the processes whose descendants count".to_owned(),
        );
    }
    if let Some(setting @ Setting { value: OptionValue::Texts(comms), .. }) = get("target.comms") {
        for comm in comms.iter().filter(|comm| comm.contains('\0')) {
            refuse(setting, format!("target.comms: {} holds a zero byte", error::quote(comm)));
        }
    }
    let listen = get("listen")?;
    let OptionValue::Text(text) = &listen.value else { return None };
    listen::parse(text).map_err(|text| refuse(listen, format!("listen: {text}"))).ok()
}

impl Config {
    /// Every key with its full name, value and source, in the order shown to users.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, &OptionValue, &Source)> {
        self.values.iter().map(|(entry, setting)| (entry.path.as_str(), &setting.value, &setting.source))
    }

    /// Where the value of a key came from.
    pub(crate) fn source(&self, path: &str) -> &Source {
        self.values().find(|(name, ..)| *name == path).map_or(&Source::Default, |(.., source)| source)
    }

    fn assemble(values: Vec<(Entry, Setting)>, listen: SocketAddr, file: Option<PathBuf>) -> Self {
        let mut own = Options::default();
        let mut probes: BTreeMap<&'static str, ProbeSettings> = BTreeMap::new();
        for (entry, setting) in &values {
            let value = setting.value.clone();
            let Some(probe) = entry.probe else {
                own.0.insert(entry.name, value);
                continue;
            };
            let blank = ProbeSettings { enabled: false, options: Options::default() };
            let settings = probes.entry(probe).or_insert(blank);
            if entry.name == ENABLED {
                settings.enabled = value == OptionValue::Bool(true);
            } else {
                settings.options.0.insert(entry.name, value);
            }
        }
        let json = own.text("log.format") == "json";
        Self {
            target: Target {
                pids: own.integers("target.pids").iter().map(|pid| *pid as u32).collect(),
                children: own.bool("target.children"),
                ports: own.integers("target.ports").iter().map(|port| *port as u16).collect(),
                cgroups: own.texts("target.cgroup").to_vec(),
                comms: own.texts("target.comms").to_vec(),
            },
            metrics: Metrics {
                interval: Duration::from_secs(own.integer("metrics.interval_secs")),
                max_connections: own.integer("metrics.max_connections") as u32,
                max_series: own.integer("metrics.max_series") as usize,
                program_stats: own.text("metrics.program_stats").to_owned(),
                labels: own.texts("metrics.labels").to_vec(),
            },
            listen,
            log: Log {
                format: if json { LogFormat::Json } else { LogFormat::Text },
                level: own.text("log.level").to_owned(),
            },
            probes,
            file,
            values,
        }
    }
}
