//! `sidecar count` as users run it: exact sums, a summary however it ends, and clear errors.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{
    agent,
    child::{self, hear, tell},
};
use serde_json::Value;

/// A running `sidecar count`. Killed with the value.
struct Count(Child);

impl Count {
    fn start(args: &[&str]) -> Self {
        let mut command: Command = agent::command(&[&["count"], args].concat());
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for its end: exit code, standard output, standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut shown, mut said) = (String::new(), String::new());
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut shown).unwrap();
        }
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), shown, said)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that makes so many calls each time it is told to.
fn caller(name: &str, count: u64) -> child::Child {
    child::Child::fork(name, &[], move |line| {
        while hear(line) == 1 {
            for _ in 0..count {
                // SAFETY: no arguments.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }
            tell(line, 1);
        }
    })
}

/// The group of a JSON line.
fn group<'a>(line: &'a Value, label: &str, name: &str) -> Option<&'a Value> {
    line["groups"].as_array().unwrap().iter().find(|group| group[label] == name)
}

#[test]
fn the_calls_of_a_process_are_counted_each_interval_and_in_the_summary() {
    need_root!();
    let mut child = caller("counted", 1000);
    let pid = child.pid.to_string();
    let mut count = Count::start(&["syscalls", "--pid", &pid, "--format", "json", "--interval", "200ms"]);
    let mut lines = BufReader::new(count.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap()).unwrap();
    // From its first line on it counts.
    assert_eq!(next()["kind"], "interval");
    for _ in 0..3 {
        child.tell(1);
        child.hear();
    }
    let (begun, mut seen) = (Instant::now(), 0);
    while seen < 3000 {
        assert!(begun.elapsed() < Duration::from_secs(30), "only {seen}");
        let line = next();
        seen += group(&line, "syscall", "getppid").map_or(0, |group| group["count"].as_u64().unwrap());
    }
    // SAFETY: our own child.
    unsafe { libc::kill(count.0.id() as i32, libc::SIGINT) };
    let summary = std::iter::from_fn(|| Some(next())).find(|line| line["kind"] == "summary").unwrap();
    let getppid = group(&summary, "syscall", "getppid").unwrap();
    assert_eq!((&getppid["count"], &getppid["errors"]), (&3000.into(), &0.into()));
    assert_eq!(count.end().0, Some(0));
}

#[test]
fn a_summary_comes_when_the_time_is_over_and_is_grouped_as_asked() {
    need_root!();
    let child = caller("grouped", 1);
    let pid = child.pid.to_string();
    for by in ["comm", "pid", "cgroup", "syscall"] {
        let count = Count::start(&["syscalls", "--pid", &pid, "--by", by, "--duration", "300ms"]);
        let (code, shown, said) = count.end();
        assert_eq!(code, Some(0), "{said}");
        assert!(shown.contains(&format!(" errors {by}\n")), "{shown}");
        assert!(shown.contains(" total\n") && shown.contains(" syscalls in "), "{shown}");
    }
}

#[test]
fn whoever_stops_reading_ends_it_well() {
    need_root!();
    let mut count = Count::start(&["syscalls", "--interval", "100ms"]);
    let mut line = String::new();
    BufReader::new(count.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (code, _, said) = count.end();
    assert_eq!((code, said.contains("Broken pipe")), (Some(0), false), "{said}");
}

#[test]
fn what_cannot_be_counted_or_grouped_by_is_said() {
    for (args, expected) in [
        (&["everything"][..], "syscalls"),
        (&["syscalls", "--by", "port"], "syscall, comm, pid, cgroup"),
        (&["syscalls", "--interval", "1ms"], "at least 100ms"),
        (&["syscalls", "--duration", "soon"], "500ms"),
    ] {
        let (code, _, said) = Count::start(args).end();
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}
