// SPDX-License-Identifier: MIT OR GPL-2.0
//! The user's filter, asked before any other work. The agent writes it into maps, so it changes without reloading.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use sidecar_common::{
    owner::Owner,
    scope::{
        BY_CGROUP, BY_CHILDREN, BY_COMM, BY_PID, BY_PORT, MAX_ANCESTORS, MAX_LISTED, Scope, TICK_NANOS,
        comm_words,
    },
};

use crate::current;

#[map]
static SCOPE: Array<Scope> = Array::with_max_entries(1, 0);
/// Process id → start time in clock ticks, so that a reused id does not pass; 0 passes any.
#[map]
static SCOPE_PIDS: HashMap<u32, u64> = HashMap::with_max_entries(MAX_LISTED, 1);
#[map]
static SCOPE_PORTS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_LISTED, 1);

/// The filter in force; `None` when everything passes.
#[inline(always)]
pub fn active() -> Option<&'static Scope> {
    SCOPE.get(0).filter(|scope| scope.flags != 0)
}

/// Whether anything but ports is filtered, that is, whether a fact without a known process cannot pass.
#[inline(always)]
pub fn needs_owner(scope: &Scope) -> bool {
    scope.flags & (BY_PID | BY_CGROUP | BY_COMM) != 0
}

/// Whether the process `task` belongs to passes. A function of its own, because the verifier of older kernels is slow
/// with what is inlined in many places, and because it runs only where there is a filter.
#[inline(never)]
pub fn passes_task(task: *const u8, owner: &Owner) -> bool {
    let Some(scope) = active() else { return true };
    passes_comm(scope, owner) && passes_cgroup(scope, task) && passes_pid(scope, task, owner.pid)
}

/// Whether a service port passes.
#[inline(always)]
pub fn passes_port(scope: &Scope, port: u16) -> bool {
    // SAFETY: the value is not used, only its presence.
    scope.flags & BY_PORT == 0 || unsafe { SCOPE_PORTS.get(u32::from(port)) }.is_some()
}

#[inline(always)]
fn passes_comm(scope: &Scope, owner: &Owner) -> bool {
    if scope.flags & BY_COMM == 0 {
        return true;
    }
    let [first, second] = comm_words(&owner.comm);
    for wanted in &scope.comms {
        // Unused entries are empty, as no process's name is.
        if wanted[0] == first && wanted[1] == second {
            return true;
        }
    }
    false
}

#[inline(always)]
fn passes_cgroup(scope: &Scope, task: *const u8) -> bool {
    if scope.flags & BY_CGROUP == 0 {
        return true;
    }
    let cgroup = current::cgroup(task);
    for wanted in &scope.cgroups {
        if wanted.id != 0 && current::cgroup_ancestor(cgroup, wanted.level) == wanted.id {
            return true;
        }
    }
    false
}

#[inline(always)]
fn passes_pid(scope: &Scope, task: *const u8, pid: u32) -> bool {
    if scope.flags & BY_PID == 0 || listed(task, pid) {
        return true;
    }
    if scope.flags & BY_CHILDREN == 0 {
        return false;
    }
    let mut at = current::leader(task);
    for _ in 0..MAX_ANCESTORS {
        at = current::leader(current::parent(at));
        let pid = current::tgid(at);
        if pid <= 1 {
            return false;
        }
        if listed(at, pid) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn listed(task: *const u8, pid: u32) -> bool {
    // SAFETY: the value is copied at once; user space only ever adds and removes entries.
    match unsafe { SCOPE_PIDS.get(pid) } {
        Some(0) => true,
        Some(&ticks) => current::start_boottime(task) / TICK_NANOS == ticks,
        None => false,
    }
}
