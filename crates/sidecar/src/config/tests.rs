//! The configuration as users write it: every layer, printing, reloading.

mod mistakes;
mod scope;

use std::{
    ffi::OsString,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use sidecar_core::{
    Collector, OptionKind, OptionSpec, View,
    probe::{KernelFacts, Plan, Start},
};

use super::*;
use crate::cli::{CommonArgs, Invocation, parse_from};

const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "buckets",
        kind: OptionKind::Choice(&["classic", "native"]),
        default: "classic",
        help: "Histogram form",
    },
    OptionSpec { name: "depth", kind: OptionKind::Integer { min: 2, max: 8 }, default: "4", help: "Depth" },
    OptionSpec { name: "paths", kind: OptionKind::Texts, default: "[]", help: "Paths" },
    OptionSpec { name: "note", kind: OptionKind::Text, default: "\"\"", help: "Note" },
];

const fn probe(name: &'static str, enabled: bool, options: &'static [OptionSpec]) -> Probe {
    fn plan(_: &Start, _: &dyn KernelFacts) -> Plan {
        Plan::default()
    }
    fn start(_: &Start) -> Box<dyn Collector> {
        unreachable!("a configuration starts no probe")
    }
    Probe {
        name,
        summary: "What is it",
        enabled,
        metrics: &[],
        counts: &[],
        view: View::NONE,
        events: &[],
        options,
        hooks: &[],
        fields: &[],
        capabilities: &[],
        cost: "",
        rings: &[],
        plan,
        start,
    }
}

static CONNECTION: Probe = probe("connection", true, OPTIONS);
static LATENCY: Probe = probe("latency", false, &[]);
static PROBES: &[&Probe] = &[&CONNECTION, &LATENCY];

/// A file of its own for each test; removed at its end.
struct File(PathBuf);

impl File {
    fn new(bytes: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sidecar-config-{}-{number}.yaml", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn args(flags: &[&str]) -> CommonArgs {
    let words = std::iter::once("sidecar").chain(flags.iter().copied()).map(OsString::from);
    match parse_from(words).unwrap() {
        Invocation::Run(args) => args,
        other => panic!("{other:?}"),
    }
}

fn variables(pairs: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> + use<> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>().into_iter()
}

/// All layers; in the messages the file is called `F`.
fn all(yaml: &[u8], environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, String> {
    let file = File::new(yaml);
    let args = CommonArgs { config: Some(file.0.clone()), ..args(flags) };
    load(&args, variables(environment), PROBES)
        .map_err(|errors| errors.to_string().replace(file.0.to_str().unwrap(), "F"))
}

fn yaml(text: &str) -> Result<Config, String> {
    all(text.as_bytes(), &[], &[])
}

#[test]
fn without_anything_the_documented_defaults_hold() {
    let config = yaml("").unwrap();
    assert_eq!(config.target, Target::default());
    assert!(!config.target.is_filtered());
    assert_eq!(config.metrics.interval, Duration::from_secs(15));
    assert_eq!(config.metrics.max_connections, 65_536);
    assert_eq!(config.metrics.max_series, 2_000);
    assert_eq!(config.metrics.labels, ["src_ip", "dst_ip", "dst_port", "role", "comm"]);
    assert_eq!(config.listen, "127.0.0.1:9090".parse().unwrap());
    assert_eq!(config.log, Log { format: LogFormat::Text, level: "info".to_owned() });
    assert!(config.probes["connection"].enabled);
    assert!(!config.probes["latency"].enabled);
    let options = &config.probes["connection"].options;
    assert_eq!((options.text("buckets"), options.integer("depth")), ("classic", 4));
    assert!(options.texts("paths").is_empty());
    assert!(config.values().all(|(.., source)| *source == Source::Default));
}

#[test]
fn every_key_is_read_from_a_file() {
    let config = yaml(
        "target:\n  pids: [1, 4194304]\n  children: true\n  ports:\n    - 80\n    - 443\n  cgroup: /docker/abc\n  \
         comms: nginx\nmetrics: {interval_secs: 5, max_connections: 100, max_series: 7, labels: [role, pid]}\n\
         listen: '[::1]:0'\nlog:\n  format: json\n  level: debug\nprobes:\n  connection:\n    enabled: false\n    \
         buckets: native\n    depth: 8\n    paths: ['/a b', \"c\"]\n    note: x\n  latency:\n    enabled: true\n",
    )
    .unwrap();
    assert_eq!(
        config.target,
        Target {
            pids: vec![1, 4_194_304],
            children: true,
            ports: vec![80, 443],
            cgroups: vec!["/docker/abc".to_owned()],
            comms: vec!["nginx".to_owned()],
        }
    );
    assert!(config.target.is_filtered());
    assert_eq!(config.metrics.interval, Duration::from_secs(5));
    assert_eq!((config.metrics.max_connections, config.metrics.max_series), (100, 7));
    assert_eq!(config.metrics.labels, ["role", "pid"]);
    assert_eq!(config.listen, "[::1]:0".parse().unwrap());
    assert_eq!(config.log, Log { format: LogFormat::Json, level: "debug".to_owned() });
    let connection = &config.probes["connection"];
    assert!(!connection.enabled && config.probes["latency"].enabled);
    assert_eq!(connection.options.text("buckets"), "native");
    assert_eq!(connection.options.texts("paths"), ["/a b", "c"]);
    assert_eq!((connection.options.integer("depth"), connection.options.text("note")), (8, "x"));
}

#[test]
fn flags_beat_variables_beat_the_file() {
    let file = b"metrics:\n  interval_secs: 1\n  max_series: 2\n  max_connections: 3\n";
    let environment = [("SIDECAR_METRICS__INTERVAL_SECS", "4"), ("SIDECAR_METRICS__MAX_SERIES", "5")];
    let config = all(file, &environment, &["--interval", "6s"]).unwrap();
    assert_eq!(config.metrics.interval, Duration::from_secs(6));
    assert_eq!((config.metrics.max_series, config.metrics.max_connections), (5, 3));
    let source = |key: &str| config.source(key).to_string();
    assert_eq!(source("metrics.interval_secs"), "--interval");
    assert_eq!(source("metrics.max_series"), "SIDECAR_METRICS__MAX_SERIES");
    assert!(source("metrics.max_connections").ends_with(":4:20"), "{}", source("metrics.max_connections"));
    assert_eq!(source("listen"), "default");
}

#[test]
fn lists_are_written_with_commas_or_repeated() {
    let environment = [
        ("SIDECAR_TARGET__PORTS", "80, 443"),
        ("SIDECAR_TARGET__COMMS", "[nginx]"),
        ("SIDECAR_PROBES__CONNECTION__PATHS", "/a,/b"),
        ("SIDECAR_METRICS__LABELS", "[]"),
        ("SIDECAR_LISTEN", ""),
    ];
    let config =
        all(b"", &environment, &["--pid", "1,2", "--pid=3", "--cgroup", "/a", "--no-probe", "connection"])
            .unwrap();
    assert_eq!(config.target.ports, [80, 443]);
    assert_eq!(config.target.comms, ["nginx"]);
    assert_eq!(config.target.pids, [1, 2, 3]);
    assert_eq!(config.target.cgroups, ["/a"]);
    assert!(config.metrics.labels.is_empty());
    assert_eq!(config.listen.to_string(), "127.0.0.1:9090");
    assert_eq!(config.probes["connection"].options.texts("paths"), ["/a", "/b"]);
    assert!(!config.probes["connection"].enabled);
}

#[test]
fn variables_kubernetes_makes_for_services_are_left_alone() {
    let environment = [
        ("SIDECAR_SERVICE_HOST", "10.0.0.1"),
        ("SIDECAR_SERVICE_PORT", "9090"),
        ("SIDECAR_SERVICE_PORT_METRICS", "9090"),
        ("SIDECAR_PORT", "tcp://10.0.0.1:9090"),
        ("SIDECAR_PORT_9090_TCP", "tcp://10.0.0.1:9090"),
        ("SIDECAR_PORT_9090_TCP_ADDR", "10.0.0.1"),
        ("SIDECAR_PORT_9090_TCP_PROTO", "tcp"),
        ("SIDECAR_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("SIDECARS", "not ours"),
        ("sidecar_listen", "not ours"),
    ];
    assert_eq!(all(b"", &environment, &[]).unwrap().target, Target::default());
    assert!(all(b"", &[("SIDECAR_PORT", "80")], &[]).is_err());
}

#[test]
fn empty_files_comments_marks_and_line_ends_are_fine() {
    for text in [
        "",
        "\n",
        "# nothing",
        "---\n",
        "\u{feff}# marked",
        "target:\nmetrics:\nprobes:\n  connection:\n",
        "{}",
        "log:\r\n  level: info\r\n",
        "~",
    ] {
        assert!(yaml(text).is_ok(), "{text:?}: {:?}", yaml(text));
    }
}

#[test]
fn only_files_that_are_missing_are_passed_over() {
    let file = File::new(b"");
    let path = file.0.to_str().unwrap();
    assert_eq!(find(&["/nowhere/a", path, "/dev/null"]), Some(file.0.clone()));
    assert_eq!(find(&["/dev/null/a", "/nowhere/a"]), None);
}

#[test]
fn what_is_printed_reads_back_as_the_same_values() {
    let file = "target: {comms: ['true', 'a b', \"\u{e9}\\x7f\\L\\n#\", '80', \"ü\\e\", '- x', '*y'], cgroup: [/a.b_c-d]}\n\
                metrics: {labels: []}\nlisten: '[::]:9'\nprobes: {connection: {note: 'null', paths: ['~', 'a: b']}}";
    let config = yaml(file).unwrap();
    let printed = super::yaml(&config);
    let again = yaml(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert!(changes(&config, &again).is_empty(), "{printed}");
    assert_eq!(config.target, again.target);
    assert!(printed.contains("  cgroup: [/a.b_c-d]"), "{printed}");
}

#[test]
fn the_reference_file_holds_every_default() {
    let text = defaults(PROBES);
    let config = yaml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(changes(&config, &yaml("").unwrap()).is_empty());
    assert!(config.values().all(|(.., source)| matches!(source, Source::File { .. })), "{text}");
}

#[test]
fn json_has_every_value_and_its_source() {
    let config = all(b"log: {level: warn}", &[], &["--ports", "80,443"]).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json(&config)).unwrap();
    assert_eq!(value["config"]["target"]["ports"], serde_json::json!([80, 443]));
    assert_eq!(value["config"]["log"]["level"], "warn");
    assert_eq!(value["config"]["probes"]["connection"]["depth"], 4);
    assert_eq!(value["sources"]["target.ports"], "--ports");
    assert_eq!(value["sources"].as_object().unwrap().len(), config.values().count());
}

#[test]
fn a_reload_takes_live_keys_and_names_the_rest() {
    let old = yaml("listen: '[::]:1'\nmetrics: {interval_secs: 5, max_series: 9}").unwrap();
    let text = "listen: '[::]:2'\nmetrics: {interval_secs: 6, max_series: 9}\ntarget: {ports: 80, pids: 1, children: \
                true, cgroup: /a, comms: b}\nlog: {level: debug, format: json}\nprobes: {latency: {enabled: true}}";
    let new = yaml(text).unwrap();
    let found = changes(&old, &new);
    let live = [
        "target.pids",
        "target.children",
        "target.ports",
        "target.cgroup",
        "target.comms",
        "metrics.interval_secs",
        "log.level",
    ];
    assert_eq!(found.live, live);
    assert_eq!(found.restart, ["listen", "log.format", "probes.latency.enabled"]);
    assert!(found.touches("target") && found.touches("log.level"));
    assert!(!found.touches("log.format") && !found.touches("targ"));
    let running = old.adopt(&new);
    assert_eq!(running.target, new.target);
    assert_eq!(running.metrics.interval, Duration::from_secs(6));
    assert_eq!((running.log.level.as_str(), running.log.format), ("debug", LogFormat::Text));
    assert_eq!((running.listen, &running.probes), (old.listen, &old.probes));
    assert!(changes(&running, &new).live.is_empty());
    assert_eq!(changes(&running, &new).restart, found.restart);
    assert!(changes(&old, &old.clone()).is_empty());
}

#[test]
fn the_declarations_are_consistent() {
    for probes in [PROBES, sidecar_probes::PROBES] {
        let entries = keys::schema(probes);
        let mut variables: Vec<String> = entries.iter().map(Entry::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), entries.len());
        let page = markdown(probes);
        for entry in &entries {
            layers::default_value(entry).unwrap_or_else(|text| panic!("{}: {text}", entry.path));
            assert!(!entry.help.ends_with('.') && !entry.help.contains('|'), "{}", entry.path);
            let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", entry.path))).unwrap();
            assert_eq!(row.matches('|').count(), 8, "{row}");
            assert!(row.contains(&entry.variable()), "{row}");
        }
    }
}
