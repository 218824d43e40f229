//! What the tests of the running agent share: the agent as a child process, its page as numbers, and ways to make TCP do
//! things. Tests look at rows of a port of their own, so that whatever else the machine does is not in their way.
#![allow(dead_code, unused_imports, reason = "every test program uses its own part of this")]

pub(crate) mod agent;
pub(crate) mod bpf;
pub(crate) mod child;
pub(crate) mod events;
pub(crate) mod frames;
pub(crate) mod net;
pub(crate) mod netns;
pub(crate) mod page;
pub(crate) mod programs;
pub(crate) mod tmux;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub(crate) use self::{
    agent::Agent,
    net::Pair,
    netns::Netns,
    page::{Page, Side},
};

/// Leaves a test that cannot run here. `cargo xtask test` counts these apart.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        println!("skipped: {}", format_args!($($reason)*));
        return;
    }};
}

/// Leaves a test that needs root for more than reading.
#[macro_export]
macro_rules! need_root {
    () => {
        if !$crate::common::is_root() {
            $crate::skip!("not root: the agent cannot load programs");
        }
    };
}

/// The agent all tests of the program share, started before the test does anything.
#[macro_export]
macro_rules! shared {
    () => {{
        $crate::need_root!();
        $crate::common::Agent::shared()
    }};
}

/// Whether we may load programs and make namespaces.
pub(crate) fn is_root() -> bool {
    // SAFETY: no arguments, always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// Whether this is an emulated machine, where everything takes some ten times as long.
pub(crate) fn is_slow() -> bool {
    std::env::var_os("SIDECAR_TEST_VM").is_some()
}

/// Path of a program, if this machine has it.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let all = path.split(':').chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"]);
    all.map(|directory| PathBuf::from(directory).join(name)).find(|file| file.is_file())
}

/// Runs a program; its output, or what it complained about.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// Waits for something that must come true; says what did not.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(if is_slow() { 60 } else { 15 }), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory of the test's own, removed with it.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// A new one.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sidecar-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file in it.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The name the kernel has for this process: that of its main thread.
pub(crate) fn own_comm() -> String {
    fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap().trim_end().to_owned()
}

/// A counter of `/proc/net/netstat` or `/proc/net/snmp`, such as `TcpExt` `ListenDrops`, of the thread's network namespace.
pub(crate) fn kernel_counter(group: &str, name: &str) -> u64 {
    let mut text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    text += &fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let prefix = format!("{group}: ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::split_whitespace);
    while let (Some(mut names), Some(mut values)) = (lines.next(), lines.next()) {
        if let Some(at) = names.position(|known| known == name) {
            return values.nth(at).unwrap().parse().unwrap();
        }
    }
    panic!("this kernel has no counter {group} {name}")
}
