//! Connections by the thousand, for what they cost the agent rather than the machine. Both ends are in this process.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Connections to one listener: the range of local ports allows some 28,000 by default.
const PER_LISTENER: u64 = 20_000;
/// How this program is told to be one of the processes that hold connections.
pub(crate) const HOLD: &str = "hold";

/// Short connections, one byte there and back on each, so many a second.
pub(crate) fn short(count: u64, per_second: u64) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let begin = Instant::now();
    for number in 0..count {
        let due = Duration::from_nanos(number * 1_000_000_000 / per_second);
        sleep(due.saturating_sub(begin.elapsed()));
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        let mut byte = [1];
        client.write_all(&byte)?;
        server.read_exact(&mut byte)?;
        server.write_all(&byte)?;
        client.read_exact(&mut byte)?;
    }
    Ok(())
}

/// Open connections: both ends of each.
pub(crate) type Open = Vec<(TcpStream, TcpStream)>;

/// Processes that hold open connections; they end with the value.
pub(crate) struct Holders(Vec<Child>);

impl Drop for Holders {
    fn drop(&mut self) {
        for holder in &mut self.0 {
            // Both fail only if it has ended already.
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Opens connections between the same two addresses. In processes of their own, because one may open only so many files.
pub(crate) fn alike(count: u64) -> Result<Holders> {
    let each = (open_files()? / 2).saturating_sub(50).min(PER_LISTENER);
    anyhow::ensure!(each > 0, "this process may open too few files: raise `ulimit -n`");
    let mut holders = Holders(Vec::new());
    let mut left = count;
    while left > 0 {
        let some = left.min(each);
        let holder = Command::new(std::env::current_exe()?)
            .args([HOLD, &some.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process to hold connections")?;
        holders.0.push(holder);
        left -= some;
    }
    for holder in &mut holders.0 {
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().context("no output")?).read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "a process that holds connections has ended");
    }
    Ok(holders)
}

/// Such a process: opens its share, says so, and stays until killed.
pub(crate) fn hold(count: u64) -> Result<()> {
    open_files()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut open = Open::new();
    for _ in 0..count {
        let client = TcpStream::connect(listener.local_addr()?)?;
        open.push((client, listener.accept()?.0));
    }
    println!("{}", open.len());
    loop {
        sleep(Duration::from_hours(1));
    }
}

/// Allows this process all the open files it may ask for, and returns how many.
fn open_files() -> Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid limit, and what they return is checked.
    let failed = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) < 0 || {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) < 0
        }
    };
    if failed {
        return Err(std::io::Error::last_os_error()).context("cannot raise the limit of open files");
    }
    Ok(limit.rlim_cur)
}

/// Opens connections that each come from an address of their own, and keeps them.
pub(crate) fn spread(count: u64) -> Result<Open> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let SocketAddr::V4(to) = listener.local_addr()? else { unreachable!("bound to an IPv4 address") };
    let mut open = Vec::with_capacity(count as usize);
    for number in 0..count {
        let [_, a, b, c] = (number as u32 + 2).to_be_bytes();
        let client = connect_from(Ipv4Addr::new(127, a + 1, b, c), to)?;
        open.push((client, listener.accept()?.0));
    }
    Ok(open)
}

/// The standard library cannot choose the source of a connection.
fn connect_from(from: Ipv4Addr, to: SocketAddrV4) -> Result<TcpStream> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot open a socket");
    }
    // SAFETY: just opened, and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let steps = [(libc::bind as Call, SocketAddrV4::new(from, 0)), (libc::connect as Call, to)];
    for (call, address) in steps {
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
            sin_zero: [0; 8],
        };
        // SAFETY: the address is of the length told and outlives the call.
        let result = unsafe {
            call(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_in>() as u32)
        };
        if result < 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| format!("from {from} to {to}"));
        }
    }
    Ok(socket.into())
}

type Call = unsafe extern "C" fn(i32, *const libc::sockaddr, u32) -> i32;
