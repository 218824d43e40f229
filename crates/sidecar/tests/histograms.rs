//! Distributions: as many values as there were connections, each in its bucket, sums as long as the test's own clock.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use common::{Agent, Pair, net};

#[test]
fn durations_and_handshakes_are_as_many_as_connections_and_as_long_as_they_were() {
    const COUNT: u64 = 10;
    need_root!();
    let agent = Agent::start(&["--interval", "3600"]);
    let listener = net::listener();
    let (address, port) = (listener.local_addr().unwrap(), listener.local_addr().unwrap().port());
    let (mut shortest, mut longest, mut connecting) = (0.0, 0.0, 0.0);
    for _ in 0..COUNT {
        let before = std::time::Instant::now();
        let client = TcpStream::connect(address).unwrap();
        let established = std::time::Instant::now();
        connecting += (established - before).as_secs_f64();
        let server = net::accept_from(&listener, &client);
        thread::sleep(Duration::from_millis(30));
        shortest += established.elapsed().as_secs_f64();
        drop(client);
        drop(server);
        longest += before.elapsed().as_secs_f64();
    }
    let page = agent.when_ended(port, COUNT);
    let port = port.to_string();
    for role in ["client", "server"] {
        let labels = [("dst_port", &*port), ("role", role)];
        let value = |metric: &str| page.sum(&format!("sidecar_connection_{metric}"), &labels);
        assert_eq!(
            (value("duration_seconds_count"), value("handshake_seconds_count")),
            (10.0, 10.0),
            "{role}"
        );
        let sum = value("duration_seconds_sum");
        // The server's side ends with the client's last acknowledgement, a moment after the test's clock.
        assert!((shortest..longest + 0.05).contains(&sum), "{role}: {shortest} <= {sum} <= {longest}");
        let handshakes = value("handshake_seconds_sum");
        assert!(handshakes > 0.0 && handshakes <= connecting, "{role}: {handshakes} of {connecting}");
        let below = |bound: &str| {
            let labels = [labels[0], labels[1], ("le", bound)];
            page.sum("sidecar_connection_duration_seconds_bucket", &labels)
        };
        assert_eq!((below("0.01"), below("+Inf")), (0.0, 10.0), "{role}: none was over within 10 ms");
    }
    agent.stop();
}

#[test]
fn the_round_trip_time_of_a_live_connection_is_the_kernels() {
    need_root!();
    let agent = Agent::start(&["--interval", "3600"]);
    let pair = Pair::at(SocketAddr::from(([127, 0, 0, 1], 0)));
    for _ in 0..10 {
        pair.exchange(100, 100);
    }
    let (page, client, _) = pair.at_rest(&agent);
    let port = pair.port.to_string();
    let labels = [("dst_port", &*port), ("role", "client")];
    assert_eq!(page.count("sidecar_connection_rtt_seconds_count", &labels), 1, "one sample an interval");
    let micros = page.sum("sidecar_connection_rtt_seconds_sum", &labels) * 1e6;
    // The kernel shows whole microseconds of its eighths.
    assert_eq!((micros + 1e-6).floor() as u32, client.rtt, "{micros}");
    for bucket in page.rows("sidecar_connection_rtt_seconds_bucket", &labels) {
        let bound = match bucket.labels["le"].as_str() {
            "+Inf" => f64::INFINITY,
            bound => bound.parse::<f64>().unwrap() * 1e6,
        };
        assert_eq!(bucket.value as u64, u64::from(micros <= bound), "{micros} us, le {bound}");
    }
    agent.stop();
}
