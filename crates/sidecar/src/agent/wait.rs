//! Sleeping until the next tick, a command, or a ring that is half full.
//!
//! Rings are watched edge-triggered: they count as readable as soon as one record is in them, while the kernel side wakes
//! us only when there is much to read. Level-triggered, a busy probe would wake the agent for every record.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

/// Events fetched at once; with more rings than that the rest come the next time.
const EVENTS: usize = 64;

/// What the tick thread sleeps on.
pub(super) struct Waiter {
    epoll: OwnedFd,
    bell: OwnedFd,
}

/// The other threads' end: wakes the sleeper.
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: an eventfd and eight valid bytes.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Waiter {
    /// Watches these rings.
    pub(super) fn new(rings: impl Iterator<Item = RawFd>) -> io::Result<(Self, Bell)> {
        // SAFETY: no pointers involved.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: no pointers involved.
        let bell = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        let other_end = Bell(bell.try_clone()?);
        let waiter = Self { epoll, bell };
        waiter.watch(waiter.bell.as_raw_fd(), libc::EPOLLIN)?;
        for ring in rings {
            waiter.watch(ring, libc::EPOLLIN | libc::EPOLLET)?;
        }
        Ok((waiter, other_end))
    }

    fn watch(&self, fd: RawFd, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: valid descriptors and a valid event.
        let added =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if added == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sleeps at most that long; returns the rings that want to be drained.
    pub(super) fn wait(&self, timeout: Duration) -> Vec<RawFd> {
        // A millisecond more, so as not to wake up just before the time.
        let timeout = i32::try_from(timeout.as_millis() + 1).unwrap_or(i32::MAX);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let room = EVENTS as i32;
        // SAFETY: a valid array of that length.
        let got = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), room, timeout) };
        let mut heard = [0u8; 8];
        // SAFETY: an eventfd and eight writable bytes; if nobody rang it fails, which is fine.
        unsafe { libc::read(self.bell.as_raw_fd(), heard.as_mut_ptr().cast(), heard.len()) };
        let fds = events.iter().take(usize::try_from(got).unwrap_or(0)).map(|event| event.u64 as RawFd);
        fds.filter(|fd| *fd != self.bell.as_raw_fd()).collect()
    }
}
