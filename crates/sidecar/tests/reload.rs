//! SIGHUP: filters and the interval change while everything stays attached, and a bad file changes nothing; and labels,
//! which are chosen once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};

use common::{
    Agent, Pair, Scratch, bpf,
    net::{accept_from, send},
    own_comm,
};

fn started_with(scratch: &Scratch, text: &str) -> Agent {
    let file = scratch.file("config.yaml", text);
    Agent::start(&["--config", file.to_str().unwrap()])
}

fn reload(agent: &Agent, scratch: &Scratch, text: &str, says: &str) {
    scratch.file("config.yaml", text);
    agent.signal(libc::SIGHUP);
    agent.says(says);
}

#[test]
fn a_new_filter_applies_without_anything_being_detached() {
    need_root!();
    let scratch = Scratch::new();
    let (one, two) = (Pair::new(), Pair::new());
    let agent = started_with(&scratch, &format!("target:\n  ports: [{}]\n", one.port));
    let held = bpf::held_by(agent.pid());
    assert!(!held.0.is_empty() && !held.1.is_empty(), "{held:?}");
    one.exchange(100, 10);
    two.exchange(1000, 20);
    let page = agent.scrape();
    assert_eq!((page.both(one.port).0.sent, page.both(one.port).0.active), (100, 1));
    assert_eq!(page.about(two.port), "");

    reload(&agent, &scratch, &format!("target:\n  ports: [{}]\n", two.port), "applied: target");
    agent.scrape();
    one.exchange(100, 10);
    two.exchange(500, 30);
    let page = agent.scrape();
    let (of_one, of_two) = (page.both(one.port), page.both(two.port));
    assert_eq!((of_one.0.sent, of_one.1.sent), (100, 10), "what was counted stays");
    assert_eq!((of_one.0.active, of_one.1.active), (0, 0), "and is not live any more");
    assert_eq!((of_two.0.sent, of_two.1.sent, of_two.0.active, of_two.1.active), (500, 30, 1, 1));
    assert_eq!(bpf::held_by(agent.pid()), held, "the same programs and links");

    reload(&agent, &scratch, "{}\n", "applied: target.ports\n");
    agent.scrape();
    one.exchange(7, 7);
    two.exchange(8, 8);
    let page = agent.scrape();
    assert_eq!((page.both(one.port).0.sent, page.both(two.port).0.sent), (107, 508));
    assert_eq!((page.both(one.port).0.active, page.both(two.port).0.active), (1, 1));
    assert_eq!(page.both(one.port).0.opened, 0, "opened before the agent");
    assert_eq!(bpf::held_by(agent.pid()), held, "the same programs and links");
    agent.stop();
}

#[test]
fn a_new_interval_applies_at_once() {
    need_root!();
    let scratch = Scratch::new();
    let agent = started_with(&scratch, "metrics:\n  interval_secs: 3600\n");
    let ticks = || agent.scrape().count("sidecar_collects_total", &[("probe", "connection")]);
    let before = ticks();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(ticks(), before + 1, "only our own scrape");
    reload(&agent, &scratch, "metrics:\n  interval_secs: 1\n", "applied: metrics.interval_secs");
    std::thread::sleep(Duration::from_millis(4500));
    let now = ticks();
    assert!(now >= before + 5, "{now} ticks after {before}");
    agent.stop();
}

#[test]
fn a_bad_file_keeps_the_old_configuration_and_says_so() {
    need_root!();
    let scratch = Scratch::new();
    let pair = Pair::new();
    let good = format!("target:\n  ports: [{}]\nmetrics:\n  interval_secs: 1\n", pair.port);
    let agent = started_with(&scratch, &good);
    for (bad, word) in [
        ("target:\n  ports: [http]\n", "http"),
        ("targets: {}\n", "targets"),
        ("target:\n  pids: [4194303]\n", "4194303"),
        ("target: [\n", "config.yaml"),
    ] {
        let before = agent.log().matches("stays as it was").count();
        scratch.file("config.yaml", bad);
        agent.signal(libc::SIGHUP);
        common::eventually(bad, || agent.log().matches("stays as it was").count() > before);
        let log = agent.log();
        assert!(log.lines().last().unwrap().contains(word), "{bad:?}: {log}");
    }
    fs::remove_file(scratch.0.join("config.yaml")).unwrap();
    agent.signal(libc::SIGHUP);
    common::eventually("said that the file is gone", || agent.log().matches("stays as it was").count() == 5);
    pair.exchange(321, 0);
    let page = agent.scrape();
    assert_eq!((page.both(pair.port).0.sent, page.both(pair.port).0.active), (321, 1));
    let others: BTreeSet<_> =
        page.rows("sidecar_connection_active", &[]).map(|sample| sample.labels["dst_port"].clone()).collect();
    assert_eq!(others, [pair.port.to_string()].into(), "the filter is still on");
    agent.stop();
}

#[test]
fn rows_carry_the_labels_that_are_asked_for_and_no_others() {
    need_root!();
    let pair = Pair::new();
    let port = pair.port.to_string();
    let agent = Agent::start(&["--ports", &port, "--labels", "role,pid,dst_port,cgroup"]);
    pair.exchange(5, 5);
    let page = agent.scrape();
    for metric in ["bytes_sent_total", "opened_total", "active", "rtt_seconds_count"] {
        let name = format!("sidecar_connection_{metric}");
        assert_eq!(page.rows(&name, &[]).count(), 2, "{metric}: one row for each side");
        for sample in page.rows(&name, &[]) {
            let names: Vec<&str> = sample.labels.keys().map(String::as_str).collect();
            assert_eq!(names, ["cgroup", "dst_port", "pid", "role"], "{metric}");
            assert_eq!(sample.labels["pid"], std::process::id().to_string());
        }
    }
    // The v2 line is the one without controllers.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    if let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::")) {
        assert_eq!(page.values("cgroup", pair.port, "client"), [own]);
    }
    agent.stop();
}

#[test]
fn without_a_label_what_it_told_apart_is_one_row() {
    need_root!();
    let pair = Pair::at(SocketAddr::from(([0, 0, 0, 0], 0)));
    let port = pair.port.to_string();
    let agent = Agent::start(&["--ports", &port, "--labels", "dst_port,role"]);
    let mut clients = vec![];
    for last in [1, 2, 3] {
        let client = common::net::socket(libc::AF_INET);
        common::net::bind(&client, SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        common::net::connect(&client, SocketAddr::from(([127, 0, 0, 1], pair.port))).unwrap();
        let client = std::net::TcpStream::from(client);
        let server = accept_from(&pair.listener, &client);
        send(&client, &server, 1000);
        clients.push((client, server));
    }
    let page = agent.scrape();
    let rows: Vec<_> = page.rows("sidecar_connection_bytes_sent_total", &[("role", "client")]).collect();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!((rows[0].value - 3000.0).abs() < f64::EPSILON);
    assert_eq!(page.both(pair.port).0.opened, 3);
    agent.stop();

    let agent = Agent::start(&["--ports", &port, "--labels", "src_ip,dst_port,role,comm"]);
    for (client, server) in &clients {
        send(client, server, 10);
    }
    let page = agent.scrape();
    let mut sources: Vec<_> = page
        .rows("sidecar_connection_bytes_sent_total", &[("role", "server"), ("comm", &own_comm())])
        .map(|sample| sample.labels["src_ip"].clone())
        .collect();
    sources.sort();
    assert_eq!(
        sources,
        ["127.0.0.1", "127.0.0.2", "127.0.0.3"],
        "the client's address on the server's side too"
    );
    agent.stop();
}
