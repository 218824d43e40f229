//! What the agent counts for a connection is what the kernel counts for it and what the test has moved: equal, not close.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use common::{
    Netns, Pair,
    net::{self, accept_from, acknowledged, info, receive, receive_all, send, traffic, truth},
};

#[test]
fn bytes_and_packets_of_both_sides_equal_what_was_moved_and_what_the_kernel_counted() {
    let agent = shared!();
    let pair = Pair::new();
    let port = pair.port;
    pair.exchange(10_000_000, 1_234_567);
    let (page, client, server) = pair.at_rest(agent);
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.sent, of_client.received), (10_000_000, 1_234_567));
    assert_eq!((of_server.sent, of_server.received), (1_234_567, 10_000_000));
    assert_eq!(traffic(&of_client), truth(&client, 0));
    assert_eq!(traffic(&of_server), truth(&server, 0));
    assert_eq!((of_client.opened, of_client.active, of_client.ended()), (1, 1, 0));
    assert_eq!((of_server.opened, of_server.active, of_server.ended()), (1, 1, 0));

    let (client, server) = pair.finish();
    let (of_client, of_server) = agent.when_ended(port, 1).both(port);
    assert_eq!(traffic(&of_client), truth(&client, 1), "a FIN is no byte");
    assert_eq!(traffic(&of_server), truth(&server, 1), "a FIN is no byte");
    assert_eq!((of_client.sent, of_client.received), (10_000_000, 1_234_567));
    assert_eq!((of_client.opened, of_client.active, of_client.closed("normal")), (1, 0, 1));
    assert_eq!((of_server.opened, of_server.active, of_server.closed("normal")), (1, 0, 1));
}

#[test]
fn an_open_connection_is_counted_as_it_goes() {
    let agent = shared!();
    let pair = Pair::new();
    let mut moved = 0;
    for step in 1..=4u64 {
        pair.exchange(step as usize * 1000, 10);
        moved += step * 1000;
        let (page, client, server) = pair.at_rest(agent);
        let (of_client, of_server) = page.both(pair.port);
        assert_eq!((of_client.sent, of_client.received), (moved, step * 10));
        assert_eq!((of_server.sent, of_server.received), (step * 10, moved));
        assert_eq!(traffic(&of_client), truth(&client, 0));
        assert_eq!(traffic(&of_server), truth(&server, 0));
        assert_eq!((of_client.active, of_client.ended(), of_client.opened), (1, 0, 1));
    }
    let (page, ..) = pair.at_rest(agent);
    assert_eq!(page.both(pair.port).0.sent, moved, "an idle connection adds nothing");
}

#[test]
fn a_connection_without_a_byte_counts_its_packets_and_no_bytes() {
    let agent = shared!();
    let pair = Pair::new();
    let port = pair.port;
    let (client, server) = pair.finish();
    let (of_client, of_server) = agent.when_ended(port, 1).both(port);
    assert_eq!((of_client.sent, of_client.received, of_server.sent, of_server.received), (0, 0, 0, 0));
    assert_eq!(traffic(&of_client), truth(&client, 1));
    assert_eq!(traffic(&of_server), truth(&server, 1));
}

#[test]
fn a_half_closed_connection_goes_on_counting() {
    let agent = shared!();
    let pair = Pair::new();
    let port = pair.port;
    send(&pair.client, &pair.server, 500);
    pair.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&pair.server).read(&mut [0]).unwrap(), 0);
    send(&pair.server, &pair.client, 70_000);
    let (page, client, server) = pair.at_rest(agent);
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.sent, of_client.received), (500, 70_000));
    assert_eq!((of_server.sent, of_server.received), (70_000, 500), "a FIN is no byte");
    assert_eq!(traffic(&of_client), truth(&client, 0));
    assert_eq!(traffic(&of_server), truth(&server, 1));
    assert_eq!((of_client.active, of_server.active, of_client.ended(), of_server.ended()), (1, 1, 0, 0));
    send(&pair.server, &pair.client, 1);
    drop(pair);
    let (of_client, of_server) = agent.when_ended(port, 1).both(port);
    assert_eq!((of_client.sent, of_client.received), (500, 70_001));
    assert_eq!((of_server.sent, of_server.received), (70_001, 500));
    assert_eq!((of_client.closed("normal"), of_server.closed("normal")), (1, 1));
}

#[test]
fn data_that_nobody_read_has_been_received_all_the_same() {
    let agent = shared!();
    let pair = Pair::new();
    (&pair.client).write_all(&[7; 3000]).unwrap();
    acknowledged(&pair.client);
    let (page, ..) = pair.at_rest(agent);
    let (of_client, of_server) = page.both(pair.port);
    assert_eq!((of_client.sent, of_server.received), (3000, 3000));
}

#[test]
fn ipv6_connections_are_counted_under_ipv6_addresses() {
    let agent = shared!();
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        skip!("no IPv6 here");
    }
    let pair = Pair::over(Ipv6Addr::LOCALHOST.into());
    pair.exchange(4321, 1234);
    let (page, client, server) = pair.at_rest(agent);
    let (of_client, of_server) = page.both(pair.port);
    assert_eq!((of_client.sent, of_client.received), (4321, 1234));
    assert_eq!(traffic(&of_client), truth(&client, 0));
    assert_eq!(traffic(&of_server), truth(&server, 0));
    for role in ["client", "server"] {
        assert_eq!(page.values("src_ip", pair.port, role), ["::1"]);
        assert_eq!(page.values("dst_ip", pair.port, role), ["::1"]);
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_shown_with_ipv4_addresses_on_both_sides() {
    let agent = shared!();
    let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) else { skip!("no IPv6 here") };
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let server = accept_from(&listener, &client);
    assert!(server.peer_addr().unwrap().is_ipv6(), "the kernel did not map it");
    send(&client, &server, 777);
    let page = agent.scrape();
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.sent, of_server.received), (777, 777));
    for role in ["client", "server"] {
        assert_eq!(page.values("src_ip", port, role), ["127.0.0.1"], "{role}");
        assert_eq!(page.values("dst_ip", port, role), ["127.0.0.1"], "{role}");
    }
}

#[test]
fn ipv6_link_local_connections_are_counted() {
    let agent = shared!();
    let (here, there) = match (Netns::new(), Netns::new()) {
        (Ok(here), Ok(there)) => (here, there),
        (Err(error), _) | (_, Err(error)) => skip!("{error}"),
    };
    if let Err(error) = here.join(&there) {
        skip!("{error}");
    }
    // Without this the address cannot be used for the second that duplicate address detection takes.
    for (namespace, link, address) in [(&here, "cable0", "fe80::1"), (&there, "cable1", "fe80::2")] {
        if let Err(error) = namespace.tool(&format!("ip address add {address}/64 dev {link} nodad")) {
            skip!("{error}");
        }
    }
    let index: u32 =
        there.tool("ip -o link show cable1").unwrap().split(':').next().unwrap().parse().unwrap();
    let own: u32 = here.tool("ip -o link show cable0").unwrap().split(':').next().unwrap().parse().unwrap();
    let at = |scope| SocketAddr::V6(std::net::SocketAddrV6::new("fe80::2".parse().unwrap(), 0, 0, scope));
    let listener = there.run(|| TcpListener::bind(at(index)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let mut to = at(own);
    to.set_port(port);
    let client = here.run(|| TcpStream::connect(to).unwrap());
    let server = accept_from(&listener, &client);
    send(&client, &server, 999);
    let page = agent.scrape();
    assert_eq!((page.both(port).0.sent, page.both(port).1.received), (999, 999));
    for role in ["client", "server"] {
        let source = page.values("src_ip", port, role);
        assert!(source.len() == 1 && source[0].starts_with("fe80::"), "{role}: {source:?}");
        assert_eq!(page.values("dst_ip", port, role), ["fe80::2"], "{role}");
    }
}

#[test]
fn sockets_of_another_network_namespace_are_counted() {
    let agent = shared!();
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    let pair = namespace.run(Pair::new);
    pair.exchange(5555, 66);
    let (page, client, server) = pair.at_rest(agent);
    let (of_client, of_server) = page.both(pair.port);
    assert_eq!((of_client.sent, of_client.received), (5555, 66));
    assert_eq!(traffic(&of_client), truth(&client, 0));
    assert_eq!(traffic(&of_server), truth(&server, 0));
    let port = pair.port;
    let (client, server) = pair.finish();
    let (of_client, of_server) = agent.when_ended(port, 1).both(port);
    assert_eq!(traffic(&of_client), truth(&client, 1));
    assert_eq!(traffic(&of_server), truth(&server, 1));
}

#[test]
fn lost_packets_are_counted_as_retransmits_and_their_bytes_once() {
    let agent = shared!();
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    let pair = namespace.run(Pair::new);
    let port = pair.port;
    if let Err(error) = namespace.lose(port, 1) {
        skip!("{error}");
    }
    let mut sent = 0;
    // At random: as long as it takes for a dozen to be lost.
    while info(&pair.client).total_retrans < 12 {
        send(&pair.client, &pair.server, 200_000);
        sent += 200_000;
    }
    let (page, client, server) = pair.at_rest(agent);
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.sent, of_server.received), (sent, sent));
    assert!(of_client.retransmits >= 12);
    assert_eq!(traffic(&of_client), truth(&client, 0));
    assert_eq!(traffic(&of_server), truth(&server, 0));
    let (client, server) = pair.finish();
    let (of_client, of_server) = agent.when_ended(port, 1).both(port);
    assert_eq!(traffic(&of_client), truth(&client, 1));
    assert_eq!(traffic(&of_server), truth(&server, 1));
}

#[test]
fn a_server_that_answers_a_thousand_requests_on_one_connection_is_counted_to_the_byte() {
    let agent = shared!();
    let pair = Pair::new();
    for round in 0..1000 {
        send_small(&pair.client, &pair.server, 100 + round % 7);
        send_small(&pair.server, &pair.client, 300 + round % 11);
    }
    let (requests, answers): (u64, u64) =
        ((0..1000).map(|i| 100 + i % 7).sum(), (0..1000).map(|i| 300 + i % 11).sum());
    let (page, client, server) = pair.at_rest(agent);
    let (of_client, of_server) = page.both(pair.port);
    assert_eq!((of_client.sent, of_client.received), (requests, answers));
    assert_eq!(traffic(&of_client), truth(&client, 0));
    assert_eq!(traffic(&of_server), truth(&server, 0));
}

fn send_small(mut from: &TcpStream, to: &TcpStream, length: usize) {
    from.write_all(&vec![1; length]).unwrap();
    receive(to, length);
}

#[test]
fn all_of_a_bulk_transfer_over_several_streams_arrives_on_both_sides() {
    let agent = shared!();
    let each = if common::is_slow() { 10_000_000 } else { 100_000_000 };
    let listener = net::listener();
    let port = listener.local_addr().unwrap().port();
    let streams: Vec<_> = (0..4)
        .map(|_| {
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let server = accept_from(&listener, &client);
            (client, server)
        })
        .collect();
    std::thread::scope(|scope| {
        for (client, server) in &streams {
            scope.spawn(move || send(client, server, each));
        }
    });
    let total = 4 * each as u64;
    let (of_client, of_server) = agent.scrape().both(port);
    assert_eq!((of_client.sent, of_server.received), (total, total));
    drop(streams);
    let (of_client, of_server) = agent.when_ended(port, 4).both(port);
    assert_eq!((of_client.sent, of_server.received), (total, total));
    assert_eq!((of_client.closed("normal"), of_server.closed("normal")), (4, 4));
}

#[test]
fn what_is_not_tcp_is_not_counted() {
    let agent = shared!();
    let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    a.connect(b.local_addr().unwrap()).unwrap();
    let (mut left, mut right) = std::os::unix::net::UnixStream::pair().unwrap();
    for _ in 0..20 {
        a.send(&[1; 100]).unwrap();
        b.recv(&mut [0; 200]).unwrap();
        left.write_all(&[1; 100]).unwrap();
        right.read_exact(&mut [0; 100]).unwrap();
    }
    let page = agent.scrape();
    for socket in [&a, &b] {
        assert_eq!(page.about(socket.local_addr().unwrap().port()), "");
    }
}

#[test]
fn a_client_that_only_listens_to_the_end_of_a_stream_has_all_of_it_counted() {
    let agent = shared!();
    let pair = Pair::new();
    let Pair { client, server, port, .. } = pair;
    let sender = std::thread::spawn(move || {
        (&server).write_all(&vec![9; 3_000_000]).unwrap();
    });
    assert_eq!(receive_all(&client), 3_000_000);
    sender.join().unwrap();
    drop(client);
    let (of_client, of_server) = agent.when_ended(port, 1).both(port);
    assert_eq!((of_client.received, of_server.sent), (3_000_000, 3_000_000));
    assert_eq!((of_client.closed("normal"), of_server.closed("normal")), (1, 1));
}
