// SPDX-License-Identifier: MIT OR GPL-2.0
//! What runs only where there is a filter or somebody listens: looks at an open one by one, and tells of it.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user_str},
    },
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use sidecar_ebpf::{
    current, event, field,
    mem::{Checked, Mem, constant},
    scope,
    sidecar_common::{field::MISSING, owner::Owner},
};

use crate::{
    COMPAT, CONSTANTS, FIELDS,
    kernel_path::{self, Walk},
    shared::{
        BASE_BYTES, CUT, MAX_PREFIXES, NAME_BYTES, OPEN_EVENT, OPENED_HEAD, Opened, PREFIX_WORDS, Prefix,
        RELATIVE, URING,
    },
};

#[unsafe(no_mangle)]
static PREFIXES: [Prefix; MAX_PREFIXES] = [Prefix::NONE; MAX_PREFIXES];

/// Where paths and records are put together: one place for each of the programs that may interrupt each other.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(2, 0);
/// Paths of `io_uring`'s opens under way, by thread: at their end they are gone.
#[map]
static URING_PATHS: LruHashMap<u64, [u8; NAME_BYTES]> = LruHashMap::with_max_entries(128, 0);

#[repr(C)]
pub struct Scratch {
    walk: Walk,
    record: Opened,
}

/// What somebody asked to open, and what came of it.
pub struct Asked {
    /// Address of the path in user space; 0 if it is kept in `URING_PATHS`.
    name: u64,
    flags: u64,
    resolve: u64,
    pub nanos: u64,
    mode: u32,
    dfd: i32,
    pub result: i32,
    pub table: u32,
}

/// `RESOLVE_IN_ROOT` of openat2: the directory is the root.
const IN_ROOT: u64 = 0x10;
/// `AT_FDCWD`
const CWD: i32 = -100;
/// What `creat` opens with: `O_CREAT|O_WRONLY|O_TRUNC`, the same on all architectures the agent runs on.
const CREAT: u64 = 0o1101;

impl Asked {
    #[inline(always)]
    fn new(dfd: i32, name: u64, flags: u64, mode: u32, resolve: u64) -> Self {
        Self { name, flags, resolve, nanos: 0, mode, dfd, result: 0, table: 0 }
    }

    /// The arguments of `do_sys_openat2`. `struct open_how` is what user space has, so its layout is fixed.
    #[inline(always)]
    pub fn how(dfd: u64, name: u64, how: *const u8) -> Self {
        // SAFETY: within `struct open_how`.
        let (flags, mode, resolve) = unsafe {
            (Checked::read::<u64>(how, 0), Checked::read::<u32>(how, 8), Checked::read::<u64>(how, 16))
        };
        Self::new(dfd as i32, name, flags, mode, resolve)
    }

    /// A request of `io_uring`.
    #[inline(always)]
    pub fn uring(request: *const u8, dfd: u64) -> Self {
        let data = request.wrapping_add(field!(FIELDS.request_open) as usize);
        Self::how(dfd, 0, data.wrapping_add(field!(FIELDS.uring_how) as usize))
    }

    /// The registers of system call number `number`.
    #[inline(always)]
    pub fn call(regs: *const u8, number: u32) -> Self {
        let task = current::task();
        // SAFETY: offsets of `struct task_struct` and `struct pt_regs`.
        unsafe {
            let is_compat = Checked::read::<u32>(task, field!(FIELDS.mode)) & COMPAT != 0;
            let registers = if is_compat && field!(FIELDS.compat_first) != MISSING {
                let [first, second] = [field!(FIELDS.compat_first), field!(FIELDS.compat_second)];
                [first, second, field!(FIELDS.third), field!(FIELDS.second)]
            } else if field!(FIELDS.compat_first) == MISSING {
                // An array of registers.
                let all = field!(FIELDS.second);
                [field!(FIELDS.first), all + 8, all + 16, all + 24]
            } else {
                [field!(FIELDS.first), field!(FIELDS.second), field!(FIELDS.third), field!(FIELDS.fourth)]
            };
            let given = [
                Checked::read::<u64>(regs, registers[0]),
                Checked::read::<u64>(regs, registers[1]),
                Checked::read::<u64>(regs, registers[2]),
                Checked::read::<u64>(regs, registers[3]),
            ];
            let calls = if is_compat { &CONSTANTS.compat_calls } else { &CONSTANTS.calls };
            if number == constant(&calls[0]) {
                Self::new(CWD, given[0], given[1], given[2] as u32, 0)
            } else if number == constant(&calls[1]) {
                Self::new(CWD, given[0], CREAT, given[1] as u32, 0)
            } else if number == constant(&calls[2]) {
                Self::new(given[0] as i32, given[1], given[2], given[3] as u32, 0)
            } else {
                let how = MaybeUninit::<[u64; 3]>::zeroed();
                let mut how = how.assume_init();
                aya_ebpf::helpers::generated::bpf_probe_read_user(
                    how.as_mut_ptr().cast(),
                    24,
                    given[2] as *const _,
                );
                Self::new(given[0] as i32, given[1], how[0], how[1] as u32, how[2])
            }
        }
    }
}

/// The descriptor of the directory a request of `io_uring` names.
#[inline(always)]
pub fn uring_dfd(request: *const u8) -> u64 {
    let data = request.wrapping_add(field!(FIELDS.request_open) as usize);
    // SAFETY: an offset of `struct io_open`.
    unsafe { u64::from(Checked::read::<u32>(data, field!(FIELDS.uring_dfd))) }
}

/// Keeps the path of a request of `io_uring` until it ends.
#[inline(never)]
pub fn keep_uring_path(request: *const u8) {
    let Some(scratch) = SCRATCH.get_ptr_mut(URING) else { return };
    // SAFETY: a live map value nobody else uses now; offsets of `struct io_open` and `struct filename`.
    unsafe {
        let data = request.wrapping_add(field!(FIELDS.request_open) as usize);
        let filename = Checked::read::<u64>(data, field!(FIELDS.uring_filename)) as *const u8;
        let name = Checked::read::<u64>(filename, field!(FIELDS.filename));
        let to = (&raw mut (*scratch).record.path).cast::<[u8; NAME_BYTES]>();
        bpf_probe_read_kernel_str(to.cast(), NAME_BYTES as u32, name as *const _);
        let kept: &[u8; NAME_BYTES] = &*to;
        let _ = URING_PATHS.insert(bpf_get_current_pid_tgid(), kept, u64::from(BPF_ANY));
    }
}

/// Whether the user wants to see an open; tells listeners of it if so.
#[inline(never)]
pub fn examine(asked: &Asked) -> bool {
    let mut owner = MaybeUninit::<Owner>::uninit();
    // SAFETY: `describe` writes every byte and reads none.
    let owner = unsafe {
        current::describe(&mut *owner.as_mut_ptr());
        owner.assume_init_ref()
    };
    if scope::active().is_some() && !scope::passes_task(current::task(), owner) {
        return false;
    }
    let is_wanted = event::wanted(OPEN_EVENT);
    if constant(&CONSTANTS.prefixes) == 0 && !is_wanted {
        return true;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(asked.table & 1) else { return true };
    find_path(scratch, asked);
    if constant(&CONSTANTS.prefixes) != 0 && !passes_path(scratch) {
        return false;
    }
    if is_wanted {
        tell(scratch, asked, owner);
    }
    true
}

/// Puts the path into the scratch's walk.
#[inline(never)]
fn find_path(scratch: *mut Scratch, asked: &Asked) {
    // SAFETY: a live map value nobody else uses now.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let name = kernel_path::name(walk);
        let length = if asked.table == URING {
            match URING_PATHS.get_ptr(bpf_get_current_pid_tgid()) {
                Some(kept) => bpf_probe_read_kernel_str(name.cast(), NAME_BYTES as u32, kept.cast()),
                None => -1,
            }
        } else {
            bpf_probe_read_user_str(name.cast(), NAME_BYTES as u32, asked.name as *const _)
        };
        let mut size = 0;
        if length > 0 {
            size = length as u32 & (NAME_BYTES as u32 - 1);
            // As long as there is room for: 512 is masked to 0.
            if length as usize >= NAME_BYTES {
                size = NAME_BYTES as u32;
            }
        }
        kernel_path::begin(walk, size, asked.dfd, asked.resolve & IN_ROOT != 0);
    }
}

/// Whether the path begins with one of the wanted ones. One that is not known does not.
#[inline(never)]
fn passes_path(scratch: *const Scratch) -> bool {
    let mut found = 0;
    // SAFETY: a live map value; `head` stays within it.
    unsafe {
        let head = kernel_path::head(&raw const (*scratch).walk);
        for prefix in &PREFIXES {
            let (mut difference, mut used) = (0, 0);
            for word in 0..PREFIX_WORDS {
                let mask = (&raw const prefix.masks[word]).read_volatile();
                let wanted = (&raw const prefix.words[word]).read_volatile();
                difference |= (head.add(word).read_volatile() ^ wanted) & mask;
                used |= mask;
            }
            found |= u32::from(used != 0 && difference == 0);
        }
    }
    found != 0
}

/// Hands over the event.
#[inline(never)]
fn tell(scratch: *mut Scratch, asked: &Asked, owner: &Owner) {
    // SAFETY: a live map value nobody else uses now; word by word, see `current::describe`. Copies end within `path`.
    unsafe {
        let walk = &raw const (*scratch).walk;
        let record = &raw mut (*scratch).record;
        let mut length = kernel_path::length(walk);
        if length > (BASE_BYTES + NAME_BYTES) as u32 {
            length = (BASE_BYTES + NAME_BYTES) as u32;
        }
        bpf_probe_read_kernel((&raw mut (*record).path).cast(), length, kernel_path::head(walk).cast());
        let header = event::header(OPEN_EVENT, length);
        (&raw mut (*record).header.time).write_volatile(header.time);
        (&raw mut (*record).header.kind).write_volatile(header.kind);
        (&raw mut (*record).header.extra).write_volatile(header.extra);
        let (to, from) = ((&raw mut (*record).owner).cast::<u64>(), core::ptr::from_ref(owner).cast::<u64>());
        for word in 0..size_of::<Owner>() / 8 {
            to.add(word).write_volatile(from.add(word).read_volatile());
        }
        (&raw mut (*record).flags).write_volatile(asked.flags);
        (&raw mut (*record).nanos).write_volatile(asked.nanos);
        (&raw mut (*record).mode).write_volatile(asked.mode);
        (&raw mut (*record).dfd).write_volatile(asked.dfd);
        let parent = current::tgid(current::parent(current::leader(current::task())));
        (&raw mut (*record).parent).write_volatile(parent);
        (&raw mut (*record).uid).write_volatile(bpf_get_current_uid_gid() as u32);
        (&raw mut (*record).result).write_volatile(asked.result);
        (&raw mut (*record).path_flags).write_volatile(kernel_path::flags(walk));
        let mut size = OPENED_HEAD as u32 + length;
        if size > size_of::<Opened>() as u32 {
            size = size_of::<Opened>() as u32;
        }
        event::output(OPEN_EVENT, record.cast(), size);
    }
}

const _: () = assert!(size_of::<Opened>() == OPENED_HEAD + BASE_BYTES + NAME_BYTES && CUT != RELATIVE);
