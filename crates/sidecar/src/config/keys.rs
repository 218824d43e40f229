//! The agent's own configuration keys, declared once. File, environment and flag parsing, `--help`, `config print` and
//! the reference page are all driven by this list, so none of them can drift from another.

use sidecar_common::scope::{MAX_CGROUPS, MAX_COMMS, MAX_LISTED};
use sidecar_core::{OptionKind, OptionSpec, Probe};

/// Whether a changed value takes effect on SIGHUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Apply {
    /// At once, with nothing detached.
    Live,
    /// Only after a restart.
    Restart,
}

/// One of the agent's own keys.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its full dotted name, type, default and help.
    pub(crate) spec: OptionSpec,
    /// The flag's long name, without the dashes.
    pub(crate) flag: &'static str,
    /// Other spellings of the flag.
    pub(crate) aliases: &'static [&'static str],
    /// What stands for the value in `--help`.
    pub(crate) placeholder: &'static str,
    /// Heading in `--help`.
    pub(crate) heading: &'static str,
    /// Most entries of a list; 1 for single values.
    pub(crate) max_items: usize,
    /// Whether it changes live.
    pub(crate) apply: Apply,
}

/// Labels a connection's rows may carry. A source port is none of them: it would make a series of every connection.
pub(crate) const LABELS: &[&str] = &["src_ip", "dst_ip", "dst_port", "role", "comm", "pid", "cgroup"];

/// Largest process id Linux can be configured to hand out (`PID_MAX_LIMIT`).
const MAX_PID: u64 = 4_194_304;
const FILTER: &str = "Filter (kinds are joined by AND, values of one kind by OR)";
const METRICS: &str = "Metrics";
const AGENT: &str = "Agent";

/// Every key, in the order shown to users.
pub(crate) static KEYS: &[Key] = &[
    Key {
        spec: OptionSpec {
            name: "target.pids",
            kind: OptionKind::Integers { min: 1, max: MAX_PID },
            default: "[]",
            help: "Only these processes, with all of their threads",
        },
        flag: "pid",
        aliases: &["pids"],
        placeholder: "PID",
        heading: FILTER,
        max_items: MAX_LISTED as usize,
        apply: Apply::Live,
    },
    Key {
        spec: OptionSpec {
            name: "target.children",
            kind: OptionKind::Bool,
            default: "false",
            help: "With the processes, their descendants too",
        },
        flag: "children",
        aliases: &[],
        placeholder: "BOOL",
        heading: FILTER,
        max_items: 1,
        apply: Apply::Live,
    },
    Key {
        spec: OptionSpec {
            name: "target.ports",
            kind: OptionKind::Integers { min: 1, max: 65_535 },
            default: "[]",
            help: "Only connections to one of these ports, that is, of the side that listens",
        },
        flag: "ports",
        aliases: &["port"],
        placeholder: "PORT",
        heading: FILTER,
        max_items: MAX_LISTED as usize,
        apply: Apply::Live,
    },
    Key {
        spec: OptionSpec {
            name: "target.cgroup",
            kind: OptionKind::Texts,
            default: "[]",
            help: "Only these cgroups and those below them, named as in /proc/PID/cgroup or by path",
        },
        flag: "cgroup",
        aliases: &["cgroups"],
        placeholder: "CGROUP",
        heading: FILTER,
        max_items: MAX_CGROUPS,
        apply: Apply::Live,
    },
    Key {
        spec: OptionSpec {
            name: "target.comms",
            kind: OptionKind::Texts,
            default: "[]",
            help: "Only processes with these names (the kernel keeps 15 bytes of a name)",
        },
        flag: "comm",
        aliases: &["comms"],
        placeholder: "NAME",
        heading: FILTER,
        max_items: MAX_COMMS,
        apply: Apply::Live,
    },
    Key {
        spec: OptionSpec {
            name: "metrics.interval_secs",
            kind: OptionKind::Integer { min: 1, max: 3_600 },
            default: "15",
            help: "Seconds between two readings of the kernel",
        },
        flag: "interval",
        aliases: &[],
        placeholder: "SECS",
        heading: METRICS,
        max_items: 1,
        apply: Apply::Live,
    },
    Key {
        spec: OptionSpec {
            name: "metrics.max_connections",
            kind: OptionKind::Integer { min: 1, max: 4_194_304 },
            default: "65536",
            help: "Live connections tracked at once; sizes the kernel maps",
        },
        flag: "max-connections",
        aliases: &[],
        placeholder: "N",
        heading: METRICS,
        max_items: 1,
        apply: Apply::Restart,
    },
    Key {
        spec: OptionSpec {
            name: "metrics.max_series",
            kind: OptionKind::Integer { min: 1, max: 1_000_000 },
            default: "2000",
            help: "Label sets kept per probe, some 40 time series each; the rest is one row with every label `other`",
        },
        flag: "max-series",
        aliases: &[],
        placeholder: "N",
        heading: METRICS,
        max_items: 1,
        apply: Apply::Restart,
    },
    Key {
        spec: OptionSpec {
            name: "metrics.program_stats",
            kind: OptionKind::Choice(&["start", "always", "never"]),
            default: "start",
            help: "When the kernel times BPF programs (all of the machine): the first minute, always, never",
        },
        flag: "program-stats",
        aliases: &[],
        placeholder: "WHEN",
        heading: METRICS,
        max_items: 1,
        apply: Apply::Restart,
    },
    Key {
        spec: OptionSpec {
            name: "metrics.labels",
            kind: OptionKind::Choices(LABELS),
            default: "[src_ip, dst_ip, dst_port, role, comm]",
            help: "Labels of the connection metrics",
        },
        flag: "labels",
        aliases: &["label"],
        placeholder: "LABEL",
        heading: METRICS,
        max_items: LABELS.len(),
        apply: Apply::Restart,
    },
    Key {
        spec: OptionSpec {
            name: "listen",
            kind: OptionKind::Text,
            default: "127.0.0.1:9090",
            help: "Address and port to serve on, as 0.0.0.0:9090 or [::1]:9090",
        },
        flag: "listen",
        aliases: &[],
        placeholder: "ADDR",
        heading: AGENT,
        max_items: 1,
        apply: Apply::Restart,
    },
    Key {
        spec: OptionSpec {
            name: "log.format",
            kind: OptionKind::Choice(&["text", "json"]),
            default: "text",
            help: "How log lines are written",
        },
        flag: "log-format",
        aliases: &[],
        placeholder: "FORMAT",
        heading: AGENT,
        max_items: 1,
        apply: Apply::Restart,
    },
    Key {
        spec: OptionSpec {
            name: "log.level",
            kind: OptionKind::Choice(&["error", "warn", "info", "debug", "trace"]),
            default: "info",
            help: "Least important level that is logged",
        },
        flag: "log-level",
        aliases: &[],
        placeholder: "LEVEL",
        heading: AGENT,
        max_items: 1,
        apply: Apply::Live,
    },
];

/// Most entries of a list a probe declares: nothing in the schema says otherwise, and a bound there must be.
const PROBE_MAX_ITEMS: usize = 1024;

/// One key with its full name: the agent's own or a probe's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// `metrics.interval_secs`, `probes.connection.enabled`.
    pub(crate) path: String,
    /// What it accepts.
    pub(crate) kind: OptionKind,
    /// Default in YAML notation.
    pub(crate) default: &'static str,
    /// One sentence.
    pub(crate) help: String,
    /// The declaration's own name: full for the agent's keys, the last part for a probe's.
    pub(crate) name: &'static str,
    /// The probe it belongs to.
    pub(crate) probe: Option<&'static str>,
    /// The flag that sets it, with dashes, if one does.
    pub(crate) flag: Option<String>,
    /// Most entries of a list.
    pub(crate) max_items: usize,
    /// Whether it changes live.
    pub(crate) apply: Apply,
}

impl Entry {
    /// The environment variable that sets it.
    pub(crate) fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.path.replace('.', "__").to_uppercase())
    }

    fn own(key: &Key) -> Self {
        Self {
            path: key.spec.name.to_owned(),
            kind: key.spec.kind,
            default: key.spec.default,
            help: key.spec.help.to_owned(),
            name: key.spec.name,
            probe: None,
            flag: Some(format!("--{}", key.flag)),
            max_items: key.max_items,
            apply: key.apply,
        }
    }

    fn of_probe(probe: &Probe) -> Vec<Self> {
        let entry = |spec: &OptionSpec, help: String, flag: Option<String>| Self {
            path: format!("probes.{}.{}", probe.name, spec.name),
            kind: spec.kind,
            default: spec.default,
            help,
            name: spec.name,
            probe: Some(probe.name),
            flag,
            max_items: if super::value::is_list(spec.kind) { PROBE_MAX_ITEMS } else { 1 },
            apply: Apply::Restart,
        };
        let enabled = OptionSpec {
            name: ENABLED,
            kind: OptionKind::Bool,
            default: if probe.enabled { "true" } else { "false" },
            help: "",
        };
        let flag = format!("--{}probe {}", if probe.enabled { "no-" } else { "" }, probe.name);
        let mut entries = vec![entry(&enabled, format!("Run this probe: {}", probe.summary), Some(flag))];
        entries.extend(probe.options.iter().map(|spec| entry(spec, spec.help.to_owned(), None)));
        entries
    }
}

/// What every variable of ours starts with.
pub(crate) const VARIABLE_PREFIX: &str = "SIDECAR_";
/// The key every probe has.
pub(crate) const ENABLED: &str = "enabled";

/// Every key there is, the agent's own first, then each probe's.
pub(crate) fn schema(probes: &[&'static Probe]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = KEYS.iter().map(Entry::own).collect();
    entries.extend(probes.iter().flat_map(|probe| Entry::of_probe(probe)));
    entries
}
