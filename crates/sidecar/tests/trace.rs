//! `sidecar trace` as users run it: what it shows, when it ends and how.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{Scratch, agent, events::checked, is_slow, programs::Renamed};
use serde_json::Value;

/// A running `sidecar trace`. Killed with the value.
struct Trace(Child);

impl Trace {
    fn start(args: &[&str]) -> Self {
        let mut command = agent::command(&[&["trace"], args].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: i32) {
        // SAFETY: no pointers; our own child, which has not been waited for.
        unsafe { libc::kill(self.0.id() as i32, signal) };
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stdout.take().unwrap()).lines().map(Result::unwrap)
    }

    /// Waits for its end: exit code and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program over and over until the trace has ended, since nobody tells when it is ready.
fn start_until_ended(program: &Renamed, trace: &mut Trace) {
    let begun = Instant::now();
    while trace.0.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_mins(1), "it does not end");
        program.command().status().unwrap();
    }
}

#[test]
fn as_many_lines_of_json_as_asked_for_and_then_it_ends() {
    need_root!();
    let program = Renamed::new("true");
    let mut trace = Trace::start(&["exec", "--comm", &program.name, "--format", "json", "--limit", "5"]);
    let lines = trace.lines();
    start_until_ended(&program, &mut trace);
    let events: Vec<Value> = lines.map(|line| checked(&line)).collect();
    assert_eq!(events.len(), 5);
    assert!(events.iter().all(|event| event["event"] == "exec" && event["comm"] == program.name.as_str()));
    let (code, said) = trace.end();
    assert_eq!(code, Some(0));
    assert!(said.contains("5 events in ") && said.contains(", 0 lost"), "{said}");
}

#[test]
fn a_table_has_columns_and_no_colours_where_there_is_no_terminal() {
    need_root!();
    let program = Renamed::new("true");
    let mut trace = Trace::start(&["exec", "--comm", &program.name, "--limit", "2"]);
    let lines = trace.lines();
    start_until_ended(&program, &mut trace);
    let lines: Vec<String> = lines.collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        "TIME PID PPID UID COMM RESULT PATH ARGS".split(' ').collect::<Vec<_>>()
    );
    let at = |name: &str| lines[0].find(name).unwrap();
    for line in &lines[1..] {
        assert_eq!(line[at("COMM")..].split(' ').next(), Some(program.name.as_str()), "{line}");
        assert_eq!(line[at("RESULT")..].split(' ').next(), Some("ok"), "{line}");
        assert!(!line.contains('\x1b'));
    }
    assert_eq!(trace.end().0, Some(0));
}

#[test]
fn after_its_time_it_ends_and_what_it_wrote_is_whole() {
    need_root!();
    let (scratch, program) = (Scratch::new(), Renamed::new("true"));
    let file = scratch.0.join("events");
    let path = file.to_str().unwrap();
    let begun = Instant::now();
    let mut trace = Trace::start(&[
        "exec,exec_exit",
        "--comm",
        &program.name,
        "--format",
        "json",
        "--duration",
        "1500ms",
        "--output",
        path,
    ]);
    start_until_ended(&program, &mut trace);
    assert!(begun.elapsed() >= Duration::from_millis(1_500));
    let (code, said) = trace.end();
    assert_eq!(code, Some(0), "{said}");
    let events: Vec<Value> = fs::read_to_string(&file).unwrap().lines().map(checked).collect();
    assert!(said.contains(&format!("{} events in ", events.len())), "{said}");
    // All that began and ended meanwhile, in pairs; the first and the last may be seen half.
    let count = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert!(count("exec") > 3 && count("exec").abs_diff(count("exec_exit")) <= 1, "{said}");
}

#[test]
fn told_to_stop_it_ends_well_even_if_nobody_reads() {
    need_root!();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let program = Renamed::new("true");
        let trace = Trace::start(&["exec,exec_exit", "--comm", &program.name, "--format", "json"]);
        // More than a pipe holds, after the time it takes to get ready.
        let (begun, mut times) = (Instant::now(), 0);
        while times < 600 || begun.elapsed() < Duration::from_secs(if is_slow() { 20 } else { 3 }) {
            assert!(program.command().status().unwrap().success());
            times += 1;
        }
        trace.signal(signal);
        let stopped = Instant::now();
        let (code, said) = trace.end();
        assert_eq!(code, Some(0), "{said}");
        assert!(stopped.elapsed() < Duration::from_secs(if is_slow() { 10 } else { 2 }));
        // Emulated machines take most of that time to get ready.
        let is_full = is_slow() || said.contains(" bytes not written");
        assert!(said.contains(" events in ") && is_full, "{said}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_a_good_end() {
    need_root!();
    let program = Renamed::new("true");
    let mut trace = Trace::start(&["exec", "--comm", &program.name]);
    let mut lines = trace.lines();
    assert!(lines.next().unwrap().starts_with("TIME"));
    drop(lines);
    start_until_ended(&program, &mut trace);
    let (code, said) = trace.end();
    assert_eq!((code, said.contains("error")), (Some(0), false), "{said}");
}

#[test]
fn what_cannot_be_is_said_before_anything_is_loaded() {
    let run = |args: &[&str]| {
        let output = agent::command(&[&["trace"], args].concat()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["exce"]);
    assert!(code == Some(2) && said.contains("'exec'"), "{said}");
    let (code, said) = run(&["exec", "--duration", "10"]);
    assert!(code == Some(2) && said.contains("500ms, 10s or 5m"), "{said}");
    let (code, said) = run(&["exec", "--output", "/nowhere/at/all"]);
    assert!(code == Some(1) && said.contains("/nowhere/at/all"), "{said}");
    let (code, said) = run(&["exec", "--pid", "4194303"]);
    assert!(code == Some(2) && said.contains("4194303"), "{said}");
}

#[test]
fn it_leaves_a_running_agent_alone() {
    need_root!();
    let agent = common::Agent::start(&["--no-probe", "connection", "--interval", "3600"]);
    let program = Renamed::new("true");
    let mut trace = Trace::start(&["exec", "--comm", &program.name, "--limit", "1"]);
    start_until_ended(&program, &mut trace);
    assert_eq!(trace.end().0, Some(0));
    let page = agent.scrape();
    assert_eq!(page.count("sidecar_events_seen_total", &[]), 0);
    assert!(page.count("sidecar_exec_total", &[("comm", &program.name)]) >= 1);
    agent.stop();
}

/// `script` gives a program a terminal.
#[test]
fn on_a_terminal_there_are_colours_unless_they_are_not_wanted_and_lines_fit() {
    need_root!();
    let Some(script) = common::program("script") else { skip!("this machine has no script") };
    for (flag, colours) in [("", true), ("--no-color", false)] {
        let program = Renamed::new("true");
        let line = format!(
            "stty cols 70; unset $(env | grep -o ^SIDECAR_[A-Z_]*); exec {} --config /dev/null trace exec --comm {} \
             --limit 3 {flag}",
            agent::binary().display(),
            program.name
        );
        let mut command = Command::new(&script);
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
        let mut trace = Trace(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let lines = trace.lines();
        start_until_ended(&program, &mut trace);
        let shown: Vec<String> = lines.collect();
        let events: Vec<&String> = shown.iter().filter(|line| line.contains(&program.name)).collect();
        assert_eq!(events.len(), 3, "{shown:?}");
        for line in events {
            assert_eq!(line.contains('\x1b'), colours, "{line:?}");
            let plain = line.replace("\x1b[2m", "").replace("\x1b[0m", "");
            assert!(plain.trim_end().chars().count() <= 70, "{plain:?}");
        }
        assert_eq!(trace.end().0, Some(0));
    }
}
