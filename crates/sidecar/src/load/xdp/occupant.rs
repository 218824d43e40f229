//! Whose XDP program an interface has already. The kernel lets one program be attached, and replacing somebody else's
//! would take a firewall or a load balancer down.

use std::{
    fmt, fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use super::super::sys::xdp;

const RTM_GETLINK: u16 = 18;
const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_HEADER: usize = 16;
/// `struct ifinfomsg`
const INTERFACE_HEADER: usize = 16;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
/// `NLA_TYPE_MASK`: the two upper bits are flags.
const TYPE: u16 = 0x3fff;

/// A program that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Occupant {
    id: u32,
    /// Empty if we may not ask, or it has none.
    name: String,
    /// The process that holds it, if one does and we may look.
    holder: Option<String>,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program {}", self.id)?;
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        self.holder.as_ref().map_or(Ok(()), |holder| write!(f, ", held by {holder}"))
    }
}

/// The XDP program attached to an interface of our network namespace.
pub(super) fn of(interface: u32) -> io::Result<Option<Occupant>> {
    let Some(id) = xdp_program(&ask(interface)?) else { return Ok(None) };
    Ok(Some(Occupant { id, name: xdp::program_name(id).unwrap_or_default(), holder: holder(id) }))
}

/// The kernel's answer to `RTM_GETLINK`.
fn ask(interface: u32) -> io::Result<Vec<u8>> {
    // SAFETY: no pointers involved.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut request = [0u8; NLMSG_HEADER + INTERFACE_HEADER];
    request[0..4].copy_from_slice(&((NLMSG_HEADER + INTERFACE_HEADER) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request[20..24].copy_from_slice(&interface.to_ne_bytes());
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: a valid buffer of the length given; without an address it goes to the kernel.
    if unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0u8; 32 * 1024];
    // SAFETY: a valid buffer of the length given.
    let got = unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    answer.truncate(got);
    match number::<u16>(&answer, 4) {
        Some(RTM_NEWLINK) => Ok(answer),
        Some(NLMSG_ERROR) => {
            let code = number::<u32>(&answer, NLMSG_HEADER).unwrap_or_default() as i32;
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A number in the machine's byte order.
fn number<T: FromBytes>(bytes: &[u8], at: usize) -> Option<T> {
    T::from(bytes.get(at..)?)
}

trait FromBytes: Sized {
    fn from(bytes: &[u8]) -> Option<Self>;
}

impl FromBytes for u16 {
    fn from(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_ne_bytes(*bytes.first_chunk()?))
    }
}

impl FromBytes for u32 {
    fn from(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_ne_bytes(*bytes.first_chunk()?))
    }
}

/// The id of the attached program in a link message; whichever of the three kinds there is.
fn xdp_program(message: &[u8]) -> Option<u32> {
    let end = number::<u32>(message, 0)? as usize;
    let attributes = message.get(NLMSG_HEADER + INTERFACE_HEADER..end.min(message.len()))?;
    let xdp = Attributes(attributes).find(|(kind, _)| *kind == IFLA_XDP)?.1;
    let ids = [IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_SKB_PROG_ID, IFLA_XDP_HW_PROG_ID];
    let is_id =
        |(kind, value): (u16, &[u8])| if ids.contains(&kind) { number::<u32>(value, 0) } else { None };
    Attributes(xdp).filter_map(is_id).find(|id| *id != 0)
}

/// Netlink attributes: length, type, value, padded to four bytes.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(number::<u16>(self.0, 0)?);
        let kind = number::<u16>(self.0, 2)? & TYPE;
        // A length below the header's own would keep us here for ever.
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The first process with a descriptor of the program, or of a link to it.
fn holder(program: u32) -> Option<String> {
    let wanted = format!("prog_id:\t{program}\n");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
        descriptors
            .into_iter()
            .any(|entry| fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&wanted)))
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; NLMSG_HEADER + INTERFACE_HEADER];
        bytes.extend_from_slice(attributes);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_program_is_found_among_other_attributes() {
        let xdp = [attribute(2, &[1]), attribute(IFLA_XDP_PROG_ID, &77u32.to_ne_bytes())].concat();
        let all =
            [attribute(3, b"eth0\0"), attribute(IFLA_XDP | 0x8000, &xdp), attribute(4, &[0; 4])].concat();
        assert_eq!(xdp_program(&message(&all)), Some(77));
        let none = attribute(IFLA_XDP, &attribute(2, &[0]));
        assert_eq!(xdp_program(&message(&none)), None);
        let both = [
            attribute(2, &[4]),
            attribute(IFLA_XDP_SKB_PROG_ID, &9u32.to_ne_bytes()),
            attribute(IFLA_XDP_HW_PROG_ID, &8u32.to_ne_bytes()),
        ];
        assert_eq!(xdp_program(&message(&attribute(IFLA_XDP, &both.concat()))), Some(9));
    }

    #[test]
    fn a_damaged_answer_is_none() {
        let xdp = attribute(IFLA_XDP_PROG_ID, &77u32.to_ne_bytes());
        let whole = message(&[attribute(3, b"eth0\0"), attribute(IFLA_XDP, &xdp)].concat());
        for cut in 0..whole.len() {
            assert_eq!(xdp_program(&whole[..cut]), None, "{cut}");
        }
        for at in NLMSG_HEADER + INTERFACE_HEADER..whole.len() {
            for value in [0, 1, 3, 255] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = xdp_program(&damaged);
            }
        }
    }

    #[test]
    fn loopback_can_be_asked_about_and_no_interface_is_an_error() {
        assert!(ask(1).is_ok());
        assert!(of(i32::MAX as u32).is_err());
    }
}
