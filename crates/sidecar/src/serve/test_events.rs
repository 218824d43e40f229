//! Streams of events over raw sockets: what a client gets, and what happens when it or the agent goes.

use std::{
    io::BufRead as _,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use sidecar_core::{Event, EventField, EventSpec, EventValue, FieldKind, Listener as _};

use super::test::{Client, Fake, Running, start, start_with};
use crate::events::Hub;

static DONE: EventSpec = EventSpec {
    kind: "done",
    summary: "Something was done",
    fields: &[EventField { name: "pid", kind: FieldKind::Number, optional: false, width: 1, help: "Test" }],
};
static EVENTS: &[&EventSpec] = &[&DONE];

fn happen(hub: &Hub, pid: i64) {
    let values = vec![EventValue::Number(pid)];
    let (monotonic, wall) = (Duration::ZERO, SystemTime::UNIX_EPOCH);
    hub.receive().event(Event { spec: &DONE, monotonic, wall, values });
}

/// A source whose probes follow at once.
fn source() -> Fake {
    let hub = Arc::new_cyclic(|hub: &Weak<Hub>| {
        let hub = hub.clone();
        Hub::new(EVENTS.to_vec(), move || {
            if let Some(hub) = hub.upgrade() {
                hub.switched(hub.version());
            }
        })
    });
    Fake { hub, ..Fake::default() }
}

/// A client that follows events, after the head of the answer.
fn follow(server: &Running, query: &str) -> Client {
    let mut client = server.connect();
    client.send(&format!("GET /api/v1/events{query} HTTP/1.1\r\nhost: x\r\n\r\n"));
    let head = client.head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/x-ndjson")));
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    client
}

/// The next chunk, without its length.
fn chunk(client: &mut Client) -> String {
    let mut line = || {
        let mut line = String::new();
        client.0.read_line(&mut line).unwrap();
        line
    };
    let length = usize::from_str_radix(line().trim_end(), 16).unwrap();
    let mut chunk = String::new();
    while chunk.len() < length {
        chunk += &line();
    }
    line();
    chunk
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn events_come_as_they_happen_and_the_probe_is_off_when_the_client_has_gone() {
    let server = start(source());
    let hub = Arc::clone(&server.source.hub);
    assert_eq!(hub.wanted(EVENTS), 0);
    let mut client = follow(&server, "?types=done&pid=2");
    assert_eq!(hub.wanted(EVENTS), 1);
    for pid in [1, 2, 3] {
        happen(&hub, pid);
    }
    let told = chunk(&mut client);
    assert!(told.contains("\"pid\":2") && told.lines().count() == 1, "{told}");
    happen(&hub, 2);
    assert_eq!(chunk(&mut client).lines().count(), 1);
    drop(client);
    eventually("nobody listens", || hub.wanted(EVENTS) == 0);
    server.stop();
}

#[test]
fn a_stream_does_not_hold_up_the_agents_end_when_it_is_told_to_end() {
    let server = start(source());
    let hub = Arc::clone(&server.source.hub);
    let mut client = follow(&server, "");
    happen(&hub, 1);
    hub.close();
    assert_eq!(chunk(&mut client).lines().count(), 1);
    assert_eq!(chunk(&mut client), "");
    assert!(server.stop() < Duration::from_millis(500));
}

#[test]
fn a_wrong_query_is_refused_and_switches_nothing_on() {
    let server = start(source());
    let answer = server.get("/api/v1/events?types=dnoe");
    assert_eq!((answer.status, answer.text()), (400, "there is no event type `dnoe`; there are: done\n"));
    assert_eq!(server.get("/api/v1/events?pid=x").status, 400);
    assert_eq!(server.get("/api/v1/events?what=x").status, 400);
    assert_eq!(server.source.hub.wanted(EVENTS), 0);
    server.stop();
}

#[test]
fn more_streams_than_there_may_be_are_told_so() {
    let server = start(source());
    let clients: Vec<Client> = (0..8).map(|_| follow(&server, "")).collect();
    let answer = server.get("/api/v1/events");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(answer.text().contains("8 readers"), "{}", answer.text());
    drop(clients);
    eventually("a place is free", || {
        server.get("/healthz").status == 200 && server.source.hub.wanted(EVENTS) == 0
    });
    drop(follow(&server, ""));
    server.stop();
}

#[test]
fn probes_that_do_not_follow_are_no_stream() {
    let hub = Arc::new(Hub::new(EVENTS.to_vec(), || ()));
    let fake = Fake { hub: Arc::clone(&hub), ..Fake::default() };
    let server = start_with(fake, "127.0.0.1:0", |limits| limits.page = Duration::from_millis(50));
    assert_eq!(server.get("/api/v1/events").status, 503);
    assert_eq!(hub.wanted(EVENTS), 0);
    server.stop();
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_no_event_waits_for_it() {
    let server = start_with(source(), "127.0.0.1:0", |limits| limits.answer = Duration::from_millis(200));
    let hub = Arc::clone(&server.source.hub);
    let client = follow(&server, "");
    let begun = Instant::now();
    // More than the sockets' buffers and the queue hold.
    eventually("it is cut off", || {
        (0..2_000).for_each(|pid| happen(&hub, pid));
        hub.wanted(EVENTS) == 0
    });
    assert!(begun.elapsed() < Duration::from_secs(9));
    drop(client);
    server.stop();
}
