//! Frames built by hand, and a cable to send them through.

use std::{
    ffi::CString,
    fs,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

use super::{Netns, Scratch};

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// To nobody, from nobody.
pub(crate) fn ethernet(kind: u16, inside: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(inside);
    frame
}

/// The same behind VLAN tags of these types, outermost first.
pub(crate) fn tagged(tags: &[u16], kind: u16, inside: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, _) in tags.iter().enumerate() {
        bytes.extend_from_slice(&[0, 5 + number as u8]);
        bytes.extend_from_slice(&tags.get(number + 1).unwrap_or(&kind).to_be_bytes());
    }
    bytes.extend_from_slice(inside);
    ethernet(tags.first().copied().unwrap_or(kind), &bytes)
}

/// An IPv4 packet; `fragment` holds flags and offset as they are sent.
pub(crate) fn ipv4(protocol: u8, fragment: u16, inside: &[u8]) -> Vec<u8> {
    let total = (20 + inside.len()) as u16;
    let mut bytes = vec![0x45, 0];
    bytes.extend_from_slice(&total.to_be_bytes());
    bytes.extend_from_slice(&[0, 7]);
    bytes.extend_from_slice(&fragment.to_be_bytes());
    bytes.extend_from_slice(&[64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    bytes.extend_from_slice(inside);
    bytes
}

/// An IPv6 packet.
pub(crate) fn ipv6(next: u8, inside: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend_from_slice(&(inside.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&[next, 64]);
    bytes.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    bytes.extend_from_slice(inside);
    bytes
}

/// An IPv6 extension header of so many units of eight bytes beyond the first.
pub(crate) fn extension(next: u8, units: u8) -> Vec<u8> {
    let mut bytes = vec![next, units];
    bytes.resize(8 + 8 * usize::from(units), 0);
    bytes
}

/// An IPv6 fragment header; `offset` in units of eight bytes.
pub(crate) fn fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    vec![next, 0, high, low, 0, 0, 0, 9]
}

/// A socket that sends whole frames out of `interface` of the thread's network namespace.
pub(crate) struct Sender(OwnedFd);

impl Sender {
    /// One for this interface.
    pub(crate) fn new(interface: &str) -> Self {
        let name = CString::new(interface).unwrap();
        // SAFETY: plain system calls with a valid name and a valid address of the length given.
        unsafe {
            let index = libc::if_nametoindex(name.as_ptr());
            assert_ne!(index, 0, "{interface}");
            // Protocol 0: it receives nothing.
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(socket >= 0, "no packet socket: {}", std::io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(socket);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = index as i32;
            let length = size_of_val(&address) as u32;
            let bound = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length);
            assert_eq!(bound, 0, "bind: {}", std::io::Error::last_os_error());
            Self(socket)
        }
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        loop {
            // SAFETY: a valid buffer of the length given.
            let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            let error = std::io::Error::last_os_error();
            // The queue is full for a moment.
            if sent < 0 && error.raw_os_error() == Some(libc::ENOBUFS) {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            assert_eq!(sent, frame.len() as isize, "sending a frame: {error}");
            return;
        }
    }
}

/// Two namespaces joined by a cable: frames sent into `cable0` of `near` are received by `cable1` of `far`.
pub(crate) struct Cable {
    pub(crate) near: Netns,
    pub(crate) far: Netns,
}

impl Cable {
    /// A cable on which nothing is said unless somebody asks.
    pub(crate) fn quiet() -> Result<Self, String> {
        let (near, far) = (Netns::new()?, Netns::new()?);
        for namespace in [&near, &far] {
            namespace.run(|| {
                for who in ["all", "default"] {
                    // Without IPv6 there is nobody to announce.
                    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{who}/disable_ipv6"), "1");
                }
            });
        }
        near.join(&far)?;
        Ok(Self { near, far })
    }

    /// The same with IPv6, `fd00::1` and `fd00::2`.
    pub(crate) fn with_ipv6() -> Result<Self, String> {
        let (near, far) = (Netns::new()?, Netns::new()?);
        near.join(&far)?;
        near.tool("ip address add fd00::1/64 dev cable0 nodad")?;
        far.tool("ip address add fd00::2/64 dev cable1 nodad")?;
        Ok(Self { near, far })
    }

    /// Frames the kernel says `cable1` has received.
    pub(crate) fn received(&self) -> u64 {
        self.far.run(|| {
            let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let line = text.lines().find_map(|line| line.trim().strip_prefix("cable1:")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        })
    }
}

/// A configuration with the packet probe alone, for these interfaces.
pub(crate) fn configuration(scratch: &Scratch, interfaces: &str, mode: &str) -> String {
    let text = format!(
        "probes:\n  connection:\n    enabled: false\n  packet:\n    enabled: true\n    interfaces: \
         {interfaces}\n    mode: {mode}\n"
    );
    scratch.file("packet.yaml", &text).display().to_string()
}
