//! The address to serve on. Only literal addresses: a name would be looked up once at start and silently go stale, and
//! `:9090` means every interface to some programs and the loopback to others, so the user has to say which.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The address, or what is wrong with it and how to write it instead.
pub(crate) fn parse(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let quoted = super::error::quote(text);
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("expected address:port, found {quoted}; write [{text}]:9090"));
    }
    if text.parse::<Ipv4Addr>().is_ok() {
        return Err(format!("expected address:port, found {quoted}; write {text}:9090"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let Ok(port) = port.parse::<u16>() else {
        return Err(format!("expected address:port with a port from 0 to 65535, found {quoted}"));
    };
    match host {
        "localhost" => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        "" | "*" => Err(format!(
            "{quoted} names no address; write 127.0.0.1:{port} for this machine only or 0.0.0.0:{port} (IPv6 too: \
             [::]:{port}) for every interface"
        )),
        host if host.parse::<Ipv6Addr>().is_ok() => {
            Err(format!("an IPv6 address goes in brackets; write [{host}]:{port}"))
        }
        _ => Err(format!("expected an IP address or localhost before the port, found {quoted}")),
    }
}
