//! How connections end and attempts fail: each way produced by real sockets, and told apart by the agent.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use common::{
    Agent, Netns, Pair, Side,
    child::{Child, tell},
    kernel_counter,
    net::{
        self, accept_from, acknowledged, closed_port, full_listener, info, linger_zero, moment, receive,
        send, traffic, truth,
    },
};

/// What both sides say once one connection to `port` has ended on both.
fn ended(agent: &Agent, port: u16) -> (Side, Side) {
    let sides = agent.when_ended(port, 1).both(port);
    for side in [&sides.0, &sides.1] {
        assert_eq!((side.opened, side.active, side.ended()), (1, 0, 1), "{sides:?}");
    }
    sides
}

fn reasons(sides: &(Side, Side)) -> (String, String) {
    let one = |side: &Side| side.closed.keys().cloned().collect::<Vec<_>>().join(",");
    (one(&sides.0), one(&sides.1))
}

/// What the client says of an attempt at `port` that failed.
fn failed(agent: &Agent, port: u16) -> Side {
    let page = agent.when(port, "failed", |page| !page.both(port).0.failed.is_empty());
    let (client, server) = page.both(port);
    assert_eq!((client.opened, client.active, client.ended()), (0, 0, 0), "{client:?}");
    assert_eq!(server, Side::default(), "nobody accepted it");
    client
}

fn only(reason: &str) -> std::collections::BTreeMap<String, u64> {
    [(reason.to_owned(), 1)].into()
}

#[test]
fn a_connection_the_client_closes_first_ended_normally_on_both_sides() {
    let agent = shared!();
    let Pair { client, server, port, .. } = Pair::new();
    drop(client);
    assert_eq!((&server).read(&mut [0]).unwrap(), 0);
    drop(server);
    assert_eq!(reasons(&ended(agent, port)), ("normal".into(), "normal".into()));
}

#[test]
fn a_connection_the_server_closes_first_ended_normally_on_both_sides() {
    let agent = shared!();
    let Pair { client, server, port, .. } = Pair::new();
    drop(server);
    assert_eq!((&client).read(&mut [0]).unwrap(), 0);
    drop(client);
    assert_eq!(reasons(&ended(agent, port)), ("normal".into(), "normal".into()));
}

#[test]
fn connections_both_sides_close_at_once_ended_normally() {
    let agent = shared!();
    let ports: Vec<u16> = (0..20)
        .map(|_| {
            let Pair { client, server, port, .. } = Pair::new();
            let barrier = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for socket in [&client, &server] {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        socket.shutdown(Shutdown::Write).unwrap();
                    });
                }
            });
            port
        })
        .collect();
    let over = |side: &Side| side.ended() == 1;
    let page = agent.when(ports[0], "all ended", |page| {
        ports.iter().map(|port| page.both(*port)).all(|sides| over(&sides.0) && over(&sides.1))
    });
    for port in ports {
        assert_eq!(reasons(&page.both(port)), ("normal".into(), "normal".into()));
    }
}

#[test]
fn a_reset_the_owner_asks_for_is_local_on_one_side_and_by_the_peer_on_the_other() {
    let agent = shared!();
    let Pair { client, server, port, .. } = Pair::new();
    send(&client, &server, 100);
    linger_zero(&client);
    drop(client);
    assert!((&server).read(&mut [0]).is_err());
    let sides = ended(agent, port);
    assert_eq!(reasons(&sides), ("reset_locally".into(), "reset_by_peer".into()));
    assert_eq!((sides.0.sent, sides.1.received), (100, 100));
    assert_eq!(traffic(&sides.1), truth(&info(&server), 0));
}

#[test]
fn closing_with_unread_data_is_a_local_reset() {
    let agent = shared!();
    let Pair { client, server, port, .. } = Pair::new();
    (&client).write_all(&[1; 5000]).unwrap();
    acknowledged(&client);
    drop(server);
    moment();
    let sides = ended(agent, port);
    assert_eq!(reasons(&sides), ("reset_by_peer".into(), "reset_locally".into()));
    assert_eq!((sides.0.sent, sides.1.received), (5000, 5000));
    assert_eq!(traffic(&sides.0), truth(&info(&client), 0));
}

#[test]
fn closing_with_unread_data_after_the_peers_fin_is_a_local_reset() {
    let agent = shared!();
    let Pair { client, server, port, .. } = Pair::new();
    (&client).write_all(&[1; 10]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    moment();
    drop(server);
    let sides = ended(agent, port);
    assert_eq!(reasons(&sides), ("reset_by_peer".into(), "reset_locally".into()));
    assert_eq!((sides.0.sent, sides.1.received), (10, 10));
    drop(client);
}

#[test]
fn a_reset_while_waiting_for_the_peers_fin_is_by_the_peer() {
    let agent = shared!();
    let Pair { client, server, port, .. } = Pair::new();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&server).read(&mut [0]).unwrap(), 0);
    linger_zero(&server);
    drop(server);
    assert_eq!(reasons(&ended(agent, port)), ("reset_by_peer".into(), "reset_locally".into()));
    drop(client);
}

#[test]
fn connections_nobody_accepted_are_reset_when_the_listener_closes() {
    let agent = shared!();
    let listener = net::listener();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    (&client).write_all(&[1; 42]).unwrap();
    acknowledged(&client);
    drop(listener);
    let sides = ended(agent, port);
    assert_eq!(reasons(&sides), ("reset_by_peer".into(), "reset_locally".into()));
    assert_eq!((sides.0.sent, sides.1.received), (42, 42));
}

#[test]
fn a_connection_whose_owner_has_left_ends_without_waiting_for_the_peer() {
    let agent = shared!();
    let Pair { client, server, port, .. } = Pair::new();
    // What the kernel does after `tcp_fin_timeout` anyway.
    net::set(&client, libc::IPPROTO_TCP, libc::TCP_LINGER2, 1);
    drop(client);
    let page = agent.when(port, "client ended", |page| page.both(port).0.ended() == 1);
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.active, of_client.closed("normal")), (0, 1));
    assert_eq!((of_server.active, of_server.ended()), (1, 0), "its peer is still there");
    std::thread::sleep(Duration::from_millis(1500));
    let _ = (&server).write(&[1]);
    assert_eq!(reasons(&ended(agent, port)), ("normal".into(), "reset_by_peer".into()));
}

#[test]
fn a_server_killed_in_the_middle_of_a_transfer_leaves_exact_counts() {
    let agent = shared!();
    let listener = net::listener();
    let port = listener.local_addr().unwrap().port();
    let mut server = Child::fork("killed-server", &[&listener], |line| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
        tell(line, 1);
        loop {
            std::thread::park();
        }
    });
    drop(listener);
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(&vec![1; 50_000]).unwrap();
    server.hear();
    acknowledged(&client);
    server.kill();
    let sides = ended(agent, port);
    assert_eq!(reasons(&sides), ("reset_by_peer".into(), "reset_locally".into()));
    assert_eq!((sides.0.sent, sides.1.received), (50_000, 50_000));
    assert_eq!(traffic(&sides.0), truth(&info(&client), 0));
}

#[test]
fn a_sender_killed_in_the_middle_of_a_transfer_still_delivers_what_the_kernel_took() {
    let agent = shared!();
    let listener = net::listener();
    let port = listener.local_addr().unwrap().port();
    let mut server = Child::fork("killed-sender", &[&listener], |line| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&vec![1; 400_000]).unwrap();
        tell(line, 1);
        let _ = stream.write_all(&vec![1; 100_000_000]);
    });
    drop(listener);
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    receive(&client, 400_000);
    server.hear();
    server.kill();
    let rest = net::receive_all(&client) as u64;
    drop(client);
    let sides = ended(agent, port);
    assert_eq!(reasons(&sides), ("normal".into(), "normal".into()));
    assert_eq!((sides.0.received, sides.1.sent), (400_000 + rest, 400_000 + rest));
}

#[test]
fn a_socket_used_for_one_connection_after_another_counts_both() {
    let agent = shared!();
    let listener = net::listener();
    let (address, port) = (listener.local_addr().unwrap(), listener.local_addr().unwrap().port());
    let client = TcpStream::from(net::socket(libc::AF_INET));
    for (round, length) in [(1u64, 1111), (2, 222), (3, 33)] {
        net::connect(&client, address).unwrap();
        let server = accept_from(&listener, &client);
        send(&client, &server, length);
        if round < 3 {
            net::disconnect(&client).unwrap();
            assert!((&server).read(&mut [0]).is_err(), "a disconnect is a reset");
        }
        let (of_client, _) = agent.scrape().both(port);
        assert_eq!(of_client.opened, round);
    }
    drop(client);
    let (of_client, of_server) = agent.when_ended(port, 3).both(port);
    assert_eq!((of_client.sent, of_server.received), (1366, 1366));
    assert_eq!((of_client.opened, of_server.opened, of_client.active, of_server.active), (3, 3, 0, 0));
    assert_eq!((of_client.closed("reset_locally"), of_server.closed("reset_by_peer")), (2, 2));
}

#[test]
fn a_refused_connect_failed_as_refused() {
    let agent = shared!();
    let address = closed_port();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let client = failed(agent, address.port());
    assert_eq!(client.failed, only("refused"));
    assert_eq!((client.packets_sent, client.packets_received), (1, 1), "a SYN out, a RST in");
}

#[test]
fn a_connect_nobody_answers_failed_by_timeout() {
    let agent = shared!();
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    let (_listener, address, filling) = namespace.run(full_listener);
    let attempt = namespace.run(|| net::socket(libc::AF_INET));
    // One SYN and one more, or a few on kernels that begin with a fixed pace: seconds.
    net::set(&attempt, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 1);
    assert_eq!(net::connect(&attempt, address), Err(libc::ETIMEDOUT));
    let port = address.port();
    let page = agent.when(port, "failed", |page| !page.both(port).0.failed.is_empty());
    let client = page.both(port).0;
    assert_eq!(client.failed, only("timeout"));
    assert_eq!(client.opened, filling.len() as u64);
    let again = namespace.run(|| kernel_counter("TcpExt", "TCPSynRetrans"));
    assert!(again > 0);
    assert_eq!(client.retransmits, again, "SYNs sent again");
}

#[test]
fn a_connect_given_up_by_the_program_failed_as_cancelled() {
    let agent = shared!();
    let (_listener, address, _filling) = full_listener();
    let attempt = net::socket(libc::AF_INET);
    net::set(&attempt, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 6);
    let stream = TcpStream::from(attempt);
    stream.set_nonblocking(true).unwrap();
    assert_eq!(net::connect(&stream, address), Err(libc::EINPROGRESS));
    moment();
    drop(stream);
    let page = agent.when(address.port(), "failed", |page| !page.both(address.port()).0.failed.is_empty());
    assert_eq!(page.both(address.port()).0.failed, only("cancelled"));
}

#[test]
fn a_connect_that_cannot_get_a_port_failed_before_anything_was_sent() {
    let agent = shared!();
    let listener = net::listener();
    let (address, port) = (listener.local_addr().unwrap(), listener.local_addr().unwrap().port());
    let sockets: Vec<OwnedFd> = (0..2).map(|_| net::socket(libc::AF_INET)).collect();
    let mut own = closed_port();
    for socket in &sockets {
        net::set(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
        net::bind(socket, own).unwrap();
    }
    own.set_port(port);
    net::connect(&sockets[0], address).unwrap();
    assert_eq!(net::connect(&sockets[1], address), Err(libc::EADDRNOTAVAIL), "the same four numbers twice");
    let page = agent.when(port, "failed", |page| !page.both(port).0.failed.is_empty());
    let (of_client, of_server) = page.both(port);
    assert_eq!(of_client.failed, only("not_sent"));
    assert_eq!((of_client.opened, of_client.active, of_server.opened), (1, 1, 1));
}

#[test]
fn a_connect_the_network_refuses_failed_as_unreachable() {
    let agent = shared!();
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    let address = closed_port();
    if let Err(error) =
        namespace.filter(&format!("tcp dport {} reject with icmp type host-unreachable", address.port()))
    {
        skip!("{error}");
    }
    let error = namespace.run(|| TcpStream::connect(address).unwrap_err());
    assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
    assert_eq!(failed(agent, address.port()).failed, only("unreachable"));
}

#[test]
fn a_connect_to_a_host_that_is_not_there_failed_as_unreachable() {
    let agent = shared!();
    let (here, there) = match (Netns::new(), Netns::new()) {
        (Ok(here), Ok(there)) => (here, there),
        (Err(error), _) | (_, Err(error)) => skip!("{error}"),
    };
    if let Err(error) = here.join(&there) {
        skip!("{error}");
    }
    let port = closed_port().port();
    // Nobody answers the ARP request: three seconds.
    let error = here.run(|| TcpStream::connect(("10.9.8.77", port)).unwrap_err());
    assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
    assert_eq!(failed(agent, port).failed, only("unreachable"));
}

#[test]
fn a_connection_whose_peer_falls_silent_ended_by_timeout() {
    let agent = shared!();
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    let pair = namespace.run(Pair::new);
    let port = pair.port;
    pair.exchange(100, 100);
    if let Err(error) = namespace.cut(port) {
        skip!("{error}");
    }
    net::set(&pair.client, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 300);
    (&pair.client).write_all(&[1; 10]).unwrap();
    let page = agent.when(port, "client ended", |page| page.both(port).0.ended() == 1);
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.closed, of_client.active), (only("timeout"), 0));
    assert_eq!(of_client.sent, 110, "sent, if in vain");
    assert_eq!((of_server.received, of_server.active), (100, 1));
    assert_eq!(traffic(&page.both(port).0), truth(&info(&pair.client), 0));
}

#[test]
fn an_attempt_at_a_port_of_another_address_is_not_mixed_up_with_a_connection() {
    let agent = shared!();
    let pair = Pair::new();
    let elsewhere = SocketAddr::from(([127, 0, 0, 9], pair.port));
    assert!(TcpStream::connect(elsewhere).is_err());
    let page = agent.when(pair.port, "failed", |page| !page.both(pair.port).0.failed.is_empty());
    let port = pair.port.to_string();
    let at = |address| page.side(&[("dst_port", &port), ("dst_ip", address), ("role", "client")]);
    assert_eq!((at("127.0.0.9").failed("refused"), at("127.0.0.9").opened), (1, 0));
    assert_eq!((at("127.0.0.1").failed("refused"), at("127.0.0.1").opened), (0, 1));
}
