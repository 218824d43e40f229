// SPDX-License-Identifier: MIT OR GPL-2.0
//! Events of the probe: what runs only while somebody listens.

use aya_ebpf::{
    helpers::{
        bpf_get_current_uid_gid,
        generated::{
            bpf_get_current_task_btf, bpf_probe_read_kernel_str, bpf_probe_read_user,
            bpf_probe_read_user_str, bpf_task_pt_regs,
        },
    },
    macros::map,
    maps::PerCpuArray,
};
use sidecar_ebpf::{
    current, event, field,
    mem::{Checked, Mem},
    sidecar_common::{field::MISSING, owner::Owner},
};

use crate::{
    CONSTANTS, FIELDS,
    shared::{ARG_BYTES, ARGS_BYTES, EXEC_EVENT, EXEC_HEAD, EXIT_EVENT, Exec, Exit, MAX_ARGS, PATH_BYTES},
};

/// Where records of very different lengths are put together: one place for each program that may interrupt another.
#[map]
static SCRATCH: PerCpuArray<Exec> = PerCpuArray::with_max_entries(4, 0);

/// A successful exec.
#[inline(never)]
pub fn exec<M: Mem>(task: *const u8, bprm: *const u8, owner: &Owner) {
    let Some(record) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: a live map value nobody else uses now; offsets of the structs the pointers point to. Every copy is bounded
    // so that it ends within `text`.
    unsafe {
        let path = M::read::<u64>(bprm, field!(FIELDS.filename));
        let mm = M::read::<u64>(task, field!(FIELDS.mm)) as *const u8;
        let begin = M::read::<u64>(mm, field!(FIELDS.arg_start));
        let there = M::read::<u64>(mm, field!(FIELDS.arg_end)).wrapping_sub(begin);
        let text = (&raw mut (*record).text).cast::<u8>();
        let length = bpf_probe_read_kernel_str(text.cast(), PATH_BYTES as u32, path as *const _);
        let length = length as u64 & PATH_BYTES as u64;
        let mut size = there;
        if size > ARGS_BYTES as u64 {
            size = ARGS_BYTES as u64;
        }
        if bpf_probe_read_user(text.add(length as usize).cast(), size as u32, begin as *const _) != 0 {
            size = 0;
        }
        head(record, owner, 0, length as u32, there as u32);
        output(record, length + size);
    }
}

/// Hands over a record with so many bytes of text.
#[inline(always)]
unsafe fn output(record: *mut Exec, text: u64) {
    let mut length = EXEC_HEAD as u64 + text;
    if length > size_of::<Exec>() as u64 {
        length = size_of::<Exec>() as u64;
    }
    // SAFETY: no longer than the map value the caller has filled.
    unsafe { event::output(EXEC_EVENT, record.cast(), length as u32) };
}

/// A failed one. What it was asked to do is still in the process's registers and memory.
#[inline(never)]
pub fn failed(result: i32, place: u32, owner: &Owner) {
    let Some(record) = SCRATCH.get_ptr_mut(place) else { return };
    // SAFETY: as above; addresses of user space are read by helpers that check them.
    unsafe {
        let text = (&raw mut (*record).text).cast::<u8>();
        let (path, arguments) = asked();
        let length = bpf_probe_read_user_str(text.cast(), PATH_BYTES as u32, path as *const _);
        // Not readable: nothing is known of it.
        let length = if length < 0 { 0 } else { length as u64 & PATH_BYTES as u64 };
        let (end, there) = copy_arguments(text, length, arguments);
        head(record, owner, result, length as u32, there);
        output(record, end);
    }
}

/// Copies a vector of arguments behind the first `begin` bytes; returns where they end and how many bytes there were, one
/// more than were copied if there is more to them.
#[inline(always)]
unsafe fn copy_arguments(text: *mut u8, begin: u64, vector: u64) -> (u64, u32) {
    /// Up to here there is room for one more.
    const FULL: u64 = (size_of::<Exec>() - EXEC_HEAD - ARG_BYTES - 1) as u64;
    let (mut at, mut cut) = (begin, 0);
    for i in 0..=MAX_ARGS {
        let mut argument = 0u64;
        // SAFETY: the helper checks the address and writes eight bytes.
        unsafe {
            let place = vector.wrapping_add(u64::from(i) * 8);
            bpf_probe_read_user((&raw mut argument).cast(), 8, place as *const _);
        }
        if argument == 0 {
            break;
        }
        if i == MAX_ARGS || at >= FULL {
            cut = 1;
            break;
        }
        // SAFETY: `text` has room for one more argument at `at`.
        let length = unsafe {
            bpf_probe_read_user_str(text.add(at as usize).cast(), ARG_BYTES as u32, argument as *const _)
        };
        if length > 0 {
            at += length as u64 & ARG_BYTES as u64;
            cut |= u32::from(length == ARG_BYTES as i64);
        }
    }
    (at, at.wrapping_sub(begin) as u32 + cut)
}

/// Addresses of the path and of the arguments the process has asked to execute; 0 where they are not known.
#[inline(always)]
unsafe fn asked() -> (u64, u64) {
    if field!(FIELDS.syscall) == MISSING {
        return (0, 0);
    }
    // SAFETY: offsets of `struct pt_regs`; the addresses are checked by the helper that reads them.
    unsafe {
        let regs = registers();
        let (first, second, third) = if field!(FIELDS.second) == MISSING {
            // An array of registers.
            (field!(FIELDS.first), field!(FIELDS.first) + 8, field!(FIELDS.first) + 16)
        } else {
            (field!(FIELDS.first), field!(FIELDS.second), field!(FIELDS.third))
        };
        let (number, constants) = (Checked::read::<u32>(regs, field!(FIELDS.syscall)), CONSTANTS.load());
        if number == constants.execve {
            (Checked::read::<u64>(regs, first), Checked::read::<u64>(regs, second))
        } else if number == constants.execveat {
            (Checked::read::<u64>(regs, second), Checked::read::<u64>(regs, third))
        } else {
            (0, 0)
        }
    }
}

/// The registers with which the process entered the kernel.
#[inline(always)]
unsafe fn registers() -> *const u8 {
    let place = CONSTANTS.load().registers;
    if place == 0 {
        // SAFETY: the running task.
        return unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8 };
    }
    // SAFETY: an offset of `struct task_struct`. Should a kernel be built otherwise, the number of the system call, which
    // is looked at first, is not the right one.
    let stack = unsafe { Checked::read::<u64>(current::task(), field!(FIELDS.stack)) };
    (stack + u64::from(place)) as *const u8
}

#[inline(always)]
unsafe fn head(record: *mut Exec, owner: &Owner, result: i32, path: u32, args: u32) {
    // SAFETY: the caller's record; word by word, see `current::describe`.
    unsafe {
        let header = event::header(EXEC_EVENT, path);
        (&raw mut (*record).header.time).write_volatile(header.time);
        (&raw mut (*record).header.kind).write_volatile(header.kind);
        (&raw mut (*record).header.extra).write_volatile(header.extra);
        copy_owner(&raw mut (*record).owner, owner);
        (&raw mut (*record).parent).write_volatile(parent());
        (&raw mut (*record).uid).write_volatile(bpf_get_current_uid_gid() as u32);
        (&raw mut (*record).result).write_volatile(result);
        (&raw mut (*record).args).write_volatile(args);
    }
}

#[inline(always)]
unsafe fn copy_owner(to: *mut Owner, owner: &Owner) {
    let (to, from) = (to.cast::<u64>(), core::ptr::from_ref(owner).cast::<u64>());
    for word in 0..size_of::<Owner>() / 8 {
        // SAFETY: both are that many words long and aligned to them.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
    }
}

/// Process id of the parent.
#[inline(always)]
fn parent() -> u32 {
    current::tgid(current::parent(current::leader(current::task())))
}

/// The end of a process.
#[inline(never)]
pub fn exit(status: u32, lifetime: u64, pages: u64, owner: &Owner) {
    let Some(mut entry) = event::reserve::<Exit>(EXIT_EVENT) else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record, all of which is written.
    unsafe {
        let header = event::header(EXIT_EVENT, status);
        (&raw mut (*record).header.time).write_volatile(header.time);
        (&raw mut (*record).header.kind).write_volatile(header.kind);
        (&raw mut (*record).header.extra).write_volatile(header.extra);
        copy_owner(&raw mut (*record).owner, owner);
        (&raw mut (*record).parent).write_volatile(parent());
        (&raw mut (*record).uid).write_volatile(bpf_get_current_uid_gid() as u32);
        (&raw mut (*record).lifetime).write_volatile(lifetime);
        (&raw mut (*record).pages).write_volatile(pages);
    }
    event::submit(entry);
}
