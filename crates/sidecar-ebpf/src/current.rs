// SPDX-License-Identifier: MIT OR GPL-2.0
//! Who is running, and who a task is: process id, the process's name (its main thread's, so that worker threads' names
//! do not become labels) and its cgroup.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid,
    generated::{
        bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel_str,
    },
};
use sidecar_common::{
    owner::{COMM_LEN, Owner},
    scope::{CommWords, comm_words},
    task::TaskFields,
};

use crate::{
    field,
    mem::{Checked, Mem, Typed, constant},
};

#[unsafe(no_mangle)]
static TASK_FIELDS: TaskFields = TaskFields::UNRESOLVED;

/// `struct task_struct *` of the running task.
#[inline(always)]
pub fn task() -> *const u8 {
    // SAFETY: no arguments, always succeeds.
    unsafe { bpf_get_current_task() as *const u8 }
}

/// Not 0 where the kernel has `bpf_get_current_task_btf` (5.11), whose pointer can be followed with plain loads: a third
/// of the cost. Elsewhere the verifier never sees the branch.
#[unsafe(no_mangle)]
static TASK_BTF: u32 = 0;

/// The running process, written to `to`. A function of its own: see [`crate::scope::passes_task`].
#[inline(never)]
pub fn describe(to: &mut Owner) {
    let id = bpf_get_current_pid_tgid();
    let pid = (id >> 32) as u32;
    let words = if constant(&TASK_BTF) != 0 {
        terminated(name_words())
    } else if id as u32 == pid {
        comm_words(&bpf_get_current_comm().unwrap_or([0; COMM_LEN]))
    } else {
        let mut comm = [0; COMM_LEN];
        leader_comm(task(), &mut comm);
        comm_words(&comm)
    };
    // Word by word: the compiler would clear and copy structs byte by byte.
    let to = core::ptr::from_mut(to);
    // SAFETY: a valid reference; the name is aligned to a word, as all of `Owner` is.
    unsafe {
        (&raw mut (*to).cgroup).write_volatile(bpf_get_current_cgroup_id());
        let comm = (&raw mut (*to).comm).cast::<u64>();
        comm.write_volatile(words[0]);
        comm.add(1).write_volatile(words[1]);
        (&raw mut (*to).pid).write_volatile(pid);
        (&raw mut (*to).reserved).write_volatile(0);
    }
}

/// The name of the running process as it lies in memory: what follows its terminating zero may be left of a longer one.
#[inline(always)]
pub fn name_words() -> CommWords {
    let comm = field!(TASK_FIELDS.comm);
    // SAFETY: offsets of `struct task_struct`, whose name is two words long.
    unsafe {
        if constant(&TASK_BTF) != 0 {
            let task = bpf_get_current_task_btf().cast_const().cast::<u8>();
            let leader = Typed::read::<u64>(task, field!(TASK_FIELDS.group_leader)) as *const u8;
            [Typed::read::<u64>(leader, comm), Typed::read::<u64>(leader, comm + 8)]
        } else {
            let leader = leader(task());
            [Checked::read::<u64>(leader, comm), Checked::read::<u64>(leader, comm + 8)]
        }
    }
}

/// A name without what may be left of a longer one behind its terminating zero.
#[inline(always)]
pub fn terminated(words: CommWords) -> CommWords {
    let first = up_to_zero(words[0]);
    [words[0] & first, if first == u64::MAX { words[1] & up_to_zero(words[1]) } else { 0 }]
}

/// A mask of the bytes before the first zero byte of a little-endian word.
#[inline(always)]
fn up_to_zero(word: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let zeros = word.wrapping_sub(LOW) & !word & (LOW << 7);
    ((zeros & zeros.wrapping_neg()) >> 7).wrapping_sub(1)
}

/// The running process.
#[inline(always)]
pub fn owner() -> Owner {
    let mut owner = core::mem::MaybeUninit::<Owner>::uninit();
    // SAFETY: `describe` writes every byte and reads none.
    unsafe {
        describe(&mut *owner.as_mut_ptr());
        owner.assume_init()
    }
}

/// The process `task` belongs to.
#[inline(always)]
pub fn owner_of(task: *const u8) -> Owner {
    let mut owner = Owner { cgroup: cgroup_id(cgroup(task)), pid: tgid(task), ..Owner::UNKNOWN };
    leader_comm(task, &mut owner.comm);
    owner
}

/// Process id in the initial pid namespace.
#[inline(always)]
pub fn tgid(task: *const u8) -> u32 {
    // SAFETY: offsets of `struct task_struct`.
    unsafe { Checked::read::<u32>(task, field!(TASK_FIELDS.tgid)) }
}

/// The main thread of the task's process.
#[inline(always)]
pub fn leader(task: *const u8) -> *const u8 {
    // SAFETY: offsets of `struct task_struct`.
    unsafe { Checked::read::<u64>(task, field!(TASK_FIELDS.group_leader)) as *const u8 }
}

/// The parent of the task's process.
#[inline(always)]
pub fn parent(task: *const u8) -> *const u8 {
    // SAFETY: offsets of `struct task_struct`.
    unsafe { Checked::read::<u64>(task, field!(TASK_FIELDS.real_parent)) as *const u8 }
}

/// When the task's process began, in nanoseconds of the boot clock.
#[inline(always)]
pub fn start_boottime(task: *const u8) -> u64 {
    // SAFETY: offsets of `struct task_struct`.
    unsafe { Checked::read::<u64>(leader(task), field!(TASK_FIELDS.start_boottime)) }
}

/// Copies up to the terminating zero: what is behind it may be left over from a longer name.
#[inline(always)]
fn leader_comm(task: *const u8, to: &mut [u8; COMM_LEN]) {
    let comm = leader(task).wrapping_add(field!(TASK_FIELDS.comm) as usize);
    *to = [0; COMM_LEN];
    // SAFETY: the helper checks the address and writes at most the length given.
    unsafe { bpf_probe_read_kernel_str(to.as_mut_ptr().cast(), COMM_LEN as u32, comm.cast()) };
}

/// `struct cgroup *` of the task in the v2 hierarchy.
#[inline(always)]
pub fn cgroup(task: *const u8) -> *const u8 {
    // SAFETY: offsets of `struct task_struct` and `struct css_set`.
    unsafe {
        let set = Checked::read::<u64>(task, field!(TASK_FIELDS.cgroups)) as *const u8;
        Checked::read::<u64>(set, field!(TASK_FIELDS.css_set_dfl_cgrp)) as *const u8
    }
}

/// A cgroup's id: the inode number of its directory.
#[inline(always)]
pub fn cgroup_id(cgroup: *const u8) -> u64 {
    // SAFETY: offsets of `struct cgroup` and `struct kernfs_node`.
    unsafe {
        let node = Checked::read::<u64>(cgroup, field!(TASK_FIELDS.cgroup_kn)) as *const u8;
        Checked::read::<u64>(node, field!(TASK_FIELDS.kernfs_node_id))
    }
}

/// The id of a cgroup's ancestor (or its own) at `level`; 0 if it is not that deep.
#[inline(always)]
pub fn cgroup_ancestor(cgroup: *const u8, level: u32) -> u64 {
    use sidecar_common::field::MISSING;
    // SAFETY: offsets of `struct cgroup`; `level` is checked against the cgroup's own depth, the array's length.
    unsafe {
        if level > Checked::read::<u32>(cgroup, field!(TASK_FIELDS.cgroup_level)) {
            return 0;
        }
        let slot = level.wrapping_mul(8);
        let ancestors = field!(TASK_FIELDS.cgroup_ancestors);
        if ancestors != MISSING {
            return cgroup_id(Checked::read::<u64>(cgroup, ancestors.wrapping_add(slot)) as *const u8);
        }
        Checked::read::<u64>(cgroup, field!(TASK_FIELDS.cgroup_ancestor_ids).wrapping_add(slot))
    }
}
