//! What a collector may ask of its probe's loaded object. The agent implements it over real maps, tests over fake ones.

use std::time::Duration;

use crate::XdpMode;

/// Why the kernel side could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct KernelError {
    /// The map or program, and what was tried.
    pub what: String,
    /// The kernel's answer.
    pub cause: std::io::Error,
}

/// A network interface an XDP program is attached to, or was until now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name now, or its last one.
    pub name: String,
    /// Which attachment: another interface of the same name has another number, and counters that begin at zero.
    pub attachment: u64,
    /// How the program is attached.
    pub mode: XdpMode,
    /// Whether this is the last time it is seen.
    pub gone: bool,
}

/// One probe's maps, ring buffers and iterator programs.
///
/// Keys and values are the bytes of the `#[repr(C)]` types in the probe's `shared.rs`.
pub trait Kernel {
    /// Copies the value of `key` into `value`; false if there is none.
    fn lookup(&self, map: &str, key: &[u8], value: &mut [u8]) -> Result<bool, KernelError>;
    /// Writes a value, adding the key if it is new. Queues have empty keys and take it as their last.
    fn update(&self, map: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError>;
    /// Removes a key; false if there was none.
    fn delete(&self, map: &str, key: &[u8]) -> Result<bool, KernelError>;
    /// Visits every entry in batches; with `remove` each visited entry is gone afterwards.
    fn for_each(
        &self,
        map: &str,
        remove: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), KernelError>;
    /// The values of one slot of a per-CPU `u64` array, added up.
    fn per_cpu_sum(&self, map: &str, index: u32) -> Result<u64, KernelError>;
    /// Appends the values of one slot of a per-CPU array, one CPU after the other; each takes a multiple of eight bytes.
    fn per_cpu(&self, map: &str, _index: u32, _out: &mut Vec<u8>) -> Result<(), KernelError> {
        Err(KernelError { what: format!("reading map {map}"), cause: std::io::ErrorKind::Unsupported.into() })
    }
    /// Clears one slot of a per-CPU array on every CPU.
    fn clear_per_cpu(&self, map: &str, _index: u32) -> Result<(), KernelError> {
        Err(KernelError {
            what: format!("clearing map {map}"),
            cause: std::io::ErrorKind::Unsupported.into(),
        })
    }
    /// Runs an attached iterator program once and returns everything it wrote.
    fn run_iterator(&self, program: &str, out: &mut Vec<u8>) -> Result<(), KernelError>;
    /// Sees which interfaces have come and gone, then visits the value of `map`'s only entry for each: all CPUs' values
    /// one after the other, each as long as the map's value size, which is a multiple of eight.
    fn interfaces(&mut self, map: &str, visit: &mut dyn FnMut(&Interface, &[u8])) -> Result<(), KernelError> {
        let _ = (map, visit);
        Ok(())
    }
    /// Visits every record in a ring buffer and releases it.
    fn drain(&mut self, ring: &str, visit: &mut dyn FnMut(&[u8])) -> Result<(), KernelError>;
    /// Whether `program` was loaded on this kernel.
    fn has_program(&self, program: &str) -> bool;
    /// `CLOCK_MONOTONIC`, the clock of the kernel side's timestamps.
    fn monotonic(&self) -> Duration;
}
