//! Where the text goes: standard output or a file. A reader that does not read must not keep the user from stopping us.

use std::{
    fmt,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use crate::agent::alone::is_stopped;

/// What may pile up before it is written.
const FULL: usize = 64 * 1024;
/// A pipe that has room for anything has room for so much (`PIPE_BUF`): writing it does not block.
const PIECE: usize = 4096;
/// Milliseconds between two looks at whether the user wants to stop.
const PATIENCE: i32 = 100;

/// The place.
pub(super) struct Output {
    file: File,
    path: Option<PathBuf>,
    waiting: Vec<u8>,
    /// Written, of what is waiting.
    written: usize,
    /// The user wants to stop and nobody reads: nothing more is written. Bytes let go of since.
    given_up: Option<usize>,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => path.display().fmt(f),
            None => f.write_str("standard output"),
        }
    }
}

impl Output {
    /// Standard output, or a new file in place of one that is there.
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = if let Some(path) = path {
            File::create(path)
                .map_err(|error| io::Error::other(format!("cannot write {}: {error}", path.display())))?
        } else {
            // SAFETY: a copy of our own standard output, which nobody else has.
            let fd = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_DUPFD_CLOEXEC, 3) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel has just given us this descriptor.
            unsafe { OwnedFd::from_raw_fd(fd) }.into()
        };
        Ok(Self { file, path: path.map(Path::to_owned), waiting: Vec::new(), written: 0, given_up: None })
    }

    /// Adds to what is waiting.
    pub(super) fn add(&mut self, text: &[u8]) {
        match &mut self.given_up {
            Some(bytes) => *bytes += text.len(),
            None => self.waiting.extend_from_slice(text),
        }
    }

    /// Whether what is waiting should be written now.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    /// Bytes nobody has taken.
    pub(super) fn unwritten(&self) -> usize {
        self.waiting.len() - self.written + self.given_up.unwrap_or(0)
    }

    /// Writes what is waiting. Gives up, without an error, when the user wants to stop and nobody reads.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.written < self.waiting.len() && self.given_up.is_none() {
            if !self.is_ready()? {
                self.given_up = is_stopped().then_some(0);
                continue;
            }
            let end = self.waiting.len().min(self.written + if self.path.is_some() { FULL } else { PIECE });
            match self.file.write(&self.waiting[self.written..end]) {
                Ok(written) => self.written += written,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        if self.given_up.is_none() {
            self.waiting.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Waits a moment for the reader.
    fn is_ready(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one valid entry.
        let ready = unsafe { libc::poll(&raw mut poll, 1, PATIENCE) };
        if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(io::Error::last_os_error());
        }
        Ok(ready > 0)
    }

    /// Makes sure that a file is whole.
    pub(super) fn close(&mut self) -> io::Result<()> {
        if self.path.is_some() { self.file.sync_data() } else { Ok(()) }
    }
}
