//! Runs one virtual machine and reads its console until it says that it is done. The processor is emulated (TCG): that
//! works everywhere, nested virtualisation does not.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::kernels::Kernel;
use crate::results::{Counts, Reader};

/// What one machine said.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) kernel: &'static str,
    /// `uname -r`; empty if it did not get that far.
    pub(crate) booted: String,
    pub(crate) counts: Counts,
    pub(crate) skips: Vec<String>,
    /// Why the run as a whole is not to be trusted.
    pub(crate) error: Option<String>,
    pub(crate) tail: Vec<String>,
    pub(crate) elapsed: Duration,
}

/// Lines of the console kept for an error's message.
const TAIL: usize = 40;

/// What makes a machine's time pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Ours does; two processors.
    Real,
    /// Each instruction takes a nanosecond and waiting takes no time; one processor.
    Instructions,
}

/// Boots `kernel` with `initramfs` and follows it for at most `limit`; all it prints goes to `log`.
pub(crate) fn boot(kernel: &Kernel, initramfs: &Path, log: &Path, limit: Duration) -> Result<Report> {
    let started = Instant::now();
    let mut console = Console::default();
    let ended = follow(command(kernel, initramfs, Clock::Real), log, limit, |line| {
        if let Some(news) = console.line(line) {
            println!("  [{}] {news}", kernel.name);
        }
    })?;
    let error = if ended { console.verdict() } else { Some(format!("not done after {} s", limit.as_secs())) };
    Ok(Report {
        kernel: kernel.name,
        booted: console.booted,
        counts: console.results.counts,
        skips: console.results.skips,
        error,
        tail: console.tail,
        elapsed: started.elapsed(),
    })
}

/// How long a machine may say nothing after its kernel has given up.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Starts a machine and hands over each line of its console, which also goes to `log`. Returns whether the machine ended
/// within `limit`; it is stopped if it did not.
pub(crate) fn follow(
    mut command: Command,
    log: &Path,
    mut limit: Duration,
    mut line: impl FnMut(&str),
) -> Result<bool> {
    let started = Instant::now();
    let mut log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut machine = Machine(command.spawn().context("cannot start qemu-system-x86_64")?);
    let console = machine.0.stdout.take().context("the machine has no console")?;
    let (lines, received) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()).is_err() {
                break;
            }
        }
    });
    let ended = loop {
        match received.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(text) => {
                writeln!(log, "{text}")?;
                line(&text);
                // It should restart, which ends it, but an emulated processor may not get that far.
                if text.contains("Kernel panic - not syncing") {
                    limit = limit.min(started.elapsed() + LAST_WORDS);
                }
            }
            Err(RecvTimeoutError::Timeout) => break false,
            Err(RecvTimeoutError::Disconnected) => break true,
        }
    };
    drop(machine);
    // The reader ends with the machine's output.
    let _ = reader.join();
    Ok(ended)
}

/// `-cx16`: 6.12 under QEMU 7.2 crashes in the emulation of cmpxchg16b.
pub(crate) fn command(kernel: &Kernel, initramfs: &Path, clock: Clock) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-cpu", "max,-cx16", "-m", "1536", "-nodefaults", "-no-user-config"]);
    qemu.args(match clock {
        Clock::Real => ["-smp", "2"].as_slice(),
        Clock::Instructions => ["-smp", "1", "-icount", "shift=0,sleep=off"].as_slice(),
    });
    qemu.args(["-nographic", "-serial", "stdio", "-monitor", "none", "-no-reboot"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 lsm=lockdown,capability,bpf tsc=reliable"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    qemu
}

/// Ends with the value, whatever happens to us.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the console has told so far.
#[derive(Default)]
struct Console {
    booted: String,
    results: Reader,
    tail: Vec<String>,
    running: Option<String>,
    failed: Vec<String>,
    done: Option<String>,
}

impl Console {
    /// Takes a line and returns what is worth telling at once.
    fn line(&mut self, line: &str) -> Option<String> {
        if self.tail.len() == TAIL {
            self.tail.remove(0);
        }
        self.tail.push(line.to_owned());
        self.results.line(line);
        // Firmware leaves control characters before the first line.
        let Some((word, rest)) = line.find("@@").and_then(|at| line[at + 2..].split_once(' ')) else {
            let running = self.running.as_deref().unwrap_or("?");
            return line.starts_with("test result: ").then(|| format!("{running}: {line}"));
        };
        match word {
            "kernel" => rest.clone_into(&mut self.booted),
            "begin" => self.running = Some(rest.to_owned()),
            "end" => {
                self.running = None;
                if !rest.ends_with(" 0") {
                    self.failed.push(rest.to_owned());
                }
            }
            "done" => self.done = Some(rest.to_owned()),
            _ => {}
        }
        None
    }

    /// What is wrong once the machine has ended; failed tests are counted and no error of the run.
    fn verdict(&self) -> Option<String> {
        match (&self.done, &self.running) {
            (Some(_), _) if self.results.counts == Counts::default() => Some("no test ran".to_owned()),
            (Some(status), _) if status != "0" && self.results.counts.failed == 0 => {
                Some(format!("a test program failed without naming a test: {}", self.failed.join(", ")))
            }
            (Some(_), _) => None,
            (None, Some(test)) => Some(format!("the machine died while {test} ran")),
            (None, None) => Some("the machine ended before its tests".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(text: &str) -> Console {
        let mut console = Console::default();
        for line in text.lines() {
            console.line(line);
        }
        console
    }

    #[test]
    fn a_machine_that_finishes_is_believed() {
        let console = console(
            "SeaBIOS@@kernel 5.10.0-46-cloud-amd64\n@@begin sidecar\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n@@end sidecar 0\n@@done 0\n",
        );
        assert_eq!(console.booted, "5.10.0-46-cloud-amd64");
        assert_eq!(console.results.counts.passed, 2);
        assert_eq!(console.verdict(), None);
    }

    #[test]
    fn a_crash_a_silent_failure_and_an_empty_run_are_errors() {
        let crash = console("@@kernel 6.1\n@@begin sidecar\ntest a ... ok\nKernel panic\n");
        assert_eq!(crash.verdict().unwrap(), "the machine died while sidecar ran");
        let silent = console(
            "@@begin sidecar\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
             @@end sidecar 0\n@@begin agent\n@@end agent 139\n@@done 1\n",
        );
        assert!(silent.verdict().unwrap().contains("agent 139"));
        assert_eq!(console("@@done 0\n").verdict().unwrap(), "no test ran");
        assert_eq!(console("").verdict().unwrap(), "the machine ended before its tests");
    }
}
