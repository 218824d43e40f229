//! System calls are counted exactly: as `strace -f -c` counts them, and as often as the test itself made them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use common::{
    Agent, Page, Scratch,
    child::{Child, hear, tell},
    program, run,
};

const CALLS: &str = "sidecar_syscall_calls_total";
const ERRORS: &str = "sidecar_syscall_errors_total";
const INTERRUPTED: &str = "sidecar_syscall_interrupted_total";

/// An agent that counts nothing but calls.
fn agent(flags: &[&str]) -> Agent {
    agent_with(flags, &[])
}

/// The same with some of the probe's options.
fn agent_with(flags: &[&str], options: &[(&str, &str)]) -> Agent {
    let known =
        ["--listen", "127.0.0.1:0", "--no-probe", "connection,exec", "--probe", "syscall", "--interval", "1"];
    let mut command = common::agent::command(&[&known, flags].concat());
    for (name, value) in options {
        command.env(format!("SIDECAR_PROBES__SYSCALL__{}", name.to_uppercase()), value);
    }
    Agent::spawn(command)
}

/// A name no other process has, short enough for the kernel.
fn name(of: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{of}{}x{}", std::process::id() % 100_000, NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Calls of processes with this name.
fn calls(page: &Page, syscall: &str, comm: &str) -> u64 {
    page.count(CALLS, &[("syscall", syscall), ("comm", comm)])
}

/// The first page with so many calls of that kind; the agent may still be reading what was before them.
fn when(agent: &Agent, syscall: &str, comm: &str, count: u64) -> Page {
    let begun = std::time::Instant::now();
    loop {
        let page = agent.scrape();
        if calls(&page, syscall, comm) >= count || begun.elapsed() > Duration::from_secs(10) {
            return page;
        }
    }
}

fn getppids(count: u64) {
    for _ in 0..count {
        // SAFETY: no arguments.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
}

/// A process that makes so many calls of `getppid` when it is told to.
fn caller(name: &str, count: u64) -> Child {
    Child::fork(name, &[], move |line| {
        while hear(line) == 1 {
            getppids(count);
            tell(line, 1);
        }
    })
}

fn go(child: &mut Child) {
    child.tell(1);
    child.hear();
}

/// Calls and errors by name.
type Table = BTreeMap<String, (u64, u64)>;

/// What `strace -f -c` says of a program: `% time, seconds, usecs/call, calls[, errors], syscall`.
fn strace(scratch: &Scratch, program: &Path, arguments: &[&str]) -> Result<Table, String> {
    let out = scratch.0.join("strace");
    let tool = common::program("strace").ok_or("strace is not installed")?;
    run(Command::new(tool).args(["-f", "-c", "-o"]).arg(&out).arg(program).args(arguments))?;
    let text = fs::read_to_string(out).unwrap();
    let lines = text.lines().skip(2).take_while(|line| !line.starts_with("---"));
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse().unwrap();
        match words.len() {
            5 => (words[4].to_owned(), (number(3), 0)),
            6 => (words[5].to_owned(), (number(3), number(4))),
            _ => panic!("not a row of strace: {line}"),
        }
    };
    Ok(lines.map(row).collect())
}

/// The same of a page.
fn table(page: &Page, comm: &str) -> Table {
    let mut table = Table::new();
    for sample in page.rows(CALLS, &[("comm", comm)]) {
        table.entry(sample.labels["syscall"].clone()).or_default().0 += sample.value as u64;
    }
    for name in [ERRORS, INTERRUPTED] {
        for sample in page.rows(name, &[("comm", comm)]) {
            table.entry(sample.labels["syscall"].clone()).or_default().1 += sample.value as u64;
        }
    }
    table
}

/// A copy of busybox under a name of its own, which must begin like this: all processes of its shell then have that name.
fn busybox(scratch: &Scratch, name: &str) -> Option<PathBuf> {
    let copy = scratch.0.join(name);
    fs::copy(program("busybox")?, &copy).unwrap();
    Some(copy)
}

#[test]
fn every_call_and_error_of_a_tree_of_processes_is_counted_as_strace_counts_it() {
    need_root!();
    let (scratch, name) = (Scratch::new(), name("busybox"));
    let Some(shell) = busybox(&scratch, &name) else { skip!("busybox is not installed") };
    let path = shell.to_str().unwrap();
    let script = format!(
        "i=0; while [ $i -lt 20 ]; do {path} stat /nowhere/$i; {path} cat / ; i=$((i+1)); done 2>/dev/null; \
         {path} dd if=/dev/zero of=/dev/null bs=1 count=3000 2>/dev/null; ( ( {path} true ) ) ; /nowhere/program; true"
    );
    let arguments = ["sh", "-c", &script];
    let expected = match strace(&scratch, &shell, &arguments) {
        Ok(table) => table,
        Err(reason) => skip!("{reason}"),
    };
    let agent = agent(&["--comm", &name]);
    run(Command::new(&shell).args(arguments)).unwrap();
    let page = agent.scrape();
    assert_eq!(table(&page, &name), expected);
    assert!(expected["execve"].0 > 40 && expected["read"].0 > 3000, "{expected:?}");
    assert_eq!(page.count(ERRORS, &[("syscall", "execve"), ("errno", "ENOENT")]), expected["execve"].1);
    agent.stop();
}

#[test]
fn calls_of_many_threads_on_all_processors_are_counted_exactly() {
    const EACH: u64 = 50_000;
    need_root!();
    let name = name("thr");
    let agent = agent(&["--comm", &name]);
    let mut child = Child::fork(&name, &[], |line| {
        hear(line);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| getppids(EACH));
            }
        });
        tell(line, 1);
        hear(line);
    });
    go(&mut child);
    let page = when(&agent, "getppid", &name, 8 * EACH);
    assert_eq!(calls(&page, "getppid", &name), 8 * EACH, "{}", page.losses());
    agent.stop();
}

#[test]
fn calls_of_short_processes_with_ids_used_again_are_counted_exactly_and_forks_once() {
    const PROCESSES: u64 = 1_500;
    need_root!();
    let (name, inner) = (name("par"), name("inn"));
    let agent = agent(&[]);
    let inner_name = std::ffi::CString::new(inner.as_str()).unwrap();
    let mut child = Child::fork(&name, &[], |line| {
        hear(line);
        for number in 0..PROCESSES {
            // SAFETY: the child makes system calls only.
            unsafe {
                let pid = libc::fork();
                if pid == 0 {
                    if number % 2 == 0 {
                        libc::prctl(libc::PR_SET_NAME, inner_name.as_ptr());
                    }
                    getppids(3);
                    libc::_exit(0);
                }
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
        }
        tell(line, 1);
        hear(line);
    });
    go(&mut child);
    let page = agent.scrape();
    assert_eq!(calls(&page, "getppid", &name), 3 * PROCESSES / 2, "{}", page.losses());
    assert_eq!(calls(&page, "getppid", &inner), 3 * PROCESSES / 2);
    assert_eq!(calls(&page, "clone", &name) + calls(&page, "fork", &name), PROCESSES);
    assert_eq!(calls(&page, "clone", &inner), 0);
    // The kernel may interrupt none of them, and nobody's name fits both.
    assert_eq!(calls(&page, "wait4", &name), PROCESSES);
    agent.stop();
}

#[test]
fn calls_count_under_a_new_name_from_the_moment_it_is_given_in_all_threads() {
    need_root!();
    let (first, second) = (name("one"), name("two"));
    let agent = agent(&[]);
    let renamed = std::ffi::CString::new(second.as_str()).unwrap();
    let mut child = Child::fork(&first, &[], |line| {
        hear(line);
        let (ask, asked) = std::sync::mpsc::channel::<u64>();
        let (done, is_done) = std::sync::mpsc::channel();
        let worker = thread::spawn(move || {
            for count in asked {
                getppids(count);
                done.send(()).unwrap();
            }
        });
        ask.send(1000).unwrap();
        is_done.recv().unwrap();
        // SAFETY: a terminated string.
        unsafe { libc::prctl(libc::PR_SET_NAME, renamed.as_ptr()) };
        ask.send(500).unwrap();
        is_done.recv().unwrap();
        drop(ask);
        worker.join().unwrap();
        tell(line, 1);
        hear(line);
    });
    go(&mut child);
    let page = agent.scrape();
    assert_eq!((calls(&page, "getppid", &first), calls(&page, "getppid", &second)), (1000, 500));
    agent.stop();
}

#[test]
fn calls_that_a_signal_interrupts_are_no_errors_and_its_return_has_its_name() {
    extern "C" fn nothing(_: libc::c_int) {}
    const SIGNALS: u64 = 25;
    need_root!();
    let name = name("sig");
    let agent = agent(&["--comm", &name]);
    let mut child = Child::fork(&name, &[], |line| {
        // SAFETY: a handler that does nothing; SA_RESTART, so that the read below goes on by itself.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
        }
        tell(line, 1);
        hear(line);
        tell(line, 1);
        hear(line);
    });
    child.hear();
    let status = format!("/proc/{}/syscall", child.pid);
    for _ in 0..SIGNALS {
        // Asleep in its read each time: number 0 on x86, 63 on aarch64; the receiving function is recvfrom.
        common::eventually("the child sleeps", || {
            fs::read_to_string(&status).is_ok_and(|text| !text.starts_with("running"))
                && fs::read_to_string(format!("/proc/{}/stat", child.pid))
                    .is_ok_and(|text| text.contains(") S "))
        });
        // SAFETY: our own child.
        unsafe { libc::kill(child.pid, libc::SIGUSR1) };
        thread::sleep(Duration::from_millis(if common::is_slow() { 100 } else { 20 }));
    }
    go(&mut child);
    let page = agent.scrape();
    let comm = [("comm", name.as_str())];
    assert_eq!(calls(&page, "rt_sigreturn", &name), SIGNALS);
    assert_eq!(page.count(INTERRUPTED, &comm), SIGNALS);
    // What is left is a child's closing of descriptors that are closed already.
    let failed: Vec<_> = page.rows(ERRORS, &comm).filter(|row| row.labels["syscall"] != "close").collect();
    assert!(failed.is_empty(), "{failed:?}");
    agent.stop();
}

/// `__X32_SYSCALL_BIT`
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

/// A 32-bit call from a 64-bit program: the old gate, the old numbers.
#[cfg(target_arch = "x86_64")]
fn old_call(number: i32) -> i32 {
    let result: i32;
    // SAFETY: calls without arguments that touch no memory.
    unsafe { std::arch::asm!("int 0x80", inlateout("eax") number => result) };
    result
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_the_32_bit_table_and_unknown_numbers_are_kept_apart() {
    need_root!();
    // getppid is 64 in the 32-bit table and 110 in the other, in which 64 is semget.
    let name = name("old");
    let agent = agent(&["--comm", &name]);
    let mut child = Child::fork(&name, &[], |line| {
        hear(line);
        for _ in 0..30 {
            if old_call(64) <= 0 {
                tell(line, 2);
                return;
            }
        }
        getppids(7);
        for (number, count) in [(5000, 3), (-1, 4), (X32 + 110, 5)] {
            for _ in 0..count {
                // SAFETY: calls there are not, and x32's getppid.
                unsafe { libc::syscall(number) };
            }
        }
        old_call(3000);
        tell(line, 1);
        hear(line);
    });
    child.tell(1);
    if child.hear() == 2 {
        skip!("this kernel has no 32-bit calls");
    }
    let page = agent.scrape();
    let counts = ["compat:getppid", "getppid", "semget", "5000", "-1", "x32:getppid", "compat:3000"]
        .map(|syscall| calls(&page, syscall, &name));
    assert_eq!(counts, [30, 7, 0, 3, 4, 5, 1], "{}", page.text);
    let failed = |syscall: &str| page.count(ERRORS, &[("syscall", syscall), ("errno", "ENOSYS")]);
    assert_eq!(["5000", "-1", "compat:3000"].map(failed), [3, 4, 1]);
    agent.stop();
}

#[test]
fn only_calls_of_what_passes_the_filter_are_counted() {
    need_root!();
    let (chosen_name, other_name) = (name("yes"), name("noo"));
    let mut chosen = caller(&chosen_name, 100);
    let mut other = caller(&other_name, 100);
    let pid = chosen.pid.to_string();
    for flags in
        [&["--pid", pid.as_str()][..], &["--comm", &chosen_name], &["--pid", &pid, "--comm", &chosen_name]]
    {
        let agent = agent(flags);
        go(&mut chosen);
        go(&mut other);
        let page = agent.scrape();
        assert_eq!(calls(&page, "getppid", &chosen_name), 100, "{flags:?}");
        assert_eq!(page.rows(CALLS, &[("comm", &other_name)]).count(), 0, "{flags:?}");
        agent.stop();
    }
    let agent = agent(&["--pid", &pid, "--comm", &other_name]);
    go(&mut chosen);
    go(&mut other);
    assert_eq!(agent.scrape().rows(CALLS, &[]).count(), 0);
    agent.stop();
}

#[test]
fn calls_of_descendants_are_counted_only_if_asked_for() {
    need_root!();
    for (flags, expected) in [(&["--children"][..], 40), (&[], 0)] {
        let (outer, inner) = (name("out"), name("inn"));
        let inner_name = inner.clone();
        let mut parent = Child::fork(&outer, &[], move |line: &mut UnixStream| {
            hear(line);
            let mut child = caller(&inner_name, 40);
            go(&mut child);
            tell(line, 1);
            hear(line);
        });
        let agent = agent(&[&["--pid", &parent.pid.to_string()], flags].concat());
        go(&mut parent);
        assert_eq!(calls(&agent.scrape(), "getppid", &inner), expected, "{flags:?}");
        agent.stop();
    }
}

#[test]
fn calls_of_processes_beyond_the_limit_count_as_other_and_none_is_lost() {
    need_root!();
    let names: Vec<String> = (0..12).map(|_| name("lim")).collect();
    let mut children: Vec<Child> = names.iter().map(|name| caller(name, 50)).collect();
    let mut flags = vec!["--labels", "comm"];
    let pids: Vec<String> = children.iter().map(|child| child.pid.to_string()).collect();
    for pid in &pids {
        flags.extend(["--pid", pid]);
    }
    let agent = agent_with(&flags, &[("max_processes", "4")]);
    for child in &mut children {
        go(child);
    }
    let page = agent.scrape();
    let own: Vec<u64> = names.iter().map(|name| calls(&page, "getppid", name)).collect();
    assert_eq!(own.iter().filter(|count| **count == 50).count(), 4, "{own:?}");
    assert_eq!(page.count(CALLS, &[("syscall", "getppid")]), 12 * 50);
    assert_eq!(calls(&page, "getppid", "other"), 8 * 50);
    assert!(page.count("sidecar_syscall_overflowed_total", &[]) >= 8 * 50);
    agent.stop();
}

#[test]
fn more_kinds_of_calls_than_fit_into_the_tables_lose_none() {
    const KINDS: i64 = 3_000;
    need_root!();
    let name = name("kin");
    let agent = agent(&["--comm", &name, "--max-series", "300"]);
    let mut child = Child::fork(&name, &[], |line| {
        while hear(line) == 1 {
            for number in 0..KINDS {
                // SAFETY: calls there are not.
                unsafe { libc::syscall(10_000 + number) };
            }
            tell(line, 1);
        }
    });
    for round in 1..=4 {
        go(&mut child);
        let page = agent.scrape();
        let failed = |syscall| page.count(ERRORS, &[("syscall", syscall)]);
        assert_eq!(page.count(ERRORS, &[]) - failed("close"), round * KINDS as u64, "round {round}");
        let sets = page.sum("sidecar_syscall_label_sets", &[]);
        assert!(sets <= 300.0, "{sets} label sets");
    }
    agent.stop();
}

#[test]
fn how_long_calls_take_is_measured_only_if_asked_for() {
    const SLEEPS: u64 = 20;
    need_root!();
    let name = name("lat");
    let mut child = Child::fork(&name, &[], |line| {
        while hear(line) == 1 {
            for _ in 0..SLEEPS {
                thread::sleep(Duration::from_millis(12));
            }
            tell(line, 1);
        }
    });
    for latency in ["false", "true"] {
        let agent = agent_with(&["--comm", &name], &[("latency", latency)]);
        let begun = std::time::Instant::now();
        go(&mut child);
        let took = begun.elapsed().as_secs_f64();
        let page = when(&agent, "clock_nanosleep", &name, SLEEPS);
        let of_sleep = [("syscall", "clock_nanosleep")];
        let (_, hooks) = agent.get("/api/v1/probes").unwrap();
        assert_eq!(hooks.contains("sys_enter"), latency == "true", "{hooks}");
        assert_eq!(calls(&page, "clock_nanosleep", &name), SLEEPS);
        let count = page.count("sidecar_syscall_seconds_count", &of_sleep);
        if latency == "false" {
            assert_eq!(count, 0);
        } else {
            assert_eq!(count, SLEEPS);
            let sum = page.sum("sidecar_syscall_seconds_sum", &of_sleep);
            assert!((0.012 * SLEEPS as f64..took).contains(&sum), "{sum} of {took}");
            let bucket = |le| page.count("sidecar_syscall_seconds_bucket", &[of_sleep[0], ("le", le)]);
            assert_eq!((bucket("0.01"), bucket("10.0")), (0, SLEEPS));
        }
        agent.stop();
    }
}
