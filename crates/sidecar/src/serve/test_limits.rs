//! What a client cannot do: hold memory, block others, or keep the agent from stopping.

use std::{
    io::{BufRead, Read, Write},
    sync::{Barrier, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use super::test::{Fake, start, start_with};

const GET_METRICS: &str = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
const GET_HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

/// A page no socket buffer takes whole.
fn huge() -> Fake {
    Fake { rows: 24, label: 1 << 20, ..Fake::default() }
}

#[test]
fn garbage_is_refused_and_the_connection_closed() {
    let server = start(Fake::default());
    for garbage in
        ["\u{16}\u{3}\u{1}\0\u{5}\0hello\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "{}\n\n\n\n"]
    {
        let mut client = server.connect();
        client.send(garbage);
        assert_eq!(client.answer().status, 400, "{garbage:?}");
        assert!(client.closed());
    }
    assert_eq!(server.get("/healthz").status, 200);
    server.stop();
}

#[test]
fn a_head_that_is_too_big_is_refused() {
    let server = start(Fake::default());
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\ncookie: {}\r\n\r\n", "a".repeat(20_000));
    assert_eq!(server.ask(&long).status, 431);
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(100));
    assert_eq!(server.ask(&many).status, 431);
    let fits = format!("GET / HTTP/1.1\r\nhost: x\r\ncookie: {}\r\n\r\n", "a".repeat(8_000));
    assert_eq!(server.ask(&fits).status, 200);
    server.stop();
}

#[test]
fn a_request_body_is_refused() {
    let server = start(Fake::default());
    for request in [
        "GET /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
        "POST /metrics HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\nexpect: 100-continue\r\n\r\n",
    ] {
        let mut client = server.connect();
        client.send(request);
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (413, Some("close")), "{request}");
        assert!(client.closed());
    }
    server.stop();
}

#[test]
fn a_client_that_is_slow_to_ask_is_cut_off_and_holds_up_nobody() {
    let server =
        start_with(Fake::default(), "127.0.0.1:0", |limits| limits.head = Duration::from_millis(1500));
    let start = Instant::now();
    let mut silent = server.connect();
    let mut idle = server.connect();
    idle.send(GET_HEALTH);
    assert_eq!(idle.answer().status, 200);
    let mut slow = server.connect();
    let mut stream = slow.0.get_ref().try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        for byte in "GET / HTTP/1.1\r\nhost: ".bytes().chain([b'x'; 100]) {
            std::thread::sleep(Duration::from_millis(40));
            if stream.write_all(&[byte]).is_err() {
                return;
            }
        }
    });
    assert_eq!(server.get("/metrics").status, 200);
    assert!(start.elapsed() < Duration::from_millis(1200), "others had to wait {:?}", start.elapsed());
    // It may be told why (408) or just be cut off.
    while !slow.closed() {}
    assert!(silent.closed() && idle.closed());
    assert!(start.elapsed() < Duration::from_secs(4), "cut off after {:?}", start.elapsed());
    drip.join().unwrap();
    server.stop();
}

#[test]
fn clients_that_do_not_read_hold_few_pages_and_not_for_long() {
    let server = start_with(huge(), "127.0.0.1:0", |limits| limits.answer = Duration::from_secs(3));
    let start = Instant::now();
    let mut refused = 0;
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = server.connect();
            client.send(GET_METRICS);
            refused += usize::from(client.head().status == 503);
            client
        })
        .collect();
    assert!(start.elapsed() < Duration::from_secs(3), "too slow to prove anything: {:?}", start.elapsed());
    assert_eq!(refused, 2, "of ten pages eight may be alive");
    assert_eq!(server.get("/healthz").status, 200);
    std::thread::sleep(Duration::from_millis(3300));
    assert_eq!(server.get("/metrics").status, 200, "the others have been cut off");
    drop(clients);
    server.stop();
}

#[test]
fn taking_a_little_now_and_then_buys_no_more_time() {
    let server = start_with(huge(), "127.0.0.1:0", |limits| limits.answer = Duration::from_millis(800));
    let mut client = server.connect();
    client.send(GET_METRICS);
    assert_eq!(client.head().status, 200);
    let start = Instant::now();
    let mut taken = 0;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = client.0.read(&mut buffer) {
        taken += read;
        if start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    assert!(taken < 24 << 20, "all {taken} bytes were sent");
    server.stop();
}

#[test]
fn a_slow_reader_who_reads_gets_everything() {
    let server = start(huge());
    let mut client = server.connect();
    client.send(GET_METRICS);
    std::thread::sleep(Duration::from_millis(300));
    let answer = client.answer();
    assert!(answer.body.len() > 24 << 20 && answer.body.ends_with(b"\"} 1\n"));
    server.stop();
}

#[test]
fn scrapes_at_the_same_time_share_one_page() {
    let server = start(Fake { takes: Some(Duration::from_millis(300)), ..Fake::default() });
    let together = Barrier::new(20);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                together.wait();
                assert_eq!(server.get("/metrics").status, 200);
            });
        }
    });
    let asked = server.source.asked.load(SeqCst);
    assert!((1..=2).contains(&asked), "{asked} snapshots for 20 scrapes");
    assert!(
        server.get("/metrics").text().ends_with(&format!("}} {}\n", asked + 1)),
        "the next one is a new one"
    );
    server.stop();
}

#[test]
fn a_snapshot_that_does_not_come_blocks_no_health_check_and_ends_in_503() {
    let fake = Fake { takes: None, ..Fake::default() };
    let server = start_with(fake, "127.0.0.1:0", |limits| limits.page = Duration::from_millis(500));
    let mut scrape = server.connect();
    scrape.send(GET_METRICS);
    let start = Instant::now();
    assert_eq!(server.get("/healthz").status, 200);
    assert!(start.elapsed() < Duration::from_millis(400));
    let answer = scrape.answer();
    let told = "no metrics within 0.5 s; /api/v1/probes shows which probe is stuck\n";
    assert_eq!((answer.status, answer.text()), (503, told));
    server.stop();
}

#[test]
fn one_connection_too_many_is_told_so() {
    let server = start_with(Fake::default(), "127.0.0.1:0", |limits| limits.connections = 3);
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(GET_HEALTH);
        assert_eq!(client.answer().status, 200);
    }
    let answer = server.connect().answer();
    assert_eq!((answer.status, answer.text()), (503, "3 connections are open already; close some or wait\n"));
    clients.pop();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut line = String::new();
    while !line.contains(" 200 ") {
        assert!(Instant::now() < deadline, "a closed connection still counts");
        line.clear();
        let mut client = server.connect();
        // One that is refused may be reset before it has sent or read anything.
        let sent = client.0.get_mut().write_all(GET_HEALTH.as_bytes());
        let _ = sent.and_then(|()| client.0.read_line(&mut line));
    }
    server.stop();
}

#[test]
fn stopping_finishes_what_has_begun_and_takes_no_longer_than_a_second() {
    let server = start(Fake { takes: Some(Duration::from_millis(300)), ..Fake::default() });
    let mut idle = server.connect();
    idle.send(GET_HEALTH);
    idle.answer();
    let mut busy = server.connect();
    busy.send(GET_METRICS);
    while server.source.asked.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    let address = server.address;
    let took = server.stop();
    assert_eq!(busy.answer().status, 200);
    assert!(busy.closed() && idle.closed());
    assert!(took < Duration::from_millis(800), "{took:?}");
    assert!(std::net::TcpStream::connect(address).is_err(), "the port is free");
}

#[test]
fn stopping_does_not_wait_for_those_who_never_finish() {
    let server = start(huge());
    let mut reader = server.connect();
    reader.send(GET_METRICS);
    assert_eq!(reader.head().status, 200);
    let mut asker = server.connect();
    asker.send("GET /metrics HTTP/1.1\r\nho");
    let silent = server.connect();
    std::thread::sleep(Duration::from_millis(100));
    let took = server.stop();
    assert!(took < Duration::from_secs(1), "{took:?}");
    drop((reader, asker, silent));
}
