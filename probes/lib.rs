//! What we see: one folder per probe. Add one with `cargo xtask new-probe NAME`; its two lines below are all that
//! stands outside its folder.

pub mod connection;
pub mod exec;
#[cfg(test)]
mod fake;
pub mod open;
pub mod packet;
mod plain;
pub mod syscall;

use sidecar_core::Probe;

/// Every probe, in the order shown to users.
pub static PROBES: &[&Probe] =
    &[&connection::PROBE, &exec::PROBE, &packet::PROBE, &syscall::PROBE, &open::PROBE];

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// The BPF object of the probe called `name`.
pub fn object(name: &str) -> Option<&'static [u8]> {
    OBJECTS.iter().find(|(object, _)| *object == name).map(|(_, bytes)| *bytes)
}
