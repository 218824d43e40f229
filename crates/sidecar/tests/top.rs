//! `sidecar top` in a real terminal: what it shows is compared with what the test did, and what it leaves with what was.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Stdio,
};

use common::{
    Agent, Scratch, agent,
    child::{Child, hear},
    programs::{self, Renamed},
    tmux::Tmux,
};

/// `sidecar top` in a window, with the terminal's settings before and after it in `before` and `after` of the directory,
/// its process id in `pid` and its exit code in `code`.
fn top(width: u16, height: u16, scratch: &Scratch, args: &str) -> Option<Tmux> {
    let (directory, binary) = (scratch.0.display(), agent::binary());
    let binary = binary.display();
    let script = format!(
        "cd {directory}; stty -g >before; \
         sh -c 'echo $$ >pid; exec env -u NO_COLOR {binary} --config /dev/null top --no-probe packet {args}'; \
         echo $? >code; stty -g >after; echo it has ended; exec sleep 600"
    );
    Tmux::start(width, height, &script)
}

macro_rules! top {
    ($width:literal, $height:literal, $scratch:expr, $args:expr) => {
        match top($width, $height, $scratch, $args) {
            Some(tmux) => tmux,
            None => skip!("no tmux on this machine"),
        }
    };
}

/// The cell of the column with this title in a line of the table, without spaces around it; empty if it is not there,
/// since a screen may be looked at while it is drawn.
fn cell(screen: &[String], line: &str, title: &str) -> String {
    let head = screen.iter().find(|line| line.contains("PROCESS")).map_or("", String::as_str);
    let Some(from) = head.find(title).map(|at| head[..at].chars().count()) else { return String::new() };
    // Titles end where their columns do; the arrow belongs to the title.
    let end = from + head.chars().skip(from).take_while(|c| *c != ' ').count();
    line.chars().take(end).skip(end.saturating_sub(9)).collect::<String>().trim().to_owned()
}

/// The lines of the table that begin with this process.
fn lines<'a>(screen: &'a [String], comm: &str) -> Vec<&'a String> {
    let head = screen.iter().position(|line| line.contains("PROCESS")).unwrap_or(screen.len());
    let end = screen.iter().position(|line| line.starts_with("events:")).unwrap_or(screen.len());
    let of = |line: &&String| line.split_whitespace().nth(1) == Some(comm);
    screen[..end].iter().skip(head + 1).filter(of).collect()
}

fn ended_well(tmux: &Tmux, scratch: &Scratch, code: &str) {
    tmux.shows("it has ended");
    let read = |name: &str| fs::read_to_string(scratch.0.join(name)).unwrap();
    assert_eq!(read("code").trim(), code);
    assert_eq!(read("before"), read("after"), "the terminal's settings");
    assert_eq!(tmux.modes(), "0 0 1", "alternate screen, mouse, cursor");
}

#[test]
fn every_program_the_test_started_has_a_line_and_events() {
    need_root!();
    let (scratch, program) = (Scratch::new(), Renamed::new("true"));
    let tmux = top!(80, 24, &scratch, &format!("--no-probe open --comm {} --interval 200ms", program.name));
    tmux.shows("nothing has happened yet");
    assert_eq!(tmux.modes(), "1 1 0", "alternate screen, mouse, cursor");
    for _ in 0..7 {
        assert!(program.command().status().unwrap().success());
    }
    tmux.press(&["t"]);
    let screen = tmux.when("seven lines and fourteen events", |screen| {
        let lines = lines(screen, &program.name);
        let once = |line: &&String| cell(screen, line, "EXEC") == "1" && cell(screen, line, "CONN") == "0";
        lines.len() == 7
            && lines.iter().all(once)
            && screen.iter().any(|line| line.starts_with("events: 14 so far"))
    });
    assert!(screen.iter().all(|line| line.chars().count() <= 80) && screen.len() <= 24);
    tmux.press(&["q"]);
    ended_well(&tmux, &scratch, "0");
}

/// As many connections as asked for from this process to itself, each of which carries so many bytes one way.
fn connect(count: usize, bytes: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for _ in 0..count {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&vec![7; bytes]).unwrap();
        drop(client);
        let mut read = Vec::new();
        server.read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), bytes);
    }
}

#[test]
fn connections_bytes_and_opens_are_those_the_test_made() {
    need_root!();
    let (scratch, comm) = (Scratch::new(), programs::own_name());
    let mut child = Child::fork(&comm, &[], |line| {
        hear(line);
        connect(12, 1000);
        for _ in 0..30 {
            fs::File::open("/dev/null").unwrap();
        }
        hear(line);
    });
    let pid = child.pid;
    let tmux = top!(80, 24, &scratch, &format!("--pid {pid} --interval 200ms"));
    tmux.shows("events:");
    child.tell(b'!');
    tmux.press(&["t"]);
    // Each connection has two ends here.
    let expected = [("CONN", "24"), ("SENT", "12.0 kB"), ("RECV", "12.0 kB"), ("OPEN", "30"), ("EXEC", "0")];
    tmux.when("what the child did", |screen| {
        lines(screen, &comm).first().is_some_and(|line| {
            line.trim_start().starts_with(&format!("{pid} "))
                && expected.iter().all(|(title, value)| cell(screen, line, title) == *value)
        })
    });
    tmux.press(&["Enter"]);
    tmux.when("the same in detail", |screen| {
        let opened = screen.iter().find(|line| line.starts_with("sidecar_connection_opened_total"));
        opened.is_some_and(|line| line.ends_with(" 24"))
    });
    tmux.press(&["Escape"]);
    tmux.shows("PROCESS");
    tmux.press(&["C-c"]);
    ended_well(&tmux, &scratch, "0");
    child.tell(b'!');
    child.join();
}

#[test]
fn keys_and_sizes_change_the_picture() {
    need_root!();
    let scratch = Scratch::new();
    let tmux = top!(80, 24, &scratch, "--interval 200ms");
    tmux.shows("PROCESS");
    tmux.press(&["?"]);
    tmux.shows("choose a process, or scroll");
    tmux.shows("Programs started, and starts that failed");
    tmux.press(&["F1"]);
    tmux.shows("PROCESS");
    tmux.type_in("/no-such-process");
    tmux.shows("no process has this text");
    tmux.press(&["Escape"]);
    tmux.when("no filter", |screen| !screen[0].contains("filter"));
    tmux.press(&["Space"]);
    tmux.when("paused", |screen| screen[0].contains("PAUSED"));
    for (width, height) in [(120, 40), (60, 12), (20, 5), (80, 24)] {
        tmux.resize(width, height);
        tmux.when("a footer at the bottom", |screen| {
            screen.len() == usize::from(height) && screen[usize::from(height) - 1].starts_with("q quit")
        });
    }
    let pid: i32 = fs::read_to_string(scratch.0.join("pid")).unwrap().trim().parse().unwrap();
    // SAFETY: no pointers; the process in our own window.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    ended_well(&tmux, &scratch, "0");
}

#[test]
fn attached_to_an_agent_it_shows_the_agents_numbers() {
    need_root!();
    let (scratch, program) = (Scratch::new(), Renamed::new("true"));
    let agent = Agent::start(&["--probe", "exec", "--comm", &program.name]);
    let address = agent.address;
    let tmux = top!(80, 24, &scratch, &format!("--interval 200ms --connect http://{address}"));
    tmux.shows("nothing has happened yet");
    let screen = tmux.shows(&format!("http://{address}"));
    assert!(!screen.iter().any(|line| line.contains("this machine")));
    // Events are those since it subscribed.
    let subscribed = || agent.get("/metrics").unwrap().1.contains("\nsidecar_event_subscribers 1\n");
    common::eventually("subscribed", subscribed);
    for _ in 0..5 {
        assert!(program.command().status().unwrap().success());
    }
    tmux.press(&["t"]);
    // By default the agent tells processes apart by their name alone.
    tmux.when("five in one line, none of a probe that is switched off, ten events", |screen| {
        let line = screen.iter().find(|line| line.starts_with(&program.name));
        line.is_some_and(|line| cell(screen, line, "EXEC") == "5" && cell(screen, line, "SYSCALL") == "-")
            && screen.iter().any(|line| line.starts_with("events: 10 so far"))
    });
    agent.stop();
    tmux.shows("does not answer");
    tmux.press(&["q"]);
    ended_well(&tmux, &scratch, "0");
}

#[test]
fn where_nobody_listens_it_says_so_and_ends() {
    let scratch = Scratch::new();
    let tmux = top!(80, 24, &scratch, "--connect 127.0.0.1:1");
    let screen = tmux.shows("it has ended");
    assert!(screen[0].starts_with("sidecar: http://127.0.0.1:1 does not answer: "), "{screen:?}");
    ended_well(&tmux, &scratch, "1");
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let mut command = agent::command(&["top"]);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("needs a terminal")
            && said.contains("sidecar count ")
            && said.contains("sidecar trace ")
    );
}
