//! Taking the port, and saying what to do when it cannot be taken.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

/// Why the port could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Somebody else has it.
    #[error("{address} is in use{}: choose another with --listen", by(.owner.as_deref()))]
    InUse {
        /// What was asked for.
        address: SocketAddr,
        /// Name and pid of the process that has it, if it can be seen.
        owner: Option<String>,
    },
    /// It is one of the ports for privileged programs.
    #[error("{address} needs root or CAP_NET_BIND_SERVICE: choose a port from {first} on with --listen")]
    Privileged {
        /// What was asked for.
        address: SocketAddr,
        /// The first port anybody may take.
        first: u16,
    },
    /// No interface has the address.
    #[error(
        "{} is not an address of this machine: choose 127.0.0.1, 0.0.0.0 or one that `ip address` shows with --listen",
        .address.ip()
    )]
    Elsewhere {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The kernel runs without IPv6.
    #[error(
        "{address} is an IPv6 address and this machine has IPv6 switched off: choose an IPv4 one with --listen"
    )]
    NoIpv6 {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Something else.
    #[error("cannot listen on {address}: {error}; choose another address with --listen")]
    Other {
        /// What was asked for.
        address: SocketAddr,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
}

fn by(owner: Option<&str>) -> String {
    owner.map(|owner| format!(" (by {owner})")).unwrap_or_default()
}

/// Binds and listens.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| explain(address, error))
}

fn explain(address: SocketAddr, error: io::Error) -> BindError {
    match error.kind() {
        ErrorKind::AddrInUse => BindError::InUse { address, owner: owner(address) },
        ErrorKind::PermissionDenied => BindError::Privileged { address, first: first_free_port() },
        ErrorKind::AddrNotAvailable if address.is_ipv4() || has_ipv6() => BindError::Elsewhere { address },
        _ if address.is_ipv6() && !has_ipv6() => BindError::NoIpv6 { address },
        _ => BindError::Other { address, error },
    }
}

fn has_ipv6() -> bool {
    fs::read_to_string("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty())
}

fn first_free_port() -> u16 {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// Name and pid of the process that listens where `address` would.
fn owner(address: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| listener(line, address))?;
    let pid = holder(&format!("socket:[{inode}]"))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{}, pid {pid}", name.trim_end()))
}

/// The socket's inode if this line of `/proc/net/tcp` or `tcp6` is a listener in the way of `address`.
fn listener(line: &str, address: SocketAddr) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, port) = fields.get(1)?.split_once(':')?;
    if *fields.get(3)? != "0A" || u16::from_str_radix(port, 16).ok()? != address.port() {
        return None;
    }
    let local = local_address(local)?;
    let same = local == address.ip() || local.is_unspecified() || address.ip().is_unspecified();
    same.then(|| fields.get(9)?.parse().ok())?
}

/// An address as the kernel prints it: 32-bit words of network-order bytes, each as a number of this machine.
fn local_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let words = [word(0)?, word(8)?, word(16)?, word(24)?];
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?).to_canonical())
}

/// The first process that has `link` open.
fn holder(link: &str) -> Option<u32> {
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.into_iter()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_names_who_has_it() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        let told = bind(address).unwrap_err().to_string();
        let who = format!("by {}, pid {}", comm.trim_end(), std::process::id());
        assert_eq!(told, format!("{address} is in use ({who}): choose another with --listen"));
        let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        assert!(bind(everywhere).unwrap_err().to_string().contains(&who));
    }

    #[test]
    fn an_ipv6_listener_is_found_as_well() {
        let Ok(first) = bind("[::1]:0".parse().unwrap()) else { return };
        let told = bind(first.local_addr().unwrap()).unwrap_err().to_string();
        assert!(told.contains(&format!("pid {}", std::process::id())), "{told}");
    }

    #[test]
    fn an_address_of_another_machine_is_called_that() {
        let told = bind("192.0.2.1:9090".parse().unwrap()).unwrap_err().to_string();
        assert!(told.starts_with("192.0.2.1 is not an address of this machine: "), "{told}");
    }

    #[test]
    fn a_privileged_port_says_what_is_needed() {
        let told = explain("127.0.0.1:80".parse().unwrap(), ErrorKind::PermissionDenied.into()).to_string();
        assert!(told.starts_with("127.0.0.1:80 needs root or CAP_NET_BIND_SERVICE: "), "{told}");
    }

    #[test]
    fn lines_of_the_kernels_tables_are_read_as_it_wrote_them() {
        let line = "   2: 0100007F:2382 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 70131 1";
        assert_eq!(listener(line, "127.0.0.1:9090".parse().unwrap()), Some(70131));
        assert_eq!(listener(line, "0.0.0.0:9090".parse().unwrap()), Some(70131));
        assert_eq!(listener(line, "127.0.0.2:9090".parse().unwrap()), None);
        assert_eq!(listener(line, "127.0.0.1:9091".parse().unwrap()), None);
        assert_eq!(listener(&line.replace(" 0A ", " 01 "), "127.0.0.1:9090".parse().unwrap()), None);
        assert_eq!(listener("  sl  local_address rem_address   st", "127.0.0.1:9090".parse().unwrap()), None);
    }
}
