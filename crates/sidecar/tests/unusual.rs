//! Ways to connect that are rare and that probes get wrong: a socket connected to itself, data in the first packet, SYN
//! cookies, several listeners on one port, an agent that was held up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use common::{
    Agent, Netns, Pair,
    net::{self, accept_from, closed_port, info, receive, send, traffic, truth},
};

#[test]
fn a_socket_connected_to_itself_is_counted_once() {
    let agent = shared!();
    let own = closed_port();
    let socket = net::socket(libc::AF_INET);
    net::bind(&socket, own).unwrap();
    net::connect(&socket, own).unwrap();
    let stream = TcpStream::from(socket);
    (&stream).write_all(&[1; 640]).unwrap();
    receive(&stream, 640);
    net::moment();
    let (of_client, of_server) = agent.scrape().both(own.port());
    let all = [&of_client, &of_server];
    let sum = |count: fn(&common::Side) -> u64| all.iter().map(|side| count(side)).sum::<u64>();
    assert_eq!((sum(|side| side.opened), sum(|side| side.active)), (1, 1), "{all:?}");
    assert_eq!((sum(|side| side.sent), sum(|side| side.received)), (640, 640), "{all:?}");
    let counted = if of_client.opened == 1 { &of_client } else { &of_server };
    assert_eq!(traffic(counted), truth(&info(&stream), 0));
    drop(stream);
    let page = agent.when(own.port(), "ended", |page| {
        let (of_client, of_server) = page.both(own.port());
        of_client.ended() + of_server.ended() == 1
    });
    let (of_client, of_server) = page.both(own.port());
    assert_eq!((of_client.active, of_server.active), (0, 0));
    assert_eq!(of_client.closed("normal") + of_server.closed("normal"), 1);
}

#[test]
fn data_in_the_first_packet_is_counted_on_both_sides() {
    let agent = shared!();
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    // Client and server (1, 2), without cookies (4, 0x200), for every listener (0x400).
    let enabled = namespace.run(|| fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1543"));
    if let Err(error) = enabled {
        skip!("TCP fast open cannot be switched on: {error}");
    }
    let listener = namespace.run(net::listener);
    net::set(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16);
    let (address, port) = (listener.local_addr().unwrap(), listener.local_addr().unwrap().port());
    let mut pairs = Vec::new();
    for _ in 0..3 {
        let client = TcpStream::from(namespace.run(|| net::socket(libc::AF_INET)));
        assert_eq!(net::send_first(&client, address, &[1; 333]), Ok(333));
        let server = accept_from(&listener, &client);
        receive(&server, 333);
        send(&server, &client, 20);
        pairs.push((client, server));
    }
    // `TCPI_OPT_SYN_DATA`: the SYN's data was acknowledged with it.
    assert!(pairs.iter().all(|(client, _)| info(client).options() & 32 != 0), "no data went with the SYN");
    net::moment();
    let (of_client, of_server) = agent.scrape().both(port);
    assert_eq!((of_client.opened, of_client.active, of_server.opened, of_server.active), (3, 3, 3, 3));
    assert_eq!((of_client.sent, of_client.received), (999, 60));
    assert_eq!((of_server.sent, of_server.received), (60, 999));
    for (client, server) in pairs {
        drop(client);
        assert_eq!((&server).read(&mut [0]).unwrap(), 0);
    }
    let (of_client, of_server) = agent.when_ended(port, 3).both(port);
    assert_eq!((of_client.sent, of_client.received, of_client.closed("normal")), (999, 60, 3));
    assert_eq!((of_server.sent, of_server.received, of_server.closed("normal")), (60, 999, 3));
}

#[test]
fn connections_made_with_syn_cookies_are_counted() {
    let agent = shared!();
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    // Always, not only in need.
    if let Err(error) = namespace.run(|| fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")) {
        skip!("SYN cookies cannot be switched on: {error}");
    }
    let pair = namespace.run(Pair::new);
    let received = namespace.run(|| common::kernel_counter("TcpExt", "SyncookiesRecv"));
    assert_eq!(received, 1, "no cookie was used");
    pair.exchange(2468, 1357);
    let (page, client, server) = pair.at_rest(agent);
    let (of_client, of_server) = page.both(pair.port);
    assert_eq!((of_server.sent, of_server.received, of_server.opened), (1357, 2468, 1));
    assert_eq!(traffic(&of_client), truth(&client, 0));
    assert_eq!(traffic(&of_server), truth(&server, 0));
}

#[test]
fn a_port_with_several_listeners_is_known_until_the_last_has_gone() {
    let agent = shared!();
    let make = |port: u16| {
        let socket = net::socket(libc::AF_INET);
        net::set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
        net::bind(&socket, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
        net::listen(&socket, 64).unwrap();
        TcpListener::from(socket)
    };
    let mut listeners = vec![make(0)];
    let port = listeners[0].local_addr().unwrap().port();
    listeners.extend((0..3).map(|_| make(port)));
    let mut connected = 0;
    while !listeners.is_empty() {
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        for _ in 0..5 {
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut accepted = None;
            common::eventually("accepted", || {
                accepted = listeners.iter().find_map(|listener| listener.accept().ok());
                accepted.is_some()
            });
            let (server, _) = accepted.unwrap();
            server.set_nonblocking(false).unwrap();
            send(&client, &server, 10);
            connected += 1;
        }
        let page = agent.scrape();
        let (of_client, of_server) = page.both(port);
        assert_eq!(
            (of_client.opened, of_server.opened, of_server.received),
            (connected, connected, connected * 10)
        );
        assert_eq!(page.values("comm", port, "server"), [common::own_comm()]);
        listeners.pop();
    }
}

#[test]
fn an_agent_that_was_held_up_has_lost_nothing() {
    // More records than the ring holds: they wait elsewhere.
    const COUNT: u64 = 3000;
    need_root!();
    let agent = Agent::start(&["--interval", "1"]);
    let listener = net::listener();
    let (address, port) = (listener.local_addr().unwrap(), listener.local_addr().unwrap().port());
    agent.signal(libc::SIGSTOP);
    for _ in 0..COUNT {
        let client = TcpStream::connect(address).unwrap();
        let server = accept_from(&listener, &client);
        send_one_way(&client, &server);
    }
    agent.signal(libc::SIGCONT);
    let page = agent.when_ended(port, COUNT);
    let sides = page.both(port);
    let missed = page.left_out(&sides, COUNT);
    if missed > 0 {
        skip!("the kernel left out {missed} runs of the program, as the agent says");
    }
    let (of_client, of_server) = sides;
    assert_eq!((of_client.opened, of_client.closed("normal"), of_client.active), (COUNT, COUNT, 0));
    assert_eq!((of_server.opened, of_server.closed("normal"), of_server.active), (COUNT, COUNT, 0));
    assert_eq!((of_client.sent, of_server.received), (20 * COUNT, 20 * COUNT));
    let lost = |reason: &str| page.count("sidecar_lost_total", &[("reason", reason)]);
    assert!(page.count("sidecar_spilled_total", &[]) > 0, "the ring was large enough for all");
    assert_eq!((lost("record"), lost("map_full")), (0, 0));
    agent.stop();
}

fn send_one_way(mut client: &TcpStream, server: &TcpStream) {
    client.write_all(&[1; 20]).unwrap();
    receive(server, 20);
}

#[test]
fn a_connection_handed_to_a_duplicate_descriptor_lives_until_both_are_closed() {
    let agent = shared!();
    let Pair { client, server, port, .. } = Pair::new();
    let copy = client.try_clone().unwrap();
    assert_ne!(copy.as_raw_fd(), client.as_raw_fd());
    drop(client);
    send(&copy, &server, 10);
    let (of_client, _) = agent.scrape().both(port);
    assert_eq!((of_client.sent, of_client.active, of_client.ended()), (10, 1, 0));
    drop((copy, server));
    let (of_client, of_server) = agent.when_ended(port, 1).both(port);
    assert_eq!((of_client.active, of_server.active, of_client.opened), (0, 0, 1));
}
