//! Programs that are started, starts that fail and processes that end: as many as there were, and what is told of them is
//! what the test did itself or what `wait4` says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use common::{
    Agent, Page, Scratch,
    child::Child,
    events::Stream,
    is_slow,
    programs::{Renamed, exec_fails, not_executable, own_name, own_role, role},
};
use serde_json::Value;

fn agent(flags: &[&str]) -> Agent {
    Agent::start(&[&["--no-probe", "connection", "--interval", "3600"], flags].concat())
}

/// How often a test does what it counts; machines that are emulated do less.
fn many(times: u64) -> u64 {
    if is_slow() { times / 20 } else { times }
}

fn execs(page: &Page, comm: &str, result: &str) -> u64 {
    page.count("sidecar_exec_total", &[("comm", comm), ("result", result)])
}

fn exits(page: &Page, comm: &str, reason: &str) -> u64 {
    page.count("sidecar_exec_exits_total", &[("comm", comm), ("reason", reason)])
}

/// All exits of a name, whatever the reason.
fn all_exits(page: &Page, comm: &str) -> u64 {
    page.count("sidecar_exec_exits_total", &[("comm", comm)])
}

/// Whether failed starts are seen on this kernel.
fn sees_failures(agent: &Agent) -> bool {
    let (_, text) = agent.get("/api/v1/probes").unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let probes = document["probes"].as_array().unwrap();
    let hooks = probes.iter().find(|probe| probe["probe"] == "exec").unwrap()["hooks"].as_array().unwrap();
    hooks.iter().any(|hook| hook["hook"] == "failed execve" && !hook["used"].is_null())
}

/// A process ends a moment before it has been waited for, but the agent reads it afterwards.
#[test]
fn ten_thousand_short_processes_are_ten_thousand() {
    need_root!();
    let agent = agent(&[]);
    let (good, bad) = (Renamed::new("true"), Renamed::new("false"));
    let before = agent.scrape();
    let times = many(5_000);
    thread::scope(|scope| {
        for (program, code) in [(&good, 0), (&bad, 1)] {
            scope.spawn(move || {
                for _ in 0..times {
                    assert_eq!(program.command().status().unwrap().code(), Some(code));
                }
            });
        }
    });
    let page = agent.scrape();
    for (program, reason) in [(&good, "success"), (&bad, "failure")] {
        assert_eq!(execs(&page, &program.name, "ok"), times);
        assert_eq!((exits(&page, &program.name, reason), all_exits(&page, &program.name)), (times, times));
    }
    let lived = |page: &Page| page.count("sidecar_exec_lifetime_seconds_count", &[]);
    assert!(lived(&page) - lived(&before) >= 2 * times);
    assert_eq!(
        page.count("sidecar_exec_lifetime_seconds_count", &[]),
        page.count("sidecar_exec_exits_total", &[])
    );
    agent.stop();
}

#[test]
fn starts_that_fail_are_counted_by_their_error() {
    need_root!();
    let agent = agent(&[]);
    if !sees_failures(&agent) {
        skip!("this kernel has no way to see failed execs");
    }
    let scratch = Scratch::new();
    let (file, name, times) = (not_executable(&scratch), own_name(), many(2_000));
    let child = Child::fork(&name, &[], |_| {
        for _ in 0..times {
            assert_eq!(exec_fails(Path::new("/nowhere/at/all")).raw_os_error(), Some(libc::ENOENT));
        }
        for _ in 0..times / 2 {
            assert_eq!(exec_fails(&file).raw_os_error(), Some(libc::EACCES));
        }
        for _ in 0..times / 4 {
            let failed = execveat(&file);
            assert_eq!(failed.raw_os_error(), Some(libc::EACCES));
        }
    });
    child.join();
    let page = agent.scrape();
    let counted = ["ENOENT", "EACCES", "ok"].map(|result| execs(&page, &name, result));
    assert_eq!(counted, [times, times / 2 + times / 4, 0]);
    agent.stop();
}

/// The same through the other system call.
fn execveat(path: &Path) -> std::io::Error {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let none = [std::ptr::null::<libc::c_char>()];
    // SAFETY: a string and vectors that end as they should.
    unsafe {
        libc::syscall(libc::SYS_execveat, libc::AT_FDCWD, path.as_ptr(), none.as_ptr(), none.as_ptr(), 0)
    };
    std::io::Error::last_os_error()
}

#[test]
fn an_end_is_counted_by_its_signal() {
    need_root!();
    let agent = agent(&[]);
    let shell = Renamed::new("sh");
    for (command, reason) in
        [("exit 3", "failure"), ("kill -9 $$", "SIGKILL"), ("kill -15 $$", "SIGTERM"), ("exit 0", "success")]
    {
        shell.command().args(["-c", command]).status().unwrap();
        assert_eq!(exits(&agent.scrape(), &shell.name, reason), 1, "{command}");
    }
    agent.stop();
}

/// What processes with threads do; does nothing unless it is started for one of them.
#[test]
fn a_process_with_threads() {
    let Some(role) = own_role() else { return };
    let pause = || loop {
        thread::sleep(Duration::from_secs(1));
    };
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["together"] => {
            (0..8).for_each(|_| drop(thread::spawn(pause)));
            std::process::exit(5);
        }
        ["one", "after", "the", "other"] => {
            let threads: Vec<_> = (0..8).map(|_| thread::spawn(|| ())).collect();
            for thread in threads {
                thread.join().unwrap();
            }
            std::process::exit(0);
        }
        ["exec", path] => {
            let path = path.to_owned();
            thread::spawn(pause);
            // Another thread than the main one becomes the new program.
            thread::spawn(move || {
                let error = std::os::unix::process::CommandExt::exec(Command::new(path).arg0_true());
                panic!("{error}");
            });
            pause();
        }
        _ => panic!("no such role: {role}"),
    }
}

/// Ends this thread and no other.
fn end_thread() -> ! {
    // SAFETY: nothing of this thread is used afterwards; the process is nothing but such threads.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("a thread that has ended")
}

trait Arg0 {
    fn arg0_true(&mut self) -> &mut Self;
}

impl Arg0 for Command {
    fn arg0_true(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::arg0(self, "true")
    }
}

fn with_threads(role_name: &str) -> (Renamed, Command) {
    let program = Renamed::of(&std::env::current_exe().unwrap());
    let command = role(&program, "a_process_with_threads", role_name);
    (program, command)
}

#[test]
fn threads_are_no_processes_however_they_end() {
    need_root!();
    let agent = agent(&[]);
    let times = many(200);
    for (role, reason) in [("together", "failure"), ("one after the other", "success")] {
        let (program, mut command) = with_threads(role);
        for _ in 0..times {
            command.status().unwrap();
        }
        let page = agent.scrape();
        assert_eq!(execs(&page, &program.name, "ok"), times, "{role}");
        assert_eq!(
            (exits(&page, &program.name, reason), all_exits(&page, &program.name)),
            (times, times),
            "{role}"
        );
    }
    agent.stop();
}

#[test]
fn threads_that_end_at_the_same_moment_are_one_process() {
    need_root!();
    let agent = agent(&[]);
    let (name, times) = (own_name(), many(200));
    for _ in 0..times {
        let child = Child::fork(&name, &[], |_| {
            // Every thread ends by itself, all at the same moment, the main one among them.
            let at = Instant::now() + Duration::from_millis(if is_slow() { 100 } else { 10 });
            let end_then = move || {
                while Instant::now() < at {
                    thread::yield_now();
                }
                end_thread();
            };
            (0..8).for_each(|_| drop(thread::spawn(end_then)));
            end_then();
        });
        child.join();
    }
    let page = agent.scrape();
    assert_eq!((exits(&page, &name, "success"), all_exits(&page, &name)), (times, times));
    agent.stop();
}

#[test]
fn a_thread_that_becomes_a_program_ends_the_others_but_no_process() {
    need_root!();
    let agent = agent(&[]);
    let (times, target) = (many(100), Renamed::new("true"));
    let (program, mut command) = with_threads(&format!("exec {}", target.path.display()));
    for _ in 0..times {
        assert_eq!(command.status().unwrap().code(), Some(0));
    }
    let page = agent.scrape();
    assert_eq!((execs(&page, &program.name, "ok"), all_exits(&page, &program.name)), (times, 0));
    assert_eq!((execs(&page, &target.name, "ok"), exits(&page, &target.name, "success")), (times, times));
    agent.stop();
}

#[test]
fn a_filter_leaves_out_what_it_does_not_name() {
    need_root!();
    let (wanted, other) = (Renamed::new("true"), Renamed::new("true"));
    let agent = agent(&["--comm", &wanted.name]);
    for _ in 0..10 {
        wanted.command().status().unwrap();
        other.command().status().unwrap();
    }
    let page = agent.scrape();
    assert_eq!((execs(&page, &wanted.name, "ok"), all_exits(&page, &wanted.name)), (10, 10));
    assert_eq!((execs(&page, &other.name, "ok"), all_exits(&page, &other.name)), (0, 0));
    assert_eq!(page.rows("sidecar_exec_total", &[]).count(), 1);
    agent.stop();
}

#[test]
fn beyond_the_series_there_may_be_the_rest_is_other_and_nothing_is_missing() {
    need_root!();
    let agent = agent(&["--max-series", "4"]);
    let times = 40;
    for _ in 0..times {
        Renamed::new("true").command().status().unwrap();
    }
    let page = agent.scrape();
    assert!(page.rows("sidecar_exec_total", &[]).count() <= 5);
    assert!(page.count("sidecar_exec_total", &[]) >= times);
    assert!(page.count("sidecar_exec_total", &[("comm", "other")]) > 0);
    agent.stop();
}

/// What the parent is told of a child, by the kernel itself.
fn wait4(child: &std::process::Child) -> (ExitStatus, u64) {
    let mut status = 0;
    // SAFETY: our own child, and places for the answers; a `rusage` of zeros is valid.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert!(libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) > 0);
        usage
    };
    (ExitStatus::from_raw(status), usage.ru_maxrss as u64 * 1024)
}

#[test]
#[expect(clippy::zombie_processes, reason = "wait4 waits")]
fn events_tell_what_happened_and_hide_secrets() {
    need_root!();
    let agent = agent(&[]);
    let shell = Renamed::new("sh");
    let mut stream = Stream::open(&agent, &format!("types=exec,exec_exit&comm={}", shell.name));
    let begun = Instant::now();
    let child = shell
        .command()
        .args(["-c", "sleep 0.2; exit 7", "--password", "hunter2", "token=swordfish"])
        .spawn()
        .unwrap();
    let (status, peak) = wait4(&child);
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(status.code(), Some(7));
    let events = stream.until(|event| event["event"] == "exec_exit" && event["pid"] == child.id());
    let exec = &events[0];
    assert_eq!((&exec["event"], &exec["pid"]), (&"exec".into(), &child.id().into()));
    assert_eq!((&exec["ppid"], &exec["uid"]), (&std::process::id().into(), &0.into()));
    assert_eq!((&exec["result"], &exec["path"]), (&"ok".into(), &shell.path.to_str().unwrap().into()));
    let expected = ["sh", "-c", "sleep 0.2; exit 7", "--password", "***", "token=***"];
    assert_eq!(exec["args"], Value::from(expected.to_vec()));
    assert_eq!(exec["args_cut"], false);
    assert!(events.iter().all(|event| !event.to_string().contains("hunter2")));
    let exit = events.last().unwrap();
    assert_eq!(
        (&exit["code"], &exit["signal"], &exit["ppid"]),
        (&7.into(), &Value::Null, &std::process::id().into())
    );
    assert_eq!(exit["peak_memory_bytes"], peak);
    let lifetime = exit["lifetime_seconds"].as_f64().unwrap();
    assert!(lifetime >= 0.2 && lifetime <= took, "{lifetime} of {took}");
    // Both clocks tell of the same moments.
    let monotonic = |event: &Value| event["monotonic_ns"].as_u64().unwrap();
    assert!(monotonic(exit) > monotonic(exec));
    agent.stop();
}

#[test]
fn events_of_starts_that_fail_say_what_was_tried() {
    need_root!();
    let agent = agent(&[]);
    if !sees_failures(&agent) {
        skip!("this kernel has no way to see failed execs");
    }
    let name = own_name();
    let mut stream = Stream::open(&agent, &format!("types=exec&comm={name}"));
    let child = Child::fork(&name, &[], |_| {
        exec_fails(Path::new("/nowhere/at/all"));
    });
    let pid = child.pid;
    child.join();
    let event = stream.next();
    assert_eq!((&event["pid"], &event["result"]), (&pid.into(), &"ENOENT".into()));
    assert_eq!(event["path"], "/nowhere/at/all");
    assert_eq!(event["args"], Value::from(vec!["program", "--password", "***"]));
    agent.stop();
}

#[test]
fn long_arguments_are_cut_and_it_says_so() {
    need_root!();
    let agent = agent(&[]);
    let program = Renamed::new("true");
    let mut stream = Stream::open(&agent, &format!("types=exec&comm={}", program.name));
    program.command().args(["x".repeat(600), "y".repeat(600), "z".repeat(100_000)]).status().unwrap();
    let event = stream.next();
    let arguments = event["args"].as_array().unwrap();
    assert_eq!(arguments[1], "x".repeat(600));
    assert!("y".repeat(600).starts_with(arguments[2].as_str().unwrap()) && arguments.len() == 3, "{event}");
    assert_eq!(event["args_cut"], true);
    agent.stop();
}

#[test]
fn nothing_is_recorded_unless_somebody_listens() {
    need_root!();
    let agent = agent(&[]);
    let program = Renamed::new("true");
    let seen = |page: &Page| page.count("sidecar_events_seen_total", &[]);
    program.command().status().unwrap();
    assert_eq!(seen(&agent.scrape()), 0);
    drop(Stream::open(&agent, ""));
    common::eventually("nobody listens", || agent.scrape().count("sidecar_event_subscribers", &[]) == 0);
    let before = seen(&agent.scrape());
    program.command().status().unwrap();
    assert_eq!(seen(&agent.scrape()), before);
    agent.stop();
}

#[test]
fn what_comes_too_fast_is_lost_and_counted_and_nothing_else_is() {
    need_root!();
    let program = Renamed::new("true");
    let agent = agent(&["--comm", &program.name]);
    let mut stream = Stream::open(&agent, "types=exec_exit");
    // Nobody empties the ring meanwhile.
    agent.signal(libc::SIGSTOP);
    let times = 1_500;
    for _ in 0..times {
        program.command().status().unwrap();
    }
    agent.signal(libc::SIGCONT);
    let (mut delivered, mut missed) = (0, 0);
    while delivered + missed < times {
        let event = stream.next();
        if event["event"] == "lost" {
            assert_eq!((&event["reason"], &event["lost"]), (&"ring_full".into(), &"exec_exit".into()));
            missed += event["count"].as_u64().unwrap();
        } else {
            assert_eq!(event["comm"], program.name.as_str());
            delivered += 1;
        }
    }
    assert!(missed > 0 && delivered > 0);
    assert_eq!(delivered + missed, times);
    let page = agent.scrape();
    let count = |name: &str| page.count(&format!("sidecar_events_{name}_total"), &[("event", "exec_exit")]);
    assert_eq!((count("delivered"), count("lost"), count("seen")), (delivered, missed, times));
    assert_eq!(all_exits(&page, &program.name), times);
    agent.stop();
}
