//! Every kind of mistake with the exact words it gets.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use super::{super::*, PROBES, all, args, yaml};
use crate::cli::CommonArgs;

/// What a file says and what the user is told.
const MISTAKES: &[(&str, &str)] = &[
    // Keys.
    ("metrics:\n  interval: 5", "F:2:3: metrics.interval: unknown key; did you mean metrics.interval_secs?"),
    ("target: {pid: 1}", "F:1:10: target.pid: unknown key; did you mean target.pids?"),
    ("metric:\n  labels: []", "F:1:1: metric: unknown key; did you mean metrics?"),
    ("Listen: x", "F:1:1: Listen: unknown key; did you mean listen?"),
    ("interval_secs: 5", "F:1:1: interval_secs: unknown key; did you mean metrics.interval_secs?"),
    ("zzz: 5", "F:1:1: zzz: unknown key; expected one of target, metrics, listen, log, probes"),
    ("log: {zzz: 5}", "F:1:7: log.zzz: unknown key; expected one of format, level"),
    (
        "\"a\\e[1m\\n\": 5",
        "F:1:1: a\\u{1b}[1m\\n: unknown key; expected one of target, metrics, listen, log, probes",
    ),
    (
        "probes: {conection: {enabled: true}}",
        "F:1:10: probes.conection: unknown key; did you mean probes.connection?",
    ),
    (
        "probes:\n  connection:\n    bucket: native",
        "F:3:5: probes.connection.bucket: unknown key; did you mean probes.connection.buckets?",
    ),
    ("log.level: info", "F:1:1: log.level: write nested keys instead of dots, one level per line"),
    ("listen: '[::]:1'\nlisten: '[::]:2'", "F:2:1: listen: set twice, first in line 1"),
    ("log: {level: info}\nlog: {format: json}", "F:2:1: log: set twice, first in line 1"),
    (
        "probes: {connection: false}",
        "F:1:22: probes.connection: expected keys below it (enabled, buckets, depth, paths, note)",
    ),
    ("log: json", "F:1:6: log: expected keys below it (format, level)"),
    // Numbers.
    (
        "metrics: {interval_secs: 0}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found 0",
    ),
    (
        "metrics: {interval_secs: 3601}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found 3601",
    ),
    (
        "metrics: {interval_secs: -1}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found -1",
    ),
    (
        "metrics: {interval_secs: 1.5}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found 1.5",
    ),
    (
        "metrics: {interval_secs: 5s}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found \"5s\"",
    ),
    (
        "metrics: {interval_secs: '5'}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found \"5\"; leave the quotes out",
    ),
    (
        "metrics: {interval_secs: 010}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found 010; leave the leading zeros out",
    ),
    (
        "metrics: {interval_secs: 99999999999999999999}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found 99999999999999999999",
    ),
    (
        "metrics: {interval_secs: }",
        "F:1:11: metrics.interval_secs: expected a whole number from 1 to 3600, found nothing",
    ),
    (
        "metrics: {interval_secs: [5]}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found a list",
    ),
    (
        "metrics: {interval_secs: {a: 5}}",
        "F:1:26: metrics.interval_secs: expected a whole number from 1 to 3600, found keys",
    ),
    // Words.
    (
        "target: {children: yes, pids: 1}",
        "F:1:20: target.children: expected true or false, found \"yes\"; write true",
    ),
    (
        "target: {children: 'false', pids: 1}",
        "F:1:20: target.children: expected true or false, found \"false\"; leave the quotes out",
    ),
    (
        "log: {format: jsn}",
        "F:1:15: log.format: expected one of text, json, found \"jsn\"; did you mean json?",
    ),
    (
        "log: {level: loud}",
        "F:1:14: log.level: expected one of error, warn, info, debug, trace, found \"loud\"",
    ),
    // Lists.
    ("target: {ports: [80, 443, 80]}", "F:1:27: target.ports: 80 stands twice"),
    (
        "target: {ports: [http]}",
        "F:1:18: target.ports: expected whole numbers from 1 to 65535, found \"http\"",
    ),
    (
        "target: {ports: '80,443'}",
        "F:1:17: target.ports: expected whole numbers from 1 to 65535, found \"80,443\"; write [80,443]",
    ),
    (
        "target: {ports: }",
        "F:1:10: target.ports: expected a list of whole numbers from 1 to 65535, found nothing; write [] for an empty list",
    ),
    (
        "target: {ports: {a: 1}}",
        "F:1:17: target.ports: expected a list of whole numbers from 1 to 65535, found keys",
    ),
    (
        "target: {ports: [[1]]}",
        "F:1:18: target.ports: expected a list of whole numbers from 1 to 65535, found a list",
    ),
    ("target: {cgroup: ''}", "F:1:18: target.cgroup: expected texts, found an empty text"),
    ("target: {comms: [a, b, c, d, e, f, g, h, i]}", "F:1:17: target.comms: 9 entries, at most 8 fit"),
    ("target: {comms: \"a\\0b\"}", "F:1:17: target.comms: \"a\\0b\" holds a zero byte"),
    (
        "metrics: {labels: [role, dst_prt]}",
        "F:1:26: metrics.labels: expected words out of src_ip, dst_ip, dst_port, role, comm, pid, cgroup, found \"dst_prt\"; did you mean dst_port?",
    ),
    // Keys that need each other.
    (
        "target: {children: true}",
        "F:1:20: target.children: needs target.pids, the processes whose descendants count",
    ),
    // YAML.
    ("log:\n\tlevel: info", "F:2:1: a tab; YAML is indented with spaces"),
    ("log:\n  level: info\n  \tformat: json", "F:3:3: a tab; YAML is indented with spaces"),
    ("listen: &here '[::]:1'", "F:1:9: an anchor (`&name`); write the value out where it is needed"),
    (
        "listen: !!str x:1",
        "F:1:9: a tag (`!!str`); leave it out, the key says what the value is\nF:1:9: listen: expected an IP address or localhost before the port, found \"x:1\"",
    ),
    ("? [a]\n: 1", "F:1:3: a key must be a word"),
    ("- a", "F:1:1: expected keys (`listen: …`) at the top level"),
    ("listen", "F:1:1: expected keys (`listen: …`) at the top level"),
    ("log: {}\n---\nlog: {}", "F:2:1: a second document; one file holds one configuration"),
];

#[test]
fn mistakes_in_a_file_are_answered_with_their_place_and_the_way_out() {
    for (text, expected) in MISTAKES {
        assert_eq!(yaml(text).expect_err(text), *expected, "{text:?}");
    }
    let ports: Vec<String> = (1..=1025).map(|port| port.to_string()).collect();
    let text = yaml(&format!("target: {{ports: [{}]}}", ports.join(","))).unwrap_err();
    assert_eq!(text, "F:1:17: target.ports: 1025 entries, at most 1024 fit");
}

#[test]
fn addresses_to_listen_on_are_taken_literally() {
    for (text, expected) in [
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::]:80", "[::]:80"),
        ("[fe80::1]:80", "[fe80::1]:80"),
        ("localhost:80", "127.0.0.1:80"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ] {
        assert_eq!(listen::parse(text), Ok(expected.parse().unwrap()), "{text}");
    }
    let port = "expected address:port with a port from 0 to 65535, found";
    for (text, expected) in [
        (":9090", "\":9090\" names no address; write 127.0.0.1:9090 for this machine only or 0.0.0.0:9090 (IPv6 too: [::]:9090) for every interface".to_owned()),
        ("9090", "\"9090\" names no address; write 127.0.0.1:9090 for this machine only or 0.0.0.0:9090 (IPv6 too: [::]:9090) for every interface".to_owned()),
        ("::1", "expected address:port, found \"::1\"; write [::1]:9090".to_owned()),
        ("fe80:0:0:0:1:2:3:4:9090", "an IPv6 address goes in brackets; write [fe80:0:0:0:1:2:3:4]:9090".to_owned()),
        ("10.0.0.1", "expected address:port, found \"10.0.0.1\"; write 10.0.0.1:9090".to_owned()),
        ("10.0.0.1:", format!("{port} \"10.0.0.1:\"")),
        ("10.0.0.1:65536", format!("{port} \"10.0.0.1:65536\"")),
        ("10.0.0.1:-1", format!("{port} \"10.0.0.1:-1\"")),
        ("web:80", "expected an IP address or localhost before the port, found \"web:80\"".to_owned()),
        ("10.0.0.256:80", "expected an IP address or localhost before the port, found \"10.0.0.256:80\"".to_owned()),
    ] {
        assert_eq!(listen::parse(text), Err(expected), "{text}");
    }
}

#[test]
fn mistakes_in_variables_and_flags_are_answered_with_their_names() {
    let error = |environment: &[(&str, &str)], flags: &[&str]| all(b"", environment, flags).unwrap_err();
    for (name, value, expected) in [
        (
            "SIDECAR_METRICS_INTERVAL_SECS",
            "5",
            "unknown variable; did you mean SIDECAR_METRICS__INTERVAL_SECS?",
        ),
        (
            "SIDECAR_METRICS__INTERVAL_SECS",
            "5s",
            "metrics.interval_secs: expected a whole number from 1 to 3600, found \"5s\"",
        ),
        (
            "SIDECAR_TARGET__PORTS",
            "80,,443",
            "target.ports: expected whole numbers from 1 to 65535, found an empty text",
        ),
        (
            "SIDECAR_PROBES__CONNECTION__DEPTH",
            "9",
            "probes.connection.depth: expected a whole number from 2 to 8, found 9",
        ),
    ] {
        assert_eq!(error(&[(name, value)], &[]), format!("{name}: {expected}"));
    }
    for (flags, expected) in [
        (
            &["--interval", "0"][..],
            "--interval: metrics.interval_secs: expected a whole number from 1 to 3600, found 0",
        ),
        (
            &["--interval", "5m"],
            "--interval: metrics.interval_secs: expected a whole number from 1 to 3600, found \"5m\"",
        ),
        (&["--pid", ""], "--pid: target.pids: expected whole numbers from 1 to 4194304, found an empty text"),
        (&["--port", "80", "--ports", "443,80"], "--ports: target.ports: 80 stands twice"),
        (
            &["--children"],
            "--children: target.children: needs target.pids, the processes whose descendants count",
        ),
        (
            &["--children", "--pid", "x"],
            "--pid: target.pids: expected whole numbers from 1 to 4194304, found \"x\"",
        ),
        (&["--probe", "conection"], "--probe conection: no such probe; did you mean connection?"),
        (&["--no-probe", "zzz"], "--no-probe zzz: no such probe; there are connection, latency"),
        (&["--probe", "latency", "--no-probe", "latency"], "--no-probe latency: switched both on and off"),
        (
            &["--listen", ":80"],
            "--listen: listen: \":80\" names no address; write 127.0.0.1:80 for this machine only or 0.0.0.0:80 (IPv6 too: [::]:80) for every interface",
        ),
    ] {
        assert_eq!(error(&[], flags), expected, "{flags:?}");
    }
}

#[test]
fn a_variable_that_is_not_utf8_is_refused_by_name() {
    let value = OsString::from_vec(b"a\xff".to_vec());
    let errors =
        load(&args(&["--config", "/dev/null"]), [("SIDECAR_LISTEN".into(), value)].into_iter(), PROBES);
    assert_eq!(errors.unwrap_err().to_string(), "SIDECAR_LISTEN: not UTF-8");
}

#[test]
fn all_problems_of_all_layers_are_reported_in_order() {
    let file = b"listen: x\nzzz: 1\nlog: {level: loud}\nmetrics: {interval_secs: 0}\n";
    let text = all(file, &[("SIDECAR_LOG__FORMAT", "x")], &["--ports", "0"]).unwrap_err();
    let places: Vec<&str> = text.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["F:1:9", "F:2:1", "F:3:14", "F:4:26", "SIDECAR_LOG__FORMAT", "--ports"], "{text}");
}

#[test]
fn files_that_are_no_configuration_are_refused_as_a_whole() {
    let error = |bytes: &[u8]| all(bytes, &[], &[]).unwrap_err();
    assert_eq!(error(b"listen: a\n\xc3\xa4\xff"), "F:2:2: not UTF-8; save the file as UTF-8");
    assert_eq!(error(b"\xff\xfel\0i\0"), "F:1:1: not UTF-8; save the file as UTF-8");
    assert_eq!(error(&vec![b'#'; 1024 * 1024 + 1]), "F: larger than 1 MiB; is it a configuration file?");
    assert!(all(&vec![b'#'; 1024 * 1024], &[], &[]).is_ok());
    let named = |path: &str| {
        let args = CommonArgs { config: Some(path.into()), ..CommonArgs::default() };
        load(&args, std::iter::empty(), PROBES).unwrap_err().to_string()
    };
    assert_eq!(named("/nowhere/x.yaml"), "/nowhere/x.yaml: no such file");
    assert_eq!(named("/proc/self"), "/proc/self: a directory; name the file in it");
    assert_eq!(named("/dev/zero"), "/dev/zero: larger than 1 MiB; is it a configuration file?");
}

#[test]
fn broken_and_hostile_files_end_in_an_error_or_a_configuration() {
    let seed = defaults(PROBES).into_bytes();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let marks = b"{}[]:-?&*!|>'\"%@`,#~\t\n \xff\0<.";
    let entries = keys::schema(PROBES);
    for _ in 0..3_000 {
        let mut bytes = seed.get(..next(seed.len())).unwrap().to_vec();
        for _ in 0..=next(6) {
            let at = next(bytes.len() + 1);
            bytes.insert(at, marks[next(marks.len())]);
        }
        let mut layers = Layers::new(&entries);
        layers.yaml(&Path::new("F").into(), &String::from_utf8_lossy(&bytes));
        assert!(layers.problems.iter().all(|problem| !problem.text.contains('\n')), "{:?}", layers.problems);
    }
    for deep in ["[".repeat(100_000), "a: {".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000)] {
        yaml(&deep).unwrap_err();
    }
}
