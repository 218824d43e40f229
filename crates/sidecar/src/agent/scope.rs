//! Writing the user's filter into a probe's maps. The flags come last, so that the kernel never filters by a list that is
//! only half there.

use std::collections::BTreeSet;

use sidecar_common::scope::Scope;
use sidecar_core::{Kernel, KernelError};

use crate::config::target::Resolved;

/// Makes `target` the filter in force. Objects that filter nothing have no such maps and are left alone.
pub(super) fn apply(kernel: &dyn Kernel, target: &Resolved) -> Result<(), KernelError> {
    let pids: Vec<_> = target.pids.iter().map(|(pid, ticks)| (*pid, ticks.to_ne_bytes().to_vec())).collect();
    let ports: Vec<_> =
        target.ports.iter().map(|port| (u32::from(*port), 1u32.to_ne_bytes().to_vec())).collect();
    let absent = kernel.lookup("SCOPE", &0u32.to_ne_bytes(), &mut [0; size_of::<Scope>()]);
    if absent.is_err_and(|error| error.cause.kind() == std::io::ErrorKind::NotFound) {
        return Ok(());
    }
    fill(kernel, "SCOPE_PIDS", &pids)?;
    fill(kernel, "SCOPE_PORTS", &ports)?;
    kernel.update("SCOPE", &0u32.to_ne_bytes(), bytes(&target.scope))?;
    prune(kernel, "SCOPE_PIDS", &pids)?;
    prune(kernel, "SCOPE_PORTS", &ports)
}

fn fill(kernel: &dyn Kernel, map: &str, entries: &[(u32, Vec<u8>)]) -> Result<(), KernelError> {
    entries.iter().try_for_each(|(key, value)| kernel.update(map, &key.to_ne_bytes(), value))
}

fn prune(kernel: &dyn Kernel, map: &str, entries: &[(u32, Vec<u8>)]) -> Result<(), KernelError> {
    let wanted: BTreeSet<[u8; 4]> = entries.iter().map(|(key, _)| key.to_ne_bytes()).collect();
    let mut stale = Vec::new();
    kernel.for_each(map, false, &mut |key, _| {
        if !wanted.contains(key) {
            stale.push(key.to_vec());
        }
    })?;
    stale.iter().try_for_each(|key| kernel.delete(map, key).map(drop))
}

fn bytes(scope: &Scope) -> &[u8] {
    // SAFETY: a `#[repr(C)]` struct of integers without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(scope).cast(), size_of::<Scope>()) }
}
