//! Events of connections: each one's beginning and end is told once, with what the test did itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    io::Read as _,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use common::{Agent, Pair, events::Stream, is_slow, net, own_comm};
use serde_json::Value;

fn agent(flags: &[&str]) -> Agent {
    Agent::start(&[&["--no-probe", "exec", "--interval", "3600"], flags].concat())
}

/// Events of one port, up to and with the `ends`th end, or until none comes any more.
fn until_ended(stream: &mut Stream, port: u16, ends: usize) -> Vec<Value> {
    let mut events = Vec::new();
    let mut ended = 0;
    while ended < ends {
        let Some(event) = stream.next_if_any() else { break };
        assert_ne!(event["event"], "lost", "{event}");
        if event["dst_port"] == port {
            ended += usize::from(event["what"] != "open");
            events.push(event);
        }
    }
    events
}

fn only<'a>(events: &'a [Value], what: &str, role: &str) -> &'a Value {
    let mut found = events.iter().filter(|event| event["what"] == what && event["role"] == role);
    let first = found.next().unwrap_or_else(|| panic!("no {what} of a {role} in {events:?}"));
    assert!(found.next().is_none(), "two {what} of a {role} in {events:?}");
    first
}

#[test]
fn a_connection_is_told_when_it_opens_and_when_it_closes() {
    need_root!();
    let agent = agent(&[]);
    let mut stream = Stream::open(&agent, "types=connection");
    let begun = Instant::now();
    let pair = Pair::new();
    pair.exchange(1_234, 56_789);
    let (port, client_port) = (pair.port, pair.client.local_addr().unwrap().port());
    // Long enough to be met alive.
    let opened = loop {
        let event = stream.next();
        if event["dst_port"] == port {
            break event;
        }
    };
    assert_eq!(opened["what"], "open");
    pair.finish();
    let took = begun.elapsed().as_secs_f64();
    let mut events = until_ended(&mut stream, port, 2);
    events.push(opened);
    for (role, sent, received) in [("client", 1_234, 56_789), ("server", 56_789, 1_234)] {
        let (open, close) = (only(&events, "open", role), only(&events, "close", role));
        for event in [open, close] {
            assert_eq!((&event["src_ip"], &event["dst_ip"]), (&"127.0.0.1".into(), &"127.0.0.1".into()));
            assert_eq!(event["src_port"], client_port);
            assert_eq!((&event["pid"], &event["comm"]), (&std::process::id().into(), &own_comm().into()));
        }
        assert_eq!((&open["reason"], &open["duration_seconds"]), (&Value::Null, &Value::Null));
        assert_eq!((&close["bytes_sent"], &close["bytes_received"]), (&sent.into(), &received.into()));
        assert_eq!(close["reason"], "normal");
        let duration = close["duration_seconds"].as_f64().unwrap();
        let between = close["monotonic_ns"].as_u64().unwrap() - open["monotonic_ns"].as_u64().unwrap();
        assert!(
            duration <= took && (duration - between as f64 / 1e9).abs() < 1e-6,
            "{duration} of {took}, {between}"
        );
    }
    agent.stop();
}

#[test]
fn an_attempt_that_fails_is_told_with_its_reason() {
    need_root!();
    let agent = agent(&[]);
    let mut stream = Stream::open(&agent, "types=connection");
    let address = net::closed_port();
    assert!(TcpStream::connect(address).is_err());
    let events = until_ended(&mut stream, address.port(), 1);
    let fail = only(&events, "fail", "client");
    assert_eq!((events.len(), &fail["reason"], &fail["comm"]), (1, &"refused".into(), &own_comm().into()));
    agent.stop();
}

#[test]
fn of_many_short_connections_every_beginning_and_every_end_is_told_once() {
    need_root!();
    let agent = agent(&[]);
    let mut stream = Stream::open(&agent, "types=connection");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, times) = (listener.local_addr().unwrap(), if is_slow() { 50 } else { 2_000 });
    let events = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
        });
        scope.spawn(|| (0..times).for_each(|_| drop(TcpStream::connect(address).unwrap())));
        // Read as they come: more than wait for a reader.
        until_ended(&mut stream, address.port(), 2 * times)
    });
    let page = agent.scrape();
    let missed = page.count("sidecar_bpf_missed_runs_total", &[("probe", "connection")]);
    if missed > 0 {
        skip!("the kernel left out {missed} runs of the probe's programs, which the agent tells");
    }
    for role in ["client", "server"] {
        for what in ["open", "close"] {
            let of = |event: &&Value| event["what"] == what && event["role"] == role;
            let mut ports: Vec<_> =
                events.iter().filter(of).map(|event| event["src_port"].as_u64().unwrap()).collect();
            assert_eq!(ports.len(), times, "{what} {role}");
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), times, "{what} {role}");
        }
    }
    assert_eq!(page.count("sidecar_events_lost_total", &[("event", "connection")]), 0);
    agent.stop();
}

#[test]
fn what_was_open_before_anybody_listened_is_told_only_when_it_ends() {
    need_root!();
    let agent = agent(&[]);
    let pair = Pair::new();
    pair.exchange(10, 20);
    thread::sleep(Duration::from_millis(50));
    let mut stream = Stream::open(&agent, "types=connection");
    // Swept more than once meanwhile.
    thread::sleep(Duration::from_millis(if is_slow() { 3_000 } else { 1_200 }));
    let port = pair.port;
    pair.finish();
    let events = until_ended(&mut stream, port, 2);
    assert!(events.iter().all(|event| event["what"] == "close"), "{events:?}");
    agent.stop();
}
