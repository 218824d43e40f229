//! The bpf(2) commands aya has no call for: batch operations, iterator links with a map, iterator files.
//!
//! Kernel: `union bpf_attr` in `include/uapi/linux/bpf.h`; each command below names its struct.

pub(super) mod xdp;

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const MAP_LOOKUP_BATCH: i32 = 24;
const MAP_LOOKUP_AND_DELETE_BATCH: i32 = 25;
const LINK_CREATE: i32 = 28;
const ENABLE_STATS: i32 = 32;
const ITER_CREATE: i32 = 33;
const TRACE_ITER: u32 = 28;

/// Runs one command; `attr` is the command's member of the union, zero-extended to what every kernel accepts.
fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is a live, writable `#[repr(C)]` struct of the size passed; pointers in it outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `struct { __u32 map_fd; __aligned_u64 key; union { value; next_key }; __u64 flags; }`
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element(command: i32, map: BorrowedFd<'_>, key: &[u8], value: *const u8) -> io::Result<()> {
    // A queue has no keys, and the kernel refuses a pointer to one.
    let key = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
    let mut attr = Element { map_fd: map.as_raw_fd() as u32, pad: 0, key, value: value as u64, flags: 0 };
    bpf(command, &mut attr).map(drop)
}

fn absent(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Copies a value out; false if the key is not there. `key` and `value` have the map's sizes.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    absent(element(MAP_LOOKUP_ELEM, map, key, value.as_mut_ptr()))
}

/// Writes a value.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    element(MAP_UPDATE_ELEM, map, key, value.as_ptr())
}

/// Removes a key; false if it was not there.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    absent(element(MAP_DELETE_ELEM, map, key, std::ptr::null()))
}

/// `struct { in_batch; out_batch; keys; values; __u32 count; __u32 map_fd; __u64 elem_flags; __u64 flags; }`
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Where a batch walk stands; opaque to us.
pub(super) type Cursor = [u8; 64];

/// Fetches (and with `remove` deletes) as many entries as fit into `keys` and `values`. Returns how many and whether
/// there may be more. `ENOSPC` means a bucket holds more entries than fit: come again with larger buffers.
pub(super) fn batch(
    map: BorrowedFd<'_>,
    remove: bool,
    from: Option<&Cursor>,
    to: &mut Cursor,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<(u32, bool)> {
    let mut attr = Batch {
        from: from.map_or(0, |cursor| cursor.as_ptr() as u64),
        to: to.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    let command = if remove { MAP_LOOKUP_AND_DELETE_BATCH } else { MAP_LOOKUP_BATCH };
    match bpf(command, &mut attr) {
        Ok(_) => Ok((attr.count, true)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count, false)),
        Err(error) => Err(error),
    }
}

/// `struct bpf_map_info`, its first members.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct MapInfo {
    /// `enum bpf_map_type`
    pub(super) kind: u32,
    id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
}

/// Fills in what the kernel tells about an object of ours, as far as both sides know of it.
fn object_info<T>(object: BorrowedFd<'_>, mut info: T) -> io::Result<T> {
    /// `struct { __u32 bpf_fd; __u32 info_len; __aligned_u64 info; }`
    #[repr(C)]
    struct Info {
        fd: u32,
        length: u32,
        to: u64,
    }
    let mut attr = Info {
        fd: object.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        to: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Type and sizes of a map.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    object_info(map, MapInfo::default())
}

/// What the kernel counts about a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RunStats {
    /// Time spent in it while run times were measured.
    pub(crate) time: Duration,
    /// Runs while they were counted.
    pub(crate) runs: u64,
    /// Times it was left out because it was already running on that CPU; 0 before 5.12, which do not tell.
    pub(crate) missed: u64,
}

impl RunStats {
    /// Of two programs together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            time: self.time + other.time,
            runs: self.runs + other.runs,
            missed: self.missed + other.missed,
        }
    }
}

/// The last members of `struct bpf_prog_info` that interest us.
pub(super) fn run_stats(program: BorrowedFd<'_>) -> io::Result<RunStats> {
    // `run_time_ns`, `run_cnt` and `recursion_misses` follow 24 words of other things.
    let info = object_info(program, [0u64; 27])?;
    Ok(RunStats { time: Duration::from_nanos(info[24]), runs: info[25], missed: info[26] })
}

/// Attaches an iterator program; over the elements of `map` if one is given.
pub(super) fn iterator_link(program: BorrowedFd<'_>, map: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    /// `struct { prog_fd; target_fd; attach_type; flags; __aligned_u64 iter_info; __u32 iter_info_len; }`
    #[repr(C)]
    struct Link {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        info: u64,
        info_length: u32,
        pad: u32,
    }
    // `union bpf_iter_link_info`
    let mut info = [map.map_or(0, |map| map.as_raw_fd() as u32), 0, 0, 0];
    let mut attr = Link {
        program: program.as_raw_fd() as u32,
        target: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        info: map.map_or(0, |_| info.as_mut_ptr() as u64),
        // 5.10 knows four bytes of it; later kernels take that too.
        info_length: map.map_or(0, |_| 4),
        pad: 0,
    };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

/// A file that runs an attached iterator once when it is read to its end.
pub(super) fn iterator_file(link: BorrowedFd<'_>) -> io::Result<std::fs::File> {
    let mut attr = [link.as_raw_fd() as u32, 0];
    bpf(ITER_CREATE, &mut attr).map(|fd| owned(fd).into())
}

/// Makes the kernel measure run time and count of all programs for as long as the descriptor lives.
pub(crate) fn enable_stats() -> io::Result<OwnedFd> {
    // `BPF_STATS_RUN_TIME`
    let mut attr = [0u32, 0];
    bpf(ENABLE_STATS, &mut attr).map(owned)
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}
