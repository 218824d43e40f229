//! Connections and listeners that were there before the agent: found, given a role, counted from then on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use common::{
    Agent, Netns, Pair, Side,
    child::{Child, hear, tell},
    net::{self, accept_from, info, moment, receive, send, traffic, truth},
    own_comm,
};

/// What was added to a side since `base`.
fn since(now: &Side, base: &Side) -> Side {
    Side {
        sent: now.sent - base.sent,
        received: now.received - base.received,
        packets_sent: now.packets_sent - base.packets_sent,
        packets_received: now.packets_received - base.packets_received,
        retransmits: now.retransmits - base.retransmits,
        ..Side::default()
    }
}

fn start() -> Agent {
    Agent::start(&["--interval", "1"])
}

#[test]
fn an_older_connection_is_counted_on_both_sides_from_the_agents_start_on() {
    need_root!();
    let pair = Pair::new();
    let port = pair.port;
    pair.exchange(123_456, 7890);
    moment();
    let base = (truth(&info(&pair.client), 0), truth(&info(&pair.server), 0));
    let agent = start();
    let (page, ..) = pair.at_rest(&agent);
    let (of_client, of_server) = page.both(port);
    assert_eq!(traffic(&of_client), Side::default(), "nothing has moved since");
    assert_eq!((of_client.active, of_client.opened), (1, 0));
    assert_eq!((of_server.active, of_server.opened), (1, 0));

    pair.exchange(1000, 22);
    let (page, client, server) = pair.at_rest(&agent);
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.sent, of_client.received), (1000, 22));
    assert_eq!(traffic(&of_client), since(&truth(&client, 0), &base.0));
    assert_eq!(traffic(&of_server), since(&truth(&server, 0), &base.1));
    for role in ["client", "server"] {
        assert_eq!(page.values("comm", port, role), [own_comm()], "{role}");
        assert_eq!(page.values("src_ip", port, role), ["127.0.0.1"], "{role}");
    }

    let (client, server) = pair.finish();
    let (of_client, of_server) = agent.when_ended(port, 1).both(port);
    assert_eq!(traffic(&of_client), since(&truth(&client, 1), &base.0));
    assert_eq!(traffic(&of_server), since(&truth(&server, 1), &base.1));
    assert_eq!((of_client.opened, of_client.active, of_client.closed("normal")), (0, 0, 1));
    assert_eq!((of_server.opened, of_server.active, of_server.closed("normal")), (0, 0, 1));
    agent.stop();
}

#[test]
fn an_older_ipv6_connection_is_found_too() {
    need_root!();
    if TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0)).is_err() {
        skip!("no IPv6 here");
    }
    let pair = Pair::over(std::net::Ipv6Addr::LOCALHOST.into());
    let agent = start();
    pair.exchange(10, 20);
    let (page, ..) = pair.at_rest(&agent);
    let (of_client, of_server) = page.both(pair.port);
    assert_eq!((of_client.sent, of_client.received, of_client.active), (10, 20, 1));
    assert_eq!((of_server.sent, of_server.received, of_server.active), (20, 10, 1));
    assert_eq!(page.values("dst_ip", pair.port, "client"), ["::1"]);
    agent.stop();
}

#[test]
fn an_older_connection_in_another_network_namespace_is_found() {
    need_root!();
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    let pair = namespace.run(Pair::new);
    let agent = start();
    pair.exchange(30, 40);
    let (page, ..) = pair.at_rest(&agent);
    let (of_client, of_server) = page.both(pair.port);
    assert_eq!((of_client.sent, of_client.received, of_client.active), (30, 40, 1));
    assert_eq!((of_server.sent, of_server.received, of_server.active), (40, 30, 1));
    agent.stop();
}

#[test]
fn older_connections_belong_to_the_process_that_holds_them() {
    need_root!();
    let listener = net::listener();
    let port = listener.local_addr().unwrap().port();
    let mut child = Child::fork("older-worker", &[&listener], |line| {
        let (mut stream, _) = listener.accept().unwrap();
        tell(line, 1);
        stream.read_exact(&mut [0; 44]).unwrap();
        tell(line, 1);
        hear(line);
    });
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    child.hear();
    let agent = start();
    client.write_all(&[1; 44]).unwrap();
    child.hear();
    let page = agent.scrape();
    assert_eq!(page.values("comm", port, "server"), ["older-worker"]);
    assert_eq!(page.both(port).1.received, 44);
    child.tell(1);
    child.join();
    agent.stop();
}

#[test]
fn new_connections_to_an_older_listener_are_the_servers() {
    need_root!();
    let listener = net::listener();
    let port = listener.local_addr().unwrap().port();
    let agent = start();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let server = accept_from(&listener, &client);
    send(&client, &server, 15);
    let page = agent.scrape();
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.sent, of_client.opened, of_client.active), (15, 1, 1));
    assert_eq!((of_server.received, of_server.opened, of_server.active), (15, 1, 1));
    assert_eq!(page.values("comm", port, "server"), [own_comm()]);
    agent.stop();
}

#[test]
fn a_connection_that_waits_to_be_accepted_when_the_agent_starts_is_counted() {
    need_root!();
    let listener = net::listener();
    let port = listener.local_addr().unwrap().port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(&[1; 8]).unwrap();
    let agent = start();
    client.write_all(&[1; 9]).unwrap();
    let server = accept_from(&listener, &client);
    receive(&server, 17);
    let page = agent.scrape();
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.sent, of_client.active, of_client.opened), (9, 1, 0));
    assert_eq!((of_server.received, of_server.active, of_server.opened), (9, 1, 0));
    agent.stop();
}

#[test]
fn an_older_connection_whose_listener_is_gone_still_has_the_right_roles() {
    need_root!();
    let Pair { client, server, listener, port } = Pair::new();
    drop(listener);
    let agent = start();
    send(&client, &server, 1234);
    send(&server, &client, 56);
    let page = agent.scrape();
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.sent, of_client.received, of_client.active), (1234, 56, 1));
    assert_eq!((of_server.sent, of_server.received, of_server.active), (56, 1234, 1));
    assert_eq!(page.about(client.local_addr().unwrap().port()), "", "a source port is never a label");
    agent.stop();
}

/// What `ss` says about the payload a socket has sent, each byte once; for a socket that no process holds.
fn sent_according_to_ss(port: u16) -> Option<u64> {
    let text = common::run(Command::new("ss").args(["-tinHO", "dport", "=", &format!(":{port}")])).unwrap();
    let number = |key: &str| text.split(' ').find_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
    Some(number("bytes_sent:")? - number("bytes_retrans:").unwrap_or_default())
}

#[test]
fn a_connection_no_process_holds_any_more_is_counted_to_its_end() {
    need_root!();
    if common::program("ss").is_none() {
        skip!("ss is not installed");
    }
    let Pair { client, server, port, listener } = Pair::new();
    client.set_nonblocking(true).unwrap();
    let mut written = 0;
    loop {
        match (&client).write(&[5; 10_000]) {
            Ok(length) => written += length as u64,
            Err(_) if info(&client).bytes_sent < written => break,
            Err(_) => moment(),
        }
    }
    drop(client);
    // The kernel tries the full window once more after 200 ms; then it only repeats that.
    std::thread::sleep(Duration::from_secs(1));
    let Some(sent) = sent_according_to_ss(port) else {
        skip!("ss gets no details from this kernel (module tcp_diag)");
    };
    let received = info(&server).bytes_received;
    let agent = start();
    assert_eq!(Some(sent), sent_according_to_ss(port), "of {written}, {received} received");
    assert!(sent < written, "something is still to be sent");
    let (of_client, of_server) = agent.scrape().both(port);
    assert_eq!((of_client.active, of_server.active), (1, 1), "{of_client:?} {of_server:?}");
    assert_eq!(net::receive_all(&server) as u64, written);
    drop((server, listener));
    let (of_client, of_server) = agent.when_ended(port, 1).both(port);
    assert_eq!(of_server.received, written - received);
    assert_eq!(of_client.sent, written - sent);
    assert_eq!((of_client.closed("normal"), of_server.closed("normal")), (1, 1));
    agent.stop();
}

#[test]
fn a_connect_under_way_when_the_agent_starts_is_not_taken_for_a_connection() {
    need_root!();
    let (_listener, address, _filling) = net::full_listener();
    let attempt = TcpStream::from(net::socket(libc::AF_INET));
    attempt.set_nonblocking(true).unwrap();
    assert_eq!(net::connect(&attempt, address), Err(libc::EINPROGRESS));
    let agent = start();
    let port = address.port();
    let (of_client, _) = agent.scrape().both(port);
    assert_eq!((of_client.active, of_client.opened), (2, 0), "those that fill the queue");
    drop(attempt);
    let (of_client, _) = agent.when(port, "failed", |page| page.both(port).0.failed.len() == 1).both(port);
    assert_eq!((of_client.active, of_client.failed("cancelled")), (2, 1));
    agent.stop();
}
