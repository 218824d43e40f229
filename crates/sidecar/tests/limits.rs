//! Many connections, and more than there is room for: what is counted stays exact, what cannot be is counted as lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use common::{
    Agent, Netns, Page, Pair,
    net::{self, full_listener},
};

/// As many descriptors as the kernel lets us have.
fn many_descriptors(needed: u64) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: valid structs.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_max = limit.rlim_max.max(needed);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
    }
    limit.rlim_cur >= needed
}

#[test]
fn two_thousand_connections_at_once_are_all_active_and_exact_then_gone() {
    const COUNT: usize = 2000;
    need_root!();
    if std::env::var_os("SIDECAR_TEST_VM").is_some() {
        skip!(
            "emulated processors stop inside programs, and the kernel then leaves out what interrupts bring"
        );
    }
    if !many_descriptors(2 * COUNT as u64 + 200) {
        skip!("not enough descriptors allowed");
    }
    let agent = Agent::start(&["--interval", "1"]);
    let listener = net::listener();
    let (address, port) = (listener.local_addr().unwrap(), listener.local_addr().unwrap().port());
    let accepting =
        thread::spawn(move || (0..COUNT).map(|_| listener.accept().unwrap().0).collect::<Vec<TcpStream>>());
    let clients: Vec<TcpStream> = (0..COUNT).map(|_| TcpStream::connect(address).unwrap()).collect();
    let servers = accepting.join().unwrap();
    let page = agent.scrape();
    let sides = page.both(port);
    let missed = page.left_out(&sides, 2000);
    if missed > 0 {
        skip!("the kernel left out {missed} runs of the program, as the agent says");
    }
    for side in [&sides.0, &sides.1] {
        assert_eq!((side.active, side.opened, side.ended()), (2000, 2000, 0), "{sides:?}\n{}", page.losses());
    }

    // Each sends another number of bytes, so that one counted for another would show.
    for (number, mut client) in clients.iter().enumerate() {
        client.write_all(&vec![1; 1 + number]).unwrap();
    }
    let mut expected = HashMap::new();
    for (number, client) in clients.iter().enumerate() {
        expected.insert(client.local_addr().unwrap().port(), 1 + number);
    }
    for server in &servers {
        net::receive(server, expected[&server.peer_addr().unwrap().port()]);
    }
    let total = (1..=COUNT as u64).sum::<u64>();
    let (of_client, of_server) = agent.scrape().both(port);
    assert_eq!((of_client.sent, of_server.received), (total, total));
    assert_eq!((of_client.active, of_server.active), (2000, 2000));

    drop(clients);
    drop(servers);
    let page = agent.when_ended(port, 2000);
    let sides = page.both(port);
    let missed = page.left_out(&sides, 2000);
    if missed > 0 {
        skip!("the kernel left out {missed} runs of the program, as the agent says");
    }
    for side in [&sides.0, &sides.1] {
        let counts = (side.active, side.opened, side.closed("normal"));
        assert_eq!(counts, (0, 2000, 2000), "{sides:?}\n{}", page.losses());
    }
    let (of_client, of_server) = sides;
    assert_eq!((of_client.sent, of_server.received), (total, total));
    for reason in ["record", "map_full"] {
        assert_eq!(page.count("sidecar_lost_total", &[("reason", reason)]), 0, "{}", page.losses());
    }
    agent.stop();
}

#[test]
fn five_thousand_short_connections_in_a_burst_are_all_counted_with_all_they_moved() {
    const COUNT: u64 = 5000;
    need_root!();
    if std::env::var_os("SIDECAR_TEST_VM").is_some() {
        skip!(
            "emulated processors stop inside programs, and the kernel then leaves out what interrupts bring"
        );
    }
    let agent = Agent::start(&["--interval", "3600"]);
    let listener = net::listener();
    let (address, port) = (listener.local_addr().unwrap(), listener.local_addr().unwrap().port());
    let serving = thread::spawn(move || {
        for _ in 0..COUNT {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 20]).unwrap();
            stream.write_all(&[1; 30]).unwrap();
        }
    });
    for _ in 0..COUNT {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&[1; 20]).unwrap();
        stream.read_exact(&mut [0; 30]).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    serving.join().unwrap();
    let page = agent.when_ended(port, COUNT);
    let sides = page.both(port);
    let missed = page.left_out(&sides, COUNT);
    if missed > 0 {
        skip!("the kernel left out {missed} runs of the program, as the agent says");
    }
    for side in [&sides.0, &sides.1] {
        let counts = (side.opened, side.closed("normal"), side.active);
        assert_eq!(counts, (COUNT, COUNT, 0), "{sides:?}\n{}", page.losses());
    }
    let (of_client, of_server) = sides;
    assert_eq!((of_client.sent, of_client.received), (20 * COUNT, 30 * COUNT));
    assert_eq!((of_server.sent, of_server.received), (30 * COUNT, 20 * COUNT));
    for role in ["client", "server"] {
        let labels = [("dst_port", &*port.to_string()), ("role", role)];
        for metric in ["duration", "handshake"] {
            let name = format!("sidecar_connection_{metric}_seconds_count");
            assert_eq!(page.count(&name, &labels), COUNT, "{role} {metric}");
        }
    }
    assert_eq!(page.count("sidecar_lost_total", &[("reason", "record")]), 0);
    agent.stop();
}

#[test]
fn counters_never_go_backwards_and_are_never_ahead_of_the_traffic() {
    need_root!();
    if std::env::var_os("SIDECAR_TEST_VM").is_some() {
        skip!("an emulated machine is too slow to say what was sent at the moment of a page");
    }
    let agent = Agent::start(&["--interval", "1"]);
    let pair = Pair::new();
    let (stop, begun, done) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let listener = net::listener();
    let short = listener.local_addr().unwrap();
    thread::scope(|scope| {
        // One connection that streams, and short ones all the time.
        scope.spawn(|| {
            let chunk = [1; 10_000];
            while !stop.load(SeqCst) {
                begun.fetch_add(chunk.len() as u64, SeqCst);
                (&pair.client).write_all(&chunk).unwrap();
                net::receive(&pair.server, chunk.len());
                done.fetch_add(chunk.len() as u64, SeqCst);
            }
        });
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                let client = TcpStream::connect(short).unwrap();
                let server = net::accept_from(&listener, &client);
                net::send(&client, &server, 100);
            }
        });
        let work = || {
            let mut former: HashMap<String, f64> = HashMap::new();
            for _ in 0..12 {
                let least = done.load(SeqCst);
                let page = agent.scrape();
                let most = begun.load(SeqCst);
                let (of_client, of_server) = page.both(pair.port);
                for bytes in [of_client.sent, of_server.received] {
                    assert!((least..=most).contains(&bytes), "{least} <= {bytes} <= {most}");
                }
                assert_eq!((of_client.active, of_client.opened), (1, 1));
                never_less(&page, &mut former);
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, SeqCst);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    let total = done.load(SeqCst);
    let (page, ..) = pair.at_rest(&agent);
    assert_eq!((page.both(pair.port).0.sent, page.both(pair.port).1.received), (total, total));
    agent.stop();
}

#[test]
fn connections_that_come_and_go_while_the_agent_reads_are_counted_once_each() {
    need_root!();
    if std::env::var_os("SIDECAR_TEST_VM").is_some() {
        skip!(
            "emulated processors stop inside programs, and the kernel then leaves out what interrupts bring"
        );
    }
    let agent = Agent::start(&["--interval", "1"]);
    let stop = AtomicBool::new(false);
    let listener = net::listener();
    let (address, port) = (listener.local_addr().unwrap(), listener.local_addr().unwrap().port());
    // Sockets are made and freed on all processors, so their memory is used again at once.
    let (count, bytes) = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number: u64| {
                let stop = &stop;
                scope.spawn(move || {
                    let (mut count, mut bytes) = (0, 0);
                    while !stop.load(SeqCst) {
                        let mut client = TcpStream::connect(address).unwrap();
                        let length = 1 + (count * 7 + number) % 4000;
                        client.write_all(&vec![1; length as usize]).unwrap();
                        client.shutdown(std::net::Shutdown::Write).unwrap();
                        assert_eq!(client.read(&mut [0]).unwrap(), 0);
                        (count, bytes) = (count + 1, bytes + length);
                    }
                    (count, bytes)
                })
            })
            .collect();
        for _ in 0..2 {
            let (listener, stop) = (listener.try_clone().unwrap(), &stop);
            listener.set_nonblocking(true).unwrap();
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    serve_all(&listener);
                    thread::yield_now();
                }
            });
        }
        for _ in 0..8 {
            agent.scrape();
        }
        stop.store(true, SeqCst);
        while clients.iter().any(|client| !client.is_finished()) {
            serve_all(&listener);
        }
        let sums = clients.into_iter().map(|client| client.join().unwrap());
        sums.fold((0, 0), |(count, bytes), (more, longer)| (count + more, bytes + longer))
    });
    let page = agent.when_ended(port, count);
    let sides = page.both(port);
    let missed = page.left_out(&sides, count);
    if missed > 0 {
        skip!("the kernel left out {missed} runs of the program, as the agent says");
    }
    let (of_client, of_server) = sides;
    assert!(count > 100, "{count} connections are too few to show anything");
    assert_eq!((of_client.opened, of_client.closed("normal"), of_client.active), (count, count, 0));
    assert_eq!((of_server.opened, of_server.closed("normal"), of_server.active), (count, count, 0));
    assert_eq!((of_client.sent, of_server.received), (bytes, bytes));
    assert_eq!((of_client.ended(), of_server.ended()), (count, count));
    agent.stop();
}

/// Accepts what waits at a listener that does not block, and reads each connection to its end.
fn serve_all(listener: &TcpListener) {
    while let Ok((server, _)) = listener.accept() {
        server.set_nonblocking(false).unwrap();
        net::receive_all(&server);
    }
}

/// Everything but gauges only grows, and no row vanishes.
fn never_less(page: &Page, last: &mut HashMap<String, f64>) {
    let mut now = HashMap::new();
    for sample in &page.samples {
        if ["_total", "_bucket", "_count", "_sum"].iter().any(|end| sample.name.ends_with(end)) {
            now.insert(format!("{}{:?}", sample.name, sample.labels), sample.value);
        }
    }
    for (row, before) in last.drain() {
        let after = now.get(&row).unwrap_or_else(|| panic!("{row} has gone"));
        assert!(*after >= before, "{row} went from {before} to {after}");
    }
    *last = now;
}

#[test]
fn label_sets_beyond_the_limit_are_summed_in_one_row_and_counted() {
    need_root!();
    let pairs: Vec<Pair> = (0..6).map(|_| Pair::new()).collect();
    let ports: Vec<String> = pairs.iter().map(|pair| pair.port.to_string()).collect();
    let agent = Agent::start(&["--ports", &ports.join(","), "--max-series", "8"]);
    let mut total = 0;
    for (number, pair) in pairs.iter().enumerate() {
        pair.exchange(1000 * (number + 1), 1);
        total += 1000 * (number as u64 + 1);
    }
    let page = agent.scrape();
    // Six listeners and twelve sides of connections want a row each.
    assert_eq!(page.count("sidecar_connection_label_sets", &[]), 8);
    assert!(page.count("sidecar_connection_overflowed_total", &[]) > 0);
    let all = page.side(&[]);
    assert_eq!((all.sent, all.received, all.active), (total + 6, total + 6, 12), "{}", page.text);
    let other = [
        ("src_ip", "other"),
        ("dst_ip", "other"),
        ("dst_port", "other"),
        ("role", "other"),
        ("comm", "other"),
    ];
    assert_eq!(page.rows("sidecar_connection_active", &other).count(), 1);
    assert!(page.side(&other).active > 0);
    drop(pairs);
    let page = agent.when(0, "all ended", |page| page.side(&[]).ended() == 12);
    let all = page.side(&[]);
    assert_eq!((all.sent, all.received, all.active), (total + 6, total + 6, 0));
    agent.stop();
}

#[test]
fn with_a_full_connection_map_the_loss_is_counted_and_what_ended_is_exact() {
    const COUNT: u64 = 40;
    need_root!();
    let agent = Agent::start(&["--max-connections", "2", "--interval", "1"]);
    let lost = |page: &Page| page.count("sidecar_lost_total", &[("reason", "map_full")]);
    let before = lost(&agent.scrape());
    let listener = net::listener();
    let (address, port) = (listener.local_addr().unwrap(), listener.local_addr().unwrap().port());
    let connections: Vec<_> = (0..COUNT)
        .map(|_| {
            let client = TcpStream::connect(address).unwrap();
            let server = net::accept_from(&listener, &client);
            net::send(&client, &server, 1000);
            net::send(&server, &client, 300);
            (client, server)
        })
        .collect();
    let page = agent.scrape();
    assert!(lost(&page) >= before + 2 * COUNT - 2, "{} lost", lost(&page));
    assert!(page.both(port).0.active <= 2);
    for (client, server) in connections {
        drop(client);
        // The server's side must not be reset.
        assert_eq!((&server).read(&mut [0]).unwrap(), 0);
    }
    let (of_client, of_server) = agent.when_ended(port, COUNT).both(port);
    assert_eq!((of_client.opened, of_client.closed("normal"), of_client.active), (COUNT, COUNT, 0));
    assert_eq!((of_server.opened, of_server.closed("normal"), of_server.active), (COUNT, COUNT, 0));
    assert_eq!((of_client.sent, of_client.received), (1000 * COUNT, 300 * COUNT));
    assert_eq!((of_server.sent, of_server.received), (300 * COUNT, 1000 * COUNT));
    agent.stop();
}

#[test]
fn requests_a_full_listener_drops_are_counted_as_the_kernel_counts_them() {
    need_root!();
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    let agent = Agent::start(&["--interval", "1"]);
    let (_listener, address, _filling) = namespace.run(full_listener);
    let attempts: Vec<TcpStream> = (0..5)
        .map(|_| {
            let attempt = TcpStream::from(namespace.run(|| net::socket(libc::AF_INET)));
            attempt.set_nonblocking(true).unwrap();
            assert_eq!(net::connect(&attempt, address), Err(libc::EINPROGRESS));
            attempt
        })
        .collect();
    let port = address.port().to_string();
    let labels = [("dst_port", &*port), ("role", "server")];
    // They try again, so both numbers grow: read the kernel's before and after.
    for _ in 0..10 {
        let drops = || namespace.run(|| common::kernel_counter("TcpExt", "ListenDrops"));
        let before = drops();
        let page = agent.scrape();
        if before == drops() && before >= 5 {
            assert_eq!(page.count("sidecar_connection_listen_overflows_total", &labels), before);
            drop(attempts);
            agent.stop();
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("the kernel never came to rest");
}
