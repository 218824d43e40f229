//! Against programs other people wrote: what `ss` prints, what curl and nginx say they moved, and what a real
//! Prometheus has stored after scraping the agent.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use common::{
    Agent, Netns, Pair, Scratch, Side,
    net::{closed_port, info, send, traffic},
    program, run,
};
use serde_json::Value;

/// A program that runs until the test is over.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        // SAFETY: only a system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: our own child, which is waited for below.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

/// The traffic part of a side as `ss -ti` prints it.
fn according_to_ss(text: &str) -> Side {
    let number = |key: &str| {
        let word = text.split_whitespace().find_map(|word| word.strip_prefix(key));
        // ss leaves out what is zero; `retrans` is lost now / ever.
        word.map_or(0, |word| word.rsplit('/').next().unwrap().parse().unwrap())
    };
    Side {
        sent: number("bytes_sent:") - number("bytes_retrans:"),
        received: number("bytes_received:"),
        packets_sent: number("segs_out:"),
        packets_received: number("segs_in:"),
        retransmits: number("retrans:"),
        ..Side::default()
    }
}

#[test]
fn bytes_packets_and_retransmits_are_those_ss_prints() {
    let agent = shared!();
    if program("ss").is_none() {
        skip!("ss is not installed");
    }
    let namespace = match Netns::new() {
        Ok(namespace) => namespace,
        Err(error) => skip!("{error}"),
    };
    let pair = namespace.run(Pair::new);
    let port = pair.port;
    // With loss if there is a way to have it, else without.
    let lossy = namespace.lose(port, 1).is_ok();
    let mut moved = 0;
    while moved < 3_000_000 || lossy && moved < 60_000_000 && info(&pair.client).total_retrans < 5 {
        send(&pair.client, &pair.server, 500_000);
        send(&pair.server, &pair.client, 100_000);
        moved += 500_000;
    }
    let ss = |side: &str| namespace.tool(&format!("ss -tinHO {side} = :{port}")).unwrap();
    if !ss("dport").contains("segs_out:") {
        skip!("ss gets no details from this kernel (module tcp_diag)");
    }
    for _ in 0..20 {
        let before = (according_to_ss(&ss("dport")), according_to_ss(&ss("sport")));
        let page = agent.scrape();
        if before == (according_to_ss(&ss("dport")), according_to_ss(&ss("sport"))) {
            let (of_client, of_server) = page.both(port);
            assert_eq!((traffic(&of_client), traffic(&of_server)), before);
            assert_eq!((of_client.sent, of_server.received), (moved, moved));
            assert!(!lossy || of_client.retransmits > 0);
            return;
        }
    }
    panic!("the connection never came to rest");
}

/// nginx with an access log of what it received and sent.
fn nginx(scratch: &Scratch, port: u16) -> Running {
    let root = scratch.0.display();
    let text = format!(
        "daemon off;\npid {root}/pid;\nerror_log {root}/error.log;\nworker_processes 2;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n  log_format moved '$connection $request_length $bytes_sent';\n  access_log {root}/access.log moved;\n  \
         client_body_temp_path {root}/body;\n  proxy_temp_path {root}/proxy;\n  fastcgi_temp_path {root}/fastcgi;\n  \
         uwsgi_temp_path {root}/uwsgi;\n  scgi_temp_path {root}/scgi;\n  \
         server {{ listen 127.0.0.1:{port}; root {root}/www; }}\n}}\n"
    );
    let file = scratch.file("nginx.conf", &text);
    let www = scratch.0.join("www");
    fs::create_dir(&www).unwrap();
    fs::write(www.join("small"), "hello").unwrap();
    fs::write(www.join("large"), vec![b'x'; 20_000_000]).unwrap();
    for path in [&scratch.0, &www] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(program("nginx").unwrap());
    command.arg("-c").arg(file).arg("-p").arg(&scratch.0).arg("-e").arg(scratch.0.join("error.log"));
    let running = Running::start(&mut command);
    common::eventually("nginx listens", || {
        fs::read_to_string("/proc/net/tcp")
            .unwrap()
            .contains(&format!("0100007F:{port:04X} 00000000:0000 0A"))
    });
    running
}

/// Sums of the columns of the access log.
fn moved(log: &Path, requests: usize) -> (u64, u64) {
    common::eventually("all requests are logged", || {
        fs::read_to_string(log).unwrap_or_default().lines().count() >= requests
    });
    let text = fs::read_to_string(log).unwrap();
    let column =
        |at: usize| text.lines().map(|line| line.split(' ').nth(at).unwrap().parse::<u64>().unwrap()).sum();
    (column(1), column(2))
}

#[test]
fn what_curl_and_nginx_say_they_moved_is_what_is_counted() {
    let agent = shared!();
    let (Some(curl), Some(_)) = (program("curl"), program("nginx")) else {
        skip!("curl or nginx is not installed");
    };
    let scratch = Scratch::new();
    let port = closed_port().port();
    let _nginx = nginx(&scratch, port);
    let mut said = (0, 0);
    let url = |page: &str| format!("http://127.0.0.1:{port}/{page}");
    // The third takes two requests over one connection.
    for pages in [&["small"][..], &["large"], &["small", "missing"]] {
        let mut command = Command::new(&curl);
        command.args([
            "--no-progress-meter",
            "--write-out",
            "%{size_request} %{size_header} %{size_download}\n",
        ]);
        for page in pages {
            command.args(["--output", "/dev/null"]).arg(url(page));
        }
        for line in run(&mut command).unwrap().lines() {
            let sizes: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            said.0 += sizes[0];
            said.1 += sizes[1] + sizes[2];
        }
    }
    let page = agent.when_ended(port, 3);
    let (of_client, of_server) = page.both(port);
    assert_eq!((of_client.sent, of_client.received), said, "curl's word");
    assert!(said.1 > 20_000_000);
    let (requests, answers) = moved(&scratch.0.join("access.log"), 4);
    assert_eq!((of_server.received, of_server.sent), (requests, answers), "nginx's word");
    assert_eq!((of_client.opened, of_client.closed("normal"), of_client.active), (3, 3, 0));
    assert_eq!((of_server.opened, of_server.closed("normal"), of_server.active), (3, 3, 0));
    assert_eq!(page.values("comm", port, "client"), ["curl"]);
    assert_eq!(page.values("comm", port, "server"), ["nginx"]);
}

/// Passes requests on to the agent, asking for the older text format whatever the client prefers.
fn asking_for_text(agent: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let first = BufReader::new(&client).lines().map_while(Result::ok).next();
            let path =
                first.as_deref().and_then(|line| line.split(' ').nth(1)).unwrap_or("/metrics").to_owned();
            let Ok(mut upstream) = TcpStream::connect(agent) else { return };
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {agent}\r\nAccept: text/plain;version=0.0.4\r\nConnection: close\r\n\r\n"
            );
            let _ = upstream.write_all(request.as_bytes());
            let mut answer = Vec::new();
            let _ = upstream.read_to_end(&mut answer);
            let _ = (&client).write_all(&answer);
        }
    });
    address
}

/// Asks Prometheus.
fn query(prometheus: SocketAddr, expression: &str) -> Option<Vec<Value>> {
    let escaped = expression.bytes().fold(String::new(), |escaped, byte| format!("{escaped}%{byte:02X}"));
    let mut stream = TcpStream::connect(prometheus).ok()?;
    write!(stream, "GET /api/v1/query?query={escaped} HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    assert_eq!(answer["status"], "success", "{expression}: {answer}");
    answer["data"]["result"].as_array().cloned()
}

#[test]
fn a_real_prometheus_scrapes_both_formats_and_answers_with_the_right_numbers() {
    need_root!();
    let Some(prometheus) = program("prometheus") else { skip!("prometheus is not installed") };
    let agent = Agent::start(&["--interval", "1"]);
    let pair = Pair::new();
    pair.exchange(54_321, 12_345);
    let scratch = Scratch::new();
    let (direct, text) = (agent.address, asking_for_text(agent.address));
    let config = scratch.file(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
             - {{job_name: openmetrics, static_configs: [{{targets: ['{direct}']}}]}}\n\
             - {{job_name: text, static_configs: [{{targets: ['{text}']}}]}}\n"
        ),
    );
    let address = closed_port();
    let _prometheus = Running::start(
        Command::new(prometheus)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.0.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null()),
    );
    let port = pair.port;
    let both = |expression: &str, expected: &str| {
        let mut last = None;
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            last = query(address, expression);
            let values: Vec<_> = last
                .iter()
                .flatten()
                .map(|result| (result["metric"]["job"].clone(), result["value"][1].clone()))
                .collect();
            let is_so = |job: &str| values.iter().any(|(name, value)| name == job && value == expected);
            if is_so("openmetrics") && is_so("text") {
                return;
            }
            thread::sleep(Duration::from_millis(200));
        }
        panic!("{expression} is not {expected} in both: {last:?}");
    };
    both("up", "1");
    for (metric, role, expected) in [
        ("bytes_sent_total", "client", "54321"),
        ("bytes_received_total", "client", "12345"),
        ("bytes_received_total", "server", "54321"),
        ("opened_total", "server", "1"),
        ("active", "client", "1"),
        ("handshake_seconds_count", "client", "1"),
        ("handshake_seconds_bucket", "client", "1"),
    ] {
        let le = if metric.ends_with("bucket") { ",le=\"+Inf\"" } else { "" };
        both(&format!("sidecar_connection_{metric}{{dst_port=\"{port}\",role=\"{role}\"{le}}}"), expected);
    }
    both("sidecar_probe_state{probe=\"connection\",state=\"active\"}", "1");
    both("count by (job) (sidecar_build_info)", "1");
    let quantile = format!(
        "histogram_quantile(1, sum by (job, le) (sidecar_connection_handshake_seconds_bucket{{dst_port=\"{port}\"}}))"
    );
    assert_eq!(query(address, &quantile).unwrap().len(), 2, "a histogram Prometheus can use");
    // What it asked for is what it was given.
    let page = agent.scrape();
    for format in ["text", "openmetrics"] {
        assert!(page.count("sidecar_scrapes_total", &[("format", format)]) > 0, "{format}");
    }
    pair.exchange(1000, 0);
    both(&format!("sidecar_connection_bytes_sent_total{{dst_port=\"{port}\",role=\"client\"}}"), "55321");
    agent.stop();
}
