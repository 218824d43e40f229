//! What a client gets, over raw sockets: no HTTP library hides what is on the wire.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use sidecar_core::{
    HookReport, Kind, Labels, Metric, ProbeReport, ProbeState, Rows, Snapshot, Step, Unit, Value, Via,
};
use tokio::sync::oneshot;

use super::{Limits, Ready, Server, Source, Stats};
use crate::events::Hub;

static OPEN: Metric = Metric {
    name: "sidecar_test_open",
    help: "Test",
    kind: Kind::Gauge,
    unit: Unit::None,
    labels: &["name"],
};

/// A source that makes a new snapshot for every request.
pub(super) struct Fake {
    /// Rows of a snapshot.
    pub(super) rows: usize,
    /// Length of each row's label value.
    pub(super) label: usize,
    /// How long a snapshot takes; `None`: for ever.
    pub(super) takes: Option<Duration>,
    pub(super) ready: bool,
    pub(super) asked: AtomicUsize,
    pub(super) hub: Arc<Hub>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            rows: 1,
            label: 3,
            takes: Some(Duration::ZERO),
            ready: true,
            asked: AtomicUsize::new(0),
            hub: Arc::new(Hub::new(Vec::new(), || ())),
        }
    }
}

impl Fake {
    fn snapshot(&self, number: usize) -> Arc<Snapshot> {
        let mut rows = Rows::default();
        for _ in 0..self.rows {
            rows.push(&OPEN, &Labels::new([("name", "x".repeat(self.label))]), Value::Gauge(number as f64));
        }
        Arc::new(rows.finish(SystemTime::now(), SystemTime::now()))
    }
}

impl Source for Fake {
    fn request_snapshot(&self) -> oneshot::Receiver<Arc<Snapshot>> {
        let number = self.asked.fetch_add(1, SeqCst) + 1;
        let (sender, receiver) = oneshot::channel();
        let snapshot = self.snapshot(number);
        match self.takes {
            Some(Duration::ZERO) => drop(sender.send(snapshot)),
            takes => drop(std::thread::spawn(move || {
                std::thread::sleep(takes.unwrap_or(Duration::from_hours(1)));
                sender.send(snapshot)
            })),
        }
        receiver
    }

    fn ready(&self) -> Ready {
        let reasons =
            if self.ready { vec![] } else { vec!["probe connection failed".into(), "so did dns".into()] };
        Ready { ready: self.ready, reasons }
    }

    fn probes(&self) -> Vec<ProbeReport> {
        let step = |program, via| Step { program, via, degrades: "" };
        let refused = vec![(step("first", Via::TpBtf("tcp_probe")), "not on this \"kernel\"".into())];
        let hook = HookReport {
            hook: "state".into(),
            used: Some(step("second", Via::Kprobe("tcp_set_state"))),
            refused,
        };
        vec![ProbeReport {
            probe: "connection",
            state: ProbeState::Degraded,
            reason: "a kprobe is slower".into(),
            advice: String::new(),
            hooks: vec![hook],
        }]
    }

    fn events(&self) -> Arc<Hub> {
        Arc::clone(&self.hub)
    }
}

/// A server in a thread of its own.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) source: Arc<Fake>,
    pub(super) stats: Arc<Stats>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

pub(super) fn start(source: Fake) -> Running {
    start_with(source, "127.0.0.1:0", |_| ())
}

pub(super) fn start_with(source: Fake, listen: &str, change: impl FnOnce(&mut Limits)) -> Running {
    let mut server = Server::bind(listen.parse().unwrap()).unwrap();
    change(&mut server.limits);
    let (address, stats, source) = (server.address().unwrap(), server.stats(), Arc::new(source));
    let (stop, stopped) = oneshot::channel();
    let shared = Arc::clone(&source);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server.serve(shared, async { drop(stopped.await) })).unwrap();
        runtime.shutdown_background();
    });
    Running { address, source, stats, stop, thread }
}

impl Running {
    pub(super) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Client(BufReader::new(stream))
    }

    /// A request on a connection of its own.
    pub(super) fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
    }

    /// Tells it to stop and returns how long that takes.
    pub(super) fn stop(self) -> Duration {
        let start = Instant::now();
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
        start.elapsed()
    }
}

pub(super) struct Client(pub(super) BufReader<TcpStream>);

pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn send(&mut self, bytes: &str) {
        self.0.get_mut().write_all(bytes.as_bytes()).unwrap();
    }

    /// Reads status and headers.
    pub(super) fn head(&mut self) -> Answer {
        let mut line = || {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let first = line();
        let status =
            first.split(' ').nth(1).unwrap_or_else(|| panic!("no status in {first:?}")).parse().unwrap();
        let headers = std::iter::from_fn(|| {
            let line = line();
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        });
        Answer { status, headers: headers.collect(), body: Vec::new() }
    }

    /// Reads a whole answer.
    pub(super) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body.resize(length, 0);
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    /// Whether the server has closed the connection, with or without a reset, and said nothing more.
    pub(super) fn closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

#[test]
fn a_scrape_gets_the_format_it_asks_for() {
    let server = start(Fake::default());
    let plain = server.get("/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let lines =
        "# HELP sidecar_test_open Test\n# TYPE sidecar_test_open gauge\nsidecar_test_open{name=\"xxx\"} 1\n";
    assert_eq!((plain.status, plain.text()), (200, lines));
    let accept = "accept: application/openmetrics-text;version=1.0.0;q=0.5\r\naccept: text/plain;q=0.2";
    let other = server.ask(&format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{accept}\r\n\r\n"));
    assert_eq!(
        other.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(other.text().ends_with("# EOF\n"));
    server.stop();
}

#[test]
fn one_connection_serves_many_requests_and_pipelined_ones_in_order() {
    let server = start(Fake::default());
    let mut client = server.connect();
    for _ in 0..3 {
        client.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(client.answer().text(), "ok\n");
    }
    client.send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(client.answer().text().starts_with("# HELP"));
    assert_eq!(client.answer().text(), "ok\n");
    server.stop();
}

#[test]
fn head_says_what_get_would_and_sends_no_body() {
    let server = start(Fake { rows: 100, ..Fake::default() });
    let get = server.get("/metrics");
    let mut client = server.connect();
    client.send("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("content-type")), (get.status, get.header("content-type")));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    assert_eq!(client.answer().text(), "ok\n", "the next answer follows at once");
    server.stop();
}

#[test]
fn big_pages_are_compressed_for_those_who_accept_it() {
    let server = start(Fake { rows: 1000, ..Fake::default() });
    let ask = |accept: &str| {
        server.ask(&format!("GET /metrics HTTP/1.1\r\nhost: x\r\naccept-encoding: {accept}\r\n\r\n"))
    };
    for accept in ["gzip", "br, gzip;q=0.5", "*", "GZIP;q=0.001", "identity;q=0.2, gzip;q=0.3"] {
        let answer = ask(accept);
        assert_eq!(answer.header("content-encoding"), Some("gzip"), "{accept}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&answer.body[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 1002);
        assert!(answer.body.len() * 10 < text.len());
    }
    for accept in ["gzip;q=0", "gzip;q=0.0, *", "br", "identity", "*;q=0", "identity, gzip;q=0.5"] {
        let answer = ask(accept);
        assert_eq!(
            (answer.header("content-encoding"), answer.text().lines().count()),
            (None, 1002),
            "{accept}"
        );
    }
    server.stop();
    let server = start(Fake::default());
    let small = server.ask("GET /metrics HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n\r\n");
    assert_eq!(small.header("content-encoding"), None, "a page below 1 KiB");
    server.stop();
}

#[test]
fn health_and_readiness_say_different_things() {
    let server = start(Fake { ready: false, ..Fake::default() });
    assert_eq!(server.get("/healthz").status, 200);
    let answer = server.get("/readyz");
    assert_eq!((answer.status, answer.text()), (503, "not ready\n- probe connection failed\n- so did dns\n"));
    server.stop();
    let server = start(Fake::default());
    let answer = server.get("/readyz");
    assert_eq!((answer.status, answer.text()), (200, "ready\n"));
    server.stop();
}

#[test]
fn the_probes_are_listed_as_json() {
    let server = start(Fake::default());
    let answer = server.get("/api/v1/probes");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let expected = serde_json::json!({"probes": [{
        "probe": "connection", "state": "degraded", "reason": "a kprobe is slower", "advice": "",
        "hooks": [{
            "hook": "state",
            "used": {"program": "second", "via": "kprobe/tcp_set_state", "degrades": ""},
            "refused": [{"program": "first", "via": "tp_btf/tcp_probe", "reason": "not on this \"kernel\""}],
        }],
    }]});
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap(), expected);
    server.stop();
}

#[test]
fn wrong_paths_and_methods_are_told_the_right_ones() {
    let server = start(Fake::default());
    let paths = ["/metrics", "/healthz", "/readyz", "/api/v1/probes"];
    let missing = server.get("/metric");
    assert_eq!(missing.status, 404);
    let front = server.get("/");
    assert_eq!((front.status, front.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for path in paths {
        assert!(missing.text().contains(path) && front.text().contains(path), "{path}");
        assert_eq!(server.get(path).status, 200, "{path}");
        let answer = server.ask(&format!("DELETE {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET,HEAD")), "{path}");
        assert_eq!(answer.text(), "paths here take GET and HEAD only\n");
    }
    server.stop();
}

#[test]
fn it_listens_on_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        let _ = writeln!(std::io::stderr(), "skipped: this machine has no IPv6 loopback address");
        return;
    }
    let server = start_with(Fake::default(), "[::1]:0", |_| ());
    assert_eq!(server.get("/healthz").status, 200);
    server.stop();
}

#[test]
fn what_was_served_is_counted_per_format() {
    let server = start(Fake::default());
    let bytes = server.get("/metrics").body.len();
    server.ask(
        "HEAD /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".replace("HEAD", "OPTIONS").as_str(),
    );
    let mut rows = Rows::default();
    server.stats.collect(&mut rows);
    let snapshot = rows.finish(SystemTime::now(), SystemTime::now());
    let values = |name| {
        let rows = &snapshot.family(name).unwrap().rows;
        rows.iter().map(|row| (row.labels.get("format").unwrap(), row.value.clone())).collect::<Vec<_>>()
    };
    let counted = |text| [("text", Value::Counter(text)), ("openmetrics", Value::Counter(0))];
    assert_eq!(values("sidecar_scrapes_total"), counted(1));
    assert_eq!(values("sidecar_scrape_bytes_total"), counted(bytes as u64));
    let Value::CounterF64(seconds) = values("sidecar_scrape_encoding_seconds_total")[0].1 else { panic!() };
    assert!(seconds > 0.0 && seconds < 5.0, "{seconds}");
    let declared: Vec<_> = super::METRICS.iter().map(|metric| metric.name).collect();
    let pushed: Vec<_> = snapshot.families.iter().map(|family| family.metric.name).collect();
    assert_eq!(declared, pushed);
    server.stop();
}
