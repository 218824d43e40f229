//! `--pid`, `--children`, `--ports`, `--comm`, `--cgroup`: what passes is counted as without a filter, the rest not at all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use common::{
    Agent, Pair, Side,
    child::{Child, hear, tell},
    net::{self, closed_port, receive},
};

/// A listener of this process, which no filter below names.
fn listener() -> (TcpListener, u16) {
    let listener = net::listener();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Waits for a word on the line, then connects and sends this much.
fn connect_when_told(line: &mut UnixStream, port: u16, length: usize) {
    hear(line);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&vec![1; length]).unwrap();
    tell(line, 1);
    hear(line);
}

fn client(name: &str, port: u16, length: usize) -> Child {
    Child::fork(name, &[], |line| connect_when_told(line, port, length))
}

fn go(child: &mut Child) {
    child.tell(1);
    child.hear();
}

fn agent(flags: &[&str]) -> Agent {
    Agent::start(&[&["--interval", "1"], flags].concat())
}

#[test]
fn only_the_named_process_is_counted_with_all_of_its_threads() {
    need_root!();
    let (listener, port) = listener();
    let mut chosen = Child::fork("chosen", &[], |line| {
        hear(line);
        let thread = std::thread::Builder::new().name("elsewhere".into());
        let connect = move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(&[1; 100]).unwrap();
            stream
        };
        let stream = thread.spawn(connect).unwrap().join().unwrap();
        tell(line, 1);
        hear(line);
        drop(stream);
    });
    let mut other = client("not-chosen", port, 1000);
    let agent = agent(&["--pid", &chosen.pid.to_string()]);
    go(&mut other);
    go(&mut chosen);
    let page = agent.scrape();
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.opened, of_client.active, of_client.sent), (1, 1, 100));
    assert_eq!(page.values("comm", port, "client"), ["chosen"]);
    assert_eq!(of_server, Side::default(), "the listener's process does not pass");
    for child in [&mut chosen, &mut other] {
        child.tell(1);
    }
    let (of_client, of_server) = agent.when(port, "ended", |page| page.both(port).0.ended() == 1).both(port);
    assert_eq!((of_client.opened, of_client.active, of_client.sent), (1, 0, 100));
    assert_eq!(of_server, Side::default());
    drop(listener);
    agent.stop();
}

#[test]
fn descendants_are_counted_only_if_asked_for() {
    need_root!();
    for (flags, expected) in [(&["--children"][..], 1), (&[], 0)] {
        let (_listener, port) = listener();
        let mut parent = Child::fork("parent", &[], |line| {
            hear(line);
            // A grandchild of the process named.
            let mut middle = Child::fork("middle", &[], |line| {
                let mut inner = Child::fork("inner", &[], |line| connect_when_told(line, port, 70));
                go(&mut inner);
                tell(line, 1);
                hear(line);
            });
            middle.hear();
            tell(line, 1);
            hear(line);
        });
        let agent = agent(&[&["--pid", &parent.pid.to_string()], flags].concat());
        go(&mut parent);
        let side = agent.scrape().both(port).0;
        assert_eq!((side.opened, side.sent), (expected, 70 * expected), "{flags:?}");
        agent.stop();
    }
}

#[test]
fn only_processes_of_the_name_are_counted() {
    need_root!();
    let (_listener, port) = listener();
    let mut chosen = client("by-name", port, 10);
    let mut other = client("by-name-not", port, 20);
    let agent = agent(&["--comm", "nobody-at-all", "--comm", "by-name"]);
    go(&mut chosen);
    go(&mut other);
    let page = agent.scrape();
    assert_eq!(page.values("comm", port, "client"), ["by-name"]);
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.opened, of_client.sent), (1, 10));
    assert_eq!(of_server, Side::default());
    agent.stop();
}

#[test]
fn only_connections_to_the_ports_are_counted() {
    need_root!();
    let (one, two) = (Pair::new(), Pair::new());
    let refused = closed_port().port();
    let ports = format!("{},{refused}", one.port);
    let agent = agent(&["--ports", &ports]);
    let (newer, other) = (TcpStream::connect(("127.0.0.1", one.port)).unwrap(), Pair::new());
    assert!(TcpStream::connect(("127.0.0.1", refused)).is_err());
    for pair in [&one, &two, &other] {
        pair.exchange(300, 200);
    }
    let page = agent.scrape();
    let (of_client, of_server) = page.both(one.port);
    assert_eq!((of_client.sent, of_client.received, of_client.active, of_client.opened), (300, 200, 2, 1));
    assert_eq!((of_server.sent, of_server.received, of_server.active, of_server.opened), (200, 300, 2, 1));
    assert_eq!(page.both(refused).0.failed("refused"), 1);
    assert_eq!((page.about(two.port), page.about(other.port)), (String::new(), String::new()));
    drop(newer);
    agent.stop();
}

#[test]
fn filters_of_different_kinds_must_all_pass() {
    need_root!();
    let ((_one, port), (_two, other)) = (listener(), listener());
    let mut both = client("both-kinds", port, 1);
    let mut name_only = client("both-kinds", other, 1);
    let mut port_only = client("one-kind", port, 1);
    let agent = agent(&["--comm", "both-kinds", "--ports", &port.to_string()]);
    for child in [&mut both, &mut name_only, &mut port_only] {
        go(child);
    }
    let page = agent.scrape();
    assert_eq!(page.sum("sidecar_connection_opened_total", &[]) as u64, 1, "{}", page.text);
    assert_eq!(page.values("comm", port, "client"), ["both-kinds"]);
    agent.stop();
}

#[test]
fn what_the_process_had_open_before_is_counted_with_a_filter_too() {
    need_root!();
    let (listener, port) = listener();
    let mut chosen = Child::fork("had-it-open", &[], |line| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(&[1; 500]).unwrap();
        hear(line);
        stream.write_all(&[1; 60]).unwrap();
        tell(line, 1);
        hear(line);
    });
    let (server, _) = listener.accept().unwrap();
    receive(&server, 500);
    let agent = agent(&["--pid", &chosen.pid.to_string()]);
    go(&mut chosen);
    let (of_client, of_server) = agent.scrape().both(port);
    assert_eq!((of_client.sent, of_client.active, of_client.opened), (60, 1, 0));
    assert_eq!(of_server, Side::default());
    agent.stop();
}

#[test]
fn a_server_named_by_its_process_has_its_accepted_connections_counted() {
    need_root!();
    let (ports, theirs) = UnixStream::pair().unwrap();
    let mut chosen = Child::fork("chosen-server", &[&theirs], |line| {
        let (listener, port) = listener();
        (&theirs).write_all(&port.to_be_bytes()).unwrap();
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 30]).unwrap();
            stream.write_all(&[1; 40]).unwrap();
            tell(line, 1);
            hear(line);
        }
    });
    let mut port = [0; 2];
    (&ports).read_exact(&mut port).unwrap();
    let port = u16::from_be_bytes(port);
    let agent = agent(&["--pid", &chosen.pid.to_string()]);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&[1; 30]).unwrap();
    chosen.hear();
    let (of_client, of_server) = agent.scrape().both(port);
    assert_eq!((of_server.opened, of_server.active, of_server.received, of_server.sent), (1, 1, 30, 40));
    assert_eq!(of_client, Side::default());
    agent.stop();
}

#[test]
fn a_worker_named_by_its_process_is_counted_though_its_parent_listens() {
    need_root!();
    let (listener, port) = listener();
    let mut worker = Child::fork("chosen-worker", &[&listener], |line| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 30]).unwrap();
        tell(line, 1);
        hear(line);
    });
    let agent = agent(&["--pid", &worker.pid.to_string()]);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&[1; 30]).unwrap();
    worker.hear();
    let (of_client, of_server) = agent.scrape().both(port);
    assert_eq!((of_server.opened, of_server.active, of_server.received), (1, 1, 30));
    assert_eq!(of_client, Side::default());
    agent.stop();
}

#[test]
fn a_process_id_used_again_is_not_the_process_that_was_meant() {
    need_root!();
    let (_listener, port) = listener();
    let meant = client("was-meant", port, 10);
    let pid = meant.pid;
    let agent = agent(&["--pid", &pid.to_string()]);
    meant.kill();
    // Start times count in hundredths of a second.
    net::moment();
    let mut again = None;
    for _ in 0..200 {
        if fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_err() {
            skip!("process ids cannot be chosen here");
        }
        let child = client("reused-id", port, 10);
        if child.pid == pid {
            again = Some(child);
            break;
        }
    }
    let Some(mut again) = again else { skip!("somebody else was always faster to take the process id") };
    go(&mut again);
    assert_eq!(agent.scrape().about(port), "");
    agent.stop();
}

/// A cgroup of the test's own, removed with it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Result<(Self, PathBuf), String> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (place, kind) = (words.nth(1)?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        });
        let mount = mount.ok_or("no cgroup v2 tree is mounted")?;
        let path = mount.join(format!("sidecar-test-{}", std::process::id()));
        for path in [&path, &path.join("inner"), &path.join("other")] {
            fs::create_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok((Self(path), mount))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for path in [self.0.join("inner"), self.0.join("other"), self.0.clone()] {
            // A cgroup can go once its last process has been waited for, a moment later.
            common::eventually("cgroup removed", || fs::remove_dir(&path).is_ok() || !path.exists());
        }
    }
}

fn client_in(cgroup: &Path, name: &str, port: u16) -> Child {
    Child::fork(name, &[], |line| {
        fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
        tell(line, 1);
        connect_when_told(line, port, 25);
    })
}

#[test]
fn a_cgroup_is_counted_with_those_below_it_and_named_in_a_label() {
    need_root!();
    let (cgroup, mount) = match Cgroup::new() {
        Ok(made) => made,
        Err(error) => skip!("{error}"),
    };
    let (_listener, port) = listener();
    let inner = cgroup.0.join("inner");
    let mut inside = client_in(&inner, "cgroup-inside", port);
    let mut sibling = client_in(&cgroup.0.join("other"), "cgroup-other", port);
    let mut outside = client("cgroup-outside", port, 25);
    inside.hear();
    sibling.hear();
    let name = |path: &Path| format!("/{}", path.strip_prefix(&mount).unwrap().display());
    let labels = ["--labels", "dst_port,role,comm,cgroup"];
    let whole = agent(&[&["--cgroup", &name(&cgroup.0)], &labels[..]].concat());
    let narrow = agent(&[&["--cgroup", inner.to_str().unwrap()], &labels[..]].concat());
    for child in [&mut inside, &mut sibling, &mut outside] {
        go(child);
    }
    let page = whole.scrape();
    assert_eq!(page.values("comm", port, "client"), ["cgroup-inside", "cgroup-other"]);
    assert_eq!(page.values("cgroup", port, "client"), [name(&inner), name(&cgroup.0.join("other"))]);
    assert_eq!(page.both(port).0.sent, 50);
    let page = narrow.scrape();
    assert_eq!(page.values("comm", port, "client"), ["cgroup-inside"]);
    assert_eq!(page.both(port).0.sent, 25);
    whole.stop();
    narrow.stop();
    drop((inside, sibling, outside));
}
