//! What a collector may ask of its probe's loaded object. The agent implements it over real maps, tests over fake ones.

use std::time::Duration;

/// Why the kernel side could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct KernelError {
    /// The map or program, and what was tried.
    pub what: String,
    /// The kernel's answer.
    pub cause: std::io::Error,
}

/// One probe's maps, ring buffers and iterator programs.
///
/// Keys and values are the bytes of the `#[repr(C)]` types in the probe's `shared.rs`.
pub trait Kernel {
    /// Copies the value of `key` into `value`; false if there is none.
    fn lookup(&self, map: &str, key: &[u8], value: &mut [u8]) -> Result<bool, KernelError>;
    /// Writes a value, adding the key if it is new.
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
    /// Runs an attached iterator program once and returns everything it wrote.
    fn run_iterator(&self, program: &str, out: &mut Vec<u8>) -> Result<(), KernelError>;
    /// Visits every record in a ring buffer and releases it.
    fn drain(&mut self, ring: &str, visit: &mut dyn FnMut(&[u8])) -> Result<(), KernelError>;
    /// Whether `program` was loaded on this kernel.
    fn has_program(&self, program: &str) -> bool;
    /// `CLOCK_MONOTONIC`, the clock of the kernel side's timestamps.
    fn monotonic(&self) -> Duration;
}
