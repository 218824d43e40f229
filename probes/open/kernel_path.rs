// SPDX-License-Identifier: MIT OR GPL-2.0
//! Paths as the process sees them. One that is relative gets the path of its directory in front, from the directory
//! upwards to the process's root, across mounts: written from the end to the beginning.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use sidecar_ebpf::{
    current, field,
    mem::{Checked, Mem, masked},
};

use crate::{
    FIELDS,
    shared::{BASE_BYTES, CUT, MAX_DEPTH, NAME_BYTES, RELATIVE},
};

/// A path that is being put together, and how far that is. All of it is in a map, so that the verifier does not follow
/// every way a step may have gone.
#[repr(C)]
pub struct Walk {
    entry: u64,
    mount: u64,
    root_entry: u64,
    root_mount: u64,
    /// Where the path begins in `text`.
    from: u32,
    /// Bytes of the given path, its zero included.
    size: u32,
    flags: u32,
    done: u32,
    text: [u8; BASE_BYTES + NAME_BYTES],
    /// So that a look at the first bytes of a path stays within.
    _room: [u8; 64],
}

/// `AT_FDCWD`
const CWD: i32 = -100;

/// Where the given path is to be written.
///
/// # Safety
/// A live map value.
#[inline(always)]
pub unsafe fn name(walk: *mut Walk) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { (&raw mut (*walk).text).cast::<u8>().add(BASE_BYTES) }
}

/// Where the path begins.
///
/// # Safety
/// A live map value.
#[inline(always)]
pub unsafe fn head(walk: *const Walk) -> *const u64 {
    // SAFETY: the caller's; within it.
    unsafe {
        let mut from = (*walk).from;
        if from > BASE_BYTES as u32 {
            from = BASE_BYTES as u32;
        }
        (&raw const (*walk).text).cast::<u8>().add(from as usize).cast()
    }
}

/// Bytes of the path, without its zero.
///
/// # Safety
/// A live map value.
#[inline(always)]
pub unsafe fn length(walk: *const Walk) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        let size = (*walk).size;
        if size == 0 { 0 } else { (BASE_BYTES as u32 - 1).wrapping_sub((*walk).from).wrapping_add(size) }
    }
}

/// `CUT`, `RELATIVE`.
///
/// # Safety
/// A live map value.
#[inline(always)]
pub unsafe fn flags(walk: *const Walk) -> u32 {
    // SAFETY: the caller's.
    unsafe { (*walk).flags }
}

/// Completes the path after the given one of `size` bytes, its zero included, has been written to `name`.
///
/// # Safety
/// A live map value nobody else uses now.
#[inline(always)]
pub unsafe fn begin(walk: *mut Walk, size: u32, dfd: i32, in_root: bool) {
    // SAFETY: the caller's.
    unsafe {
        (&raw mut (*walk).from).write_volatile(BASE_BYTES as u32);
        (&raw mut (*walk).size).write_volatile(size);
        (&raw mut (*walk).flags).write_volatile(if size >= NAME_BYTES as u32 { CUT } else { 0 });
        if size == 0 {
            name(walk).write_volatile(0);
            return;
        }
        if name(walk).read_volatile() == b'/' && !in_root {
            return;
        }
    }
    climb(walk, dfd);
}

#[inline(never)]
fn climb(walk: *mut Walk, dfd: i32) {
    // SAFETY: a live map value; offsets of the structs the pointers point to.
    unsafe {
        let task = current::task();
        let fs = Checked::read::<u64>(task, field!(FIELDS.fs)) as *const u8;
        let root = fs.wrapping_add(field!(FIELDS.root) as usize);
        (&raw mut (*walk).root_entry).write_volatile(Checked::read(root, field!(FIELDS.path_entry)));
        (&raw mut (*walk).root_mount).write_volatile(Checked::read(root, field!(FIELDS.path_mount)));
        let base =
            if dfd == CWD { fs.wrapping_add(field!(FIELDS.pwd) as usize) } else { directory(task, dfd) };
        let entry = Checked::read::<u64>(base, field!(FIELDS.path_entry));
        (&raw mut (*walk).entry).write_volatile(entry);
        (&raw mut (*walk).mount).write_volatile(Checked::read(base, field!(FIELDS.path_mount)));
        if entry == 0 {
            (&raw mut (*walk).flags).write_volatile((*walk).flags | RELATIVE);
            return;
        }
        (&raw mut (*walk).done).write_volatile(0);
        for _ in 0..MAX_DEPTH {
            step(walk);
            if (&raw const (*walk).done).read_volatile() != 0 {
                return;
            }
        }
        (&raw mut (*walk).flags).write_volatile((*walk).flags | CUT);
    }
}

/// The path of an open file; null if there is none.
#[inline(always)]
unsafe fn directory(task: *const u8, dfd: i32) -> *const u8 {
    // SAFETY: offsets of the structs the pointers point to.
    unsafe {
        let files = Checked::read::<u64>(task, field!(FIELDS.files)) as *const u8;
        let table = Checked::read::<u64>(files, field!(FIELDS.table)) as *const u8;
        let size = Checked::read::<u32>(table, field!(FIELDS.table_size));
        if dfd < 0 || dfd as u32 >= size {
            return core::ptr::null();
        }
        let open = Checked::read::<u64>(table, field!(FIELDS.table_files)) as *const u8;
        let file = Checked::read::<u64>(open.wrapping_add(dfd as usize * 8), 0);
        if file == 0 {
            return core::ptr::null();
        }
        (file as *const u8).wrapping_add(field!(FIELDS.file_path) as usize)
    }
}

/// One directory or mount up.
#[inline(never)]
fn step(walk: *mut Walk) {
    // SAFETY: a live map value; offsets of the structs the pointers point to; `from` is bounded before it is used.
    unsafe {
        let entry = (&raw const (*walk).entry).read_volatile();
        let mount = (&raw const (*walk).mount).read_volatile();
        let is_root = entry == (&raw const (*walk).root_entry).read_volatile()
            && mount == (&raw const (*walk).root_mount).read_volatile();
        if is_root {
            return finish(walk);
        }
        let (entry, vfsmount) = (entry as *const u8, mount as *const u8);
        let parent = Checked::read::<u64>(entry, field!(FIELDS.parent));
        if Checked::read::<u64>(vfsmount, field!(FIELDS.mount_root)) == entry as u64 {
            let whole = vfsmount.wrapping_sub(field!(FIELDS.mount) as usize);
            let above = Checked::read::<u64>(whole, field!(FIELDS.mount_parent));
            if above == 0 || above == whole as u64 {
                return finish(walk);
            }
            (&raw mut (*walk).entry).write_volatile(Checked::read(whole, field!(FIELDS.mount_point)));
            (&raw mut (*walk).mount).write_volatile(above.wrapping_add(u64::from(field!(FIELDS.mount))));
            return;
        }
        if parent == 0 || parent == entry as u64 {
            return finish(walk);
        }
        prepend(walk, entry);
        (&raw mut (*walk).entry).write_volatile(parent);
    }
}

/// Puts `name/` in front.
#[inline(always)]
unsafe fn prepend(walk: *mut Walk, entry: *const u8) {
    // SAFETY: the caller's; masked, so that a name stays within `text`.
    unsafe {
        let name = Checked::read::<u64>(entry, field!(FIELDS.name));
        let length = Checked::read::<u32>(entry, field!(FIELDS.name_length)) & 0xff;
        let from = (&raw const (*walk).from).read_volatile();
        // Room is left for the first slash.
        if from < length + 2 || from > BASE_BYTES as u32 {
            (&raw mut (*walk).flags).write_volatile((*walk).flags | CUT);
            (&raw mut (*walk).done).write_volatile(1);
            return;
        }
        let text = (&raw mut (*walk).text).cast::<u8>();
        text.add(within(from - 1)).write_volatile(b'/');
        let from = within(from - 1 - length);
        let length = masked::<0xff>(u64::from(length)) as u32;
        bpf_probe_read_kernel(text.add(from).cast(), length, name as *const _);
        (&raw mut (*walk).from).write_volatile(from as u32);
    }
}

/// A place within the base's part of `text`.
#[inline(always)]
fn within(at: u32) -> usize {
    masked::<{ BASE_BYTES as i32 - 1 }>(u64::from(at)) as usize
}

/// Puts the first slash in front.
#[inline(always)]
unsafe fn finish(walk: *mut Walk) {
    // SAFETY: the caller's; masked.
    unsafe {
        let from = within((&raw const (*walk).from).read_volatile().wrapping_sub(1));
        (&raw mut (*walk).text).cast::<u8>().add(from).write_volatile(b'/');
        (&raw mut (*walk).from).write_volatile(from as u32);
        (&raw mut (*walk).done).write_volatile(1);
    }
}
