//! The agent as a child process on a port of its own.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{Page, is_slow};

/// A snapshot may be this old when it is served (`FRESH` in the agent), and a little.
const FRESH: Duration = Duration::from_millis(520);

/// A running agent. Ends with the value.
pub(crate) struct Agent {
    child: std::process::Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// The file to run: `SIDECAR_BIN`, else what cargo built with the tests.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("SIDECAR_BIN").map_or_else(|| env!("CARGO_BIN_EXE_sidecar").into(), PathBuf::from)
}

/// The agent's command line, untouched by configuration that happens to lie around.
pub(crate) fn command(flags: &[&str]) -> Command {
    command_of(&binary(), flags)
}

/// The same for another copy of the agent.
pub(crate) fn command_of(file: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(file);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SIDECAR_") {
            command.env_remove(name);
        }
    }
    if !flags.contains(&"--config") {
        command.args(["--config", "/dev/null"]);
    }
    command.args(flags).stdin(Stdio::null());
    command
}

impl Agent {
    /// One that all tests of a program use which need no flags of their own. It reads the kernel when they ask, so that
    /// a test decides in which state of a connection that happens.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Agent> = OnceLock::new();
        SHARED.get_or_init(|| {
            // It ends with the thread that started it: one that stays as long as the program.
            let (send, receive) = mpsc::channel();
            thread::spawn(move || {
                let _ = send.send(Self::start(&["--interval", "3600"]));
                loop {
                    thread::park();
                }
            });
            receive.recv().expect("the shared agent did not start")
        })
    }

    /// Starts one and waits until it is ready. Of the probes that run by default only that of connections, unless the
    /// flags say more about probes: each takes an emulated machine seconds to attach.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let told = flags.iter().any(|flag| flag.contains("probe"));
        let probes: &[&str] = if told { &[] } else { &["--no-probe", "exec"] };
        Self::spawn(command(&[&["--listen", "127.0.0.1:0"], probes, flags].concat()))
    }

    /// The same with a command line made by the caller.
    pub(crate) fn spawn(mut command: Command) -> Self {
        // SAFETY: only a system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let mut child = command.stderr(Stdio::piped()).spawn().expect("cannot start the agent");
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = mpsc::channel();
        let (stderr, copy) = (child.stderr.take().unwrap(), Arc::clone(&log));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = serving(&line) {
                    let _ = found.send(address);
                }
                *copy.lock().unwrap() += &(line + "\n");
            }
        });
        let Ok(address) = address.recv_timeout(Duration::from_mins(1)) else {
            let _ = child.kill();
            let status = child.wait();
            panic!("the agent did not come up ({status:?}):\n{}", log.lock().unwrap());
        };
        let agent = Self { child, address, log };
        super::eventually("ready", || agent.get("/readyz").is_some_and(|(status, _)| status == 200));
        agent
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line of its log.
    pub(crate) fn says(&self, text: &str) {
        let begun = Instant::now();
        while !self.log().contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(20), "it never said {text:?} but:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Status and body of a page.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_mins(1))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// The metrics as of a moment after the call. A machine whose processor is emulated may take so long over a reading
    /// that the agent says so instead; then once more.
    pub(crate) fn scrape(&self) -> Page {
        let mut tries = if is_slow() { 5 } else { 1 };
        loop {
            thread::sleep(FRESH);
            tries -= 1;
            match self.get("/metrics") {
                Some((200, body)) => return Page::parse(&body),
                Some((503, _)) if tries > 0 => {}
                answer => panic!("no metrics: {answer:?}; its log:\n{}", self.log()),
            }
        }
    }

    /// The first page for which `is_so`; the end of a connection takes the kernel a moment.
    pub(crate) fn when(&self, port: u16, what: &str, is_so: impl Fn(&Page) -> bool) -> Page {
        let begun = Instant::now();
        loop {
            let page = self.scrape();
            if is_so(&page) {
                return page;
            }
            let limit = Duration::from_secs(if is_slow() { 60 } else { 8 });
            assert!(
                begun.elapsed() < limit,
                "never {what}:\n{:?}\n{}\nlog:\n{}",
                page.both(port),
                page.about(port),
                self.log()
            );
        }
    }

    /// The page once `count` connections to `port` have ended on both sides.
    pub(crate) fn when_ended(&self, port: u16, count: u64) -> Page {
        self.when(port, &format!("{count} ended"), |page| {
            let (client, server) = page.both(port);
            client.ended() >= count && server.ended() >= count
        })
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: no pointers; our own child, which has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.log())
    }

    /// Tells it to stop and sees that it does so well.
    pub(crate) fn stop(self) {
        self.signal(libc::SIGTERM);
        let (status, log) = self.wait();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "log:\n{log}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the agent's log:\n{}", self.log());
        }
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// The address in `… serving on http://127.0.0.1:1234/metrics`.
fn serving(line: &str) -> Option<SocketAddr> {
    line.split_once("serving on http://")?.1.split('/').next()?.parse().ok()
}
