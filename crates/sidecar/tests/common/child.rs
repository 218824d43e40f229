//! Processes of a test's own, with names of their own, that do what the test tells them.

use std::{
    ffi::CString,
    fs,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

/// A forked process. Killed with the value.
pub(crate) struct Child {
    pub(crate) pid: i32,
    /// Its other end is with the child.
    pub(crate) line: UnixStream,
    waited: bool,
}

impl Child {
    /// Forks a process with this name that does `work` and ends. It has one thread, its main thread, and of our
    /// descriptors only those in `keep`: a copy of another test's socket would keep its connection open.
    pub(crate) fn fork(name: &str, keep: &[&dyn AsRawFd], work: impl FnOnce(&mut UnixStream)) -> Self {
        let (line, mut theirs) = UnixStream::pair().unwrap();
        line.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let name = CString::new(name).unwrap();
        // SAFETY: the child uses nothing that another thread may have locked: no output, no test harness; it leaves
        // by `_exit`.
        unsafe {
            let pid = libc::fork();
            assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
            if pid == 0 {
                libc::prctl(libc::PR_SET_NAME, name.as_ptr());
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                close_all_but(keep.iter().map(|kept| kept.as_raw_fd()).chain([theirs.as_raw_fd()]));
                std::mem::forget(line);
                std::panic::set_hook(Box::new(|_| {}));
                let ended = catch_unwind(AssertUnwindSafe(|| work(&mut theirs)));
                libc::_exit(i32::from(ended.is_err()));
            }
            Self { pid, line, waited: false }
        }
    }

    /// Tells it something.
    pub(crate) fn tell(&mut self, byte: u8) {
        self.line.write_all(&[byte]).unwrap();
    }

    /// Waits for it to say something.
    pub(crate) fn hear(&mut self) -> u8 {
        hear(&mut self.line)
    }

    /// Kills it.
    pub(crate) fn kill(mut self) {
        self.end(true);
    }

    /// Waits for its own end, which must be a good one.
    pub(crate) fn join(mut self) {
        let status = self.end(false);
        assert_eq!(status, 0, "a child of the test failed");
    }

    fn end(&mut self, kill: bool) -> i32 {
        let mut status = 0;
        if !self.waited {
            self.waited = true;
            // SAFETY: our own child, which has not been waited for.
            unsafe {
                if kill {
                    libc::kill(self.pid, libc::SIGKILL);
                }
                libc::waitpid(self.pid, &raw mut status, 0);
            }
        }
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end(true);
    }
}

/// Closes everything but the standard streams and these.
fn close_all_but(kept: impl Iterator<Item = RawFd>) {
    let kept: Vec<RawFd> = kept.collect();
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // SAFETY: nothing in this process uses it any more: its owners are other threads', which are not here.
        unsafe { libc::close(fd) };
    }
}

/// One byte from the other side.
pub(crate) fn hear(line: &mut UnixStream) -> u8 {
    let mut byte = [0];
    line.read_exact(&mut byte).unwrap();
    byte[0]
}

/// One byte to the other side.
pub(crate) fn tell(line: &mut UnixStream, byte: u8) {
    line.write_all(&[byte]).unwrap();
}
