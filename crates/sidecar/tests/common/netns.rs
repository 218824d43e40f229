//! Network namespaces of a test's own, where it may drop packets and take links down.

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    process::Command,
    thread,
};

use super::{program, run};

/// A network namespace with its loopback up. Gone when nothing uses it any more.
pub(crate) struct Netns(File);

impl Netns {
    /// A new one.
    pub(crate) fn new() -> Result<Self, String> {
        let make = || {
            // SAFETY: no pointers involved; only this thread moves.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(format!("no network namespace: {}", std::io::Error::last_os_error()));
            }
            loopback_up();
            File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())
        };
        thread::spawn(make).join().unwrap().map(Self)
    }

    /// Does something in it, in a thread of its own; sockets made there stay there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: a valid descriptor; only this thread moves.
                    let entered = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
                    assert_eq!(entered, 0, "setns: {}", std::io::Error::last_os_error());
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program in it: words separated by spaces.
    pub(crate) fn tool(&self, line: &str) -> Result<String, String> {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let path = program(name).ok_or_else(|| format!("{name} is not installed"))?;
        let words: Vec<&str> = words.collect();
        self.run(|| run(Command::new(path).args(words)))
    }

    /// Drops this many of ten packets to a port, at random.
    pub(crate) fn lose(&self, port: u16, of_ten: u32) -> Result<(), String> {
        self.filter(&format!("tcp dport {port} numgen random mod 10 < {of_ten} drop")).or_else(|nft| {
            let tc = self.tool(&format!("tc qdisc add dev lo root netem loss {of_ten}0%"));
            tc.map(drop).map_err(|tc| format!("no packet loss here: {nft}; {tc}"))
        })
    }

    /// Drops every packet to and from a port from now on.
    pub(crate) fn cut(&self, port: u16) -> Result<(), String> {
        self.filter(&format!("tcp dport {port} drop"))?;
        self.filter(&format!("tcp sport {port} drop"))
    }

    /// Adds a rule for incoming packets.
    pub(crate) fn filter(&self, rule: &str) -> Result<(), String> {
        self.tool("nft add table inet test")?;
        self.tool("nft add chain inet test input { type filter hook input priority 0 ; }")?;
        self.tool(&format!("nft add rule inet test input {rule}")).map(drop)
    }

    /// A path by which tools can name it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Joins two namespaces by a cable with 10.9.8.1 at this end and 10.9.8.2 at the other.
    pub(crate) fn join(&self, other: &Self) -> Result<(), String> {
        self.tool("ip link add cable0 type veth peer name cable1")?;
        self.tool(&format!("ip link set cable1 netns {}", other.path()))?;
        for (namespace, link, address) in [(self, "cable0", "10.9.8.1"), (other, "cable1", "10.9.8.2")] {
            namespace.tool(&format!("ip address add {address}/24 dev {link}"))?;
            namespace.tool(&format!("ip link set {link} up"))?;
        }
        Ok(())
    }
}

/// What `ip link set lo up` does.
fn loopback_up() {
    // SAFETY: a valid `ifreq` for both requests; the descriptor is ours alone.
    unsafe {
        let socket =
            OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0));
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request), 0);
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
        assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request), 0);
    }
}
