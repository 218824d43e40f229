//! Beginning and end of the agent: what it leaves behind (nothing), what it says when it cannot run, what it may do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use common::{Agent, Pair, Scratch, agent, bpf};

/// `nobody`.
const NOBODY: u32 = 65_534;

/// Runs the agent to its end.
fn ends(mut command: Command) -> Output {
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id() as i32;
    // Should it run after all, the test must not hang.
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if waiting
            .recv_timeout(Duration::from_mins(1))
            .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            // SAFETY: our own child, which is waited for below.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watch.join().unwrap();
    output
}

/// Its exit code, after checking that it gave one line of explanation with all of `words`.
fn explained(output: &Output, words: &[&str]) -> Option<i32> {
    let said = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("sidecar: ")).collect();
    assert_eq!(errors.len(), 1, "one line:\n{said}");
    for word in words {
        assert!(errors[0].contains(word), "no {word:?} in: {}", errors[0]);
    }
    output.status.code()
}

/// Waits until the kernel holds none of these programs and links. Those of a dead process go a moment later.
fn gone(held: &(std::collections::BTreeSet<u32>, std::collections::BTreeSet<u32>)) {
    assert!(!held.0.is_empty() && !held.1.is_empty(), "the agent held nothing: {held:?}");
    common::eventually("nothing is left in the kernel", || {
        bpf::programs().is_disjoint(&held.0) && bpf::links().is_disjoint(&held.1)
    });
}

/// Files in the BPF file system.
fn pinned() -> Vec<PathBuf> {
    fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn it_stops_within_a_second_when_told_and_leaves_nothing_behind() {
    need_root!();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let before = pinned();
        let agent = Agent::start(&["--interval", "3600"]);
        let pair = Pair::new();
        pair.exchange(1000, 1000);
        let held = bpf::held_by(agent.pid());
        assert!(held.0.is_subset(&bpf::programs()), "{held:?}");
        let begun = Instant::now();
        agent.signal(signal);
        let (status, log) = agent.wait();
        let took = begun.elapsed();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{log}");
        assert!(took < Duration::from_secs(if common::is_slow() { 5 } else { 1 }), "{took:?}");
        gone(&held);
        assert_eq!(pinned(), before);
        pair.exchange(10, 10);
    }
}

#[test]
fn killed_without_warning_it_leaves_nothing_behind() {
    need_root!();
    let before = pinned();
    let agent = Agent::start(&["--interval", "1"]);
    let pair = Pair::new();
    pair.exchange(1000, 1000);
    let held = bpf::held_by(agent.pid());
    agent.signal(libc::SIGKILL);
    assert_eq!(agent.wait().0.signal(), Some(libc::SIGKILL));
    gone(&held);
    assert_eq!(pinned(), before);
    pair.exchange(10, 10);
}

#[test]
fn started_again_it_takes_up_what_is_there() {
    need_root!();
    let pair = Pair::new();
    for round in 1..=2 {
        let agent = Agent::start(&["--interval", "1"]);
        pair.exchange(100 * round, 0);
        let (page, ..) = pair.at_rest(&agent);
        assert_eq!((page.both(pair.port).0.sent, page.both(pair.port).0.active), (100 * round as u64, 1));
        agent.stop();
    }
}

#[test]
fn two_agents_do_not_disturb_each_other() {
    need_root!();
    let agents = [Agent::start(&["--interval", "1"]), Agent::start(&["--interval", "1"])];
    let pair = Pair::new();
    pair.exchange(12_345, 678);
    for agent in &agents {
        let (page, ..) = pair.at_rest(agent);
        assert_eq!((page.both(pair.port).0.sent, page.both(pair.port).0.opened), (12_345, 1));
    }
    agents.into_iter().for_each(Agent::stop);
}

#[test]
fn a_taken_port_is_said_in_one_line_with_its_exit_code() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let output = ends(agent::command(&["--listen", &address]));
    assert_eq!(explained(&output, &[&address]), Some(5));
}

#[test]
fn an_unknown_process_and_cgroup_are_said_in_one_line_with_the_exit_code() {
    for (flags, word) in
        [(["--pid", "4194303"], "4194303"), (["--cgroup", "/no/such/cgroup"], "/no/such/cgroup")]
    {
        let output = ends(agent::command(&[&["--listen", "127.0.0.1:0"], &flags[..]].concat()));
        assert_eq!(explained(&output, &[word]), Some(2));
    }
}

/// The agent where another user can run it.
fn for_everybody(scratch: &Scratch) -> PathBuf {
    let copy = scratch.0.join("sidecar");
    fs::copy(agent::binary(), &copy).unwrap();
    for path in [&scratch.0, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy
}

#[test]
fn without_capabilities_it_says_so_in_one_line_with_its_exit_code() {
    need_root!();
    let scratch = Scratch::new();
    let mut command = agent::command_of(&for_everybody(&scratch), &["--listen", "127.0.0.1:0"]);
    command.uid(NOBODY).gid(NOBODY);
    let output = ends(command);
    assert_eq!(explained(&output, &["cap_bpf"]), Some(3));
}

#[test]
fn an_ordinary_user_with_three_capabilities_can_run_it() {
    use caps::{CapSet, Capability};
    need_root!();
    let scratch = Scratch::new();
    let mut command = agent::command_of(&for_everybody(&scratch), &["--listen", "127.0.0.1:0"]);
    // What the kernel does for a file with `setcap cap_bpf,cap_perfmon,cap_net_admin+ep`.
    let wanted = [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN];
    let become_user = move || {
        let other = |_| std::io::Error::other("capabilities");
        // SAFETY: system calls only.
        unsafe {
            // Before 5.11 maps are locked memory, and this user may not raise the limit.
            let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all);
            libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0);
            if libc::setresgid(NOBODY, NOBODY, NOBODY) != 0 || libc::setresuid(NOBODY, NOBODY, NOBODY) != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        let set = wanted.iter().copied().collect();
        caps::set(None, CapSet::Effective, &set).map_err(other)?;
        caps::set(None, CapSet::Permitted, &set).map_err(other)?;
        caps::set(None, CapSet::Inheritable, &set).map_err(other)?;
        wanted
            .iter()
            .try_for_each(|capability| caps::raise(None, CapSet::Ambient, *capability))
            .map_err(other)
    };
    // SAFETY: system calls only between fork and exec.
    unsafe { command.pre_exec(become_user) };
    let agent = Agent::spawn(command);
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    assert!(status.contains(&format!("Uid:\t{NOBODY}\t")), "{status}");
    let pair = Pair::new();
    pair.exchange(999, 111);
    let (page, ..) = pair.at_rest(&agent);
    let (of_client, of_server) = page.both(pair.port);
    assert_eq!((of_client.sent, of_client.received, of_server.opened), (999, 111, 1));
    agent.stop();
}

#[test]
fn once_attached_it_has_given_up_what_it_does_not_need() {
    need_root!();
    let agent = Agent::start(&["--interval", "1"]);
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    for set in ["CapEff:", "CapPrm:"] {
        let held = u64::from_str_radix(&field(set), 16).unwrap();
        // `include/uapi/linux/capability.h`
        let (sys_admin, sys_ptrace, dac_override, bpf, perfmon, net_admin) =
            (1 << 21, 1 << 19, 1 << 1, 1 << 39, 1 << 38, 1 << 12);
        assert_eq!(held & (sys_admin | sys_ptrace | dac_override), 0, "{set} {held:x}");
        assert_eq!(held & !(bpf | perfmon | net_admin), 0, "{set} {held:x}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    agent.stop();
}
