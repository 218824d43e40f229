//! One probe's loaded object: its maps, rings and iterators, as its collector sees them.

use std::{
    collections::HashMap,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    sync::OnceLock,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
};
use sidecar_core::{Interface, Kernel, KernelError};

use super::{
    netns, sys,
    xdp::{Follower, News},
};

/// Entries fetched at once; a bucket of a hash map must fit whole.
const BATCH: u32 = 1024;

/// Room made before an iterator is read.
const READ_AHEAD: usize = 64 * 1024;

/// An attached iterator.
pub(super) struct Iterator {
    pub(super) link: OwnedFd,
    pub(super) per_namespace: bool,
}

/// A map with what is needed to speak to it.
struct Handle {
    /// Kept as it is: programs not yet loaded refer to the map by this very descriptor number.
    data: MapData,
    info: sys::MapInfo,
}

impl Handle {
    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    /// Bytes of a value of a per-CPU map, of all CPUs together.
    fn all_cpus(&self) -> usize {
        (self.info.value_size as usize).next_multiple_of(8) * possible_cpus()
    }
}

/// A loaded object. Dropping it detaches everything.
pub(crate) struct Object {
    /// Owns the programs and their links.
    pub(super) ebpf: Ebpf,
    pub(super) iterators: HashMap<&'static str, Iterator>,
    maps: HashMap<String, Handle>,
    rings: HashMap<String, RingBuf<MapData>>,
    loaded: Vec<&'static str>,
    /// For a probe that follows interfaces.
    pub(super) follower: Option<Follower>,
}

impl Object {
    /// Takes stock of the maps of a freshly loaded object.
    pub(super) fn new(mut ebpf: Ebpf) -> io::Result<Self> {
        let names: Vec<String> =
            ebpf.maps().filter(|(_, map)| is_ours(map)).map(|(name, _)| name.to_owned()).collect();
        let (mut maps, mut rings) = (HashMap::new(), HashMap::new());
        for name in names {
            let Some(map) = ebpf.take_map(&name) else { continue };
            if let Map::RingBuf(data) = map {
                let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(io::Error::other)?;
                rings.insert(name, ring);
            } else if let Some(data) = data_of(map) {
                let info = sys::map_info(data.fd().as_fd())?;
                maps.insert(name, Handle { data, info });
            }
        }
        Ok(Self { ebpf, iterators: HashMap::new(), maps, rings, loaded: Vec::new(), follower: None })
    }

    /// Remembers that a program is attached.
    pub(super) fn mark_loaded(&mut self, program: &'static str) {
        self.loaded.push(program);
    }

    /// The map's descriptor.
    pub(super) fn map_fd(&self, map: &str) -> Option<BorrowedFd<'_>> {
        self.maps.get(map).map(|handle| handle.fd())
    }

    /// Descriptors that become readable when a ring wants to be drained.
    pub(crate) fn ring_fds(&self) -> impl std::iter::Iterator<Item = RawFd> + '_ {
        use std::os::fd::AsRawFd;
        self.rings.values().map(AsRawFd::as_raw_fd)
    }

    /// Names and descriptors of all hash maps, with their capacity: those that can fill up.
    pub(crate) fn hash_maps(&self) -> impl std::iter::Iterator<Item = (&str, u32)> + '_ {
        /// `BPF_MAP_TYPE_HASH`
        const HASH: u32 = 1;
        self.maps
            .iter()
            .filter(|(_, handle)| handle.info.kind == HASH)
            .map(|(name, handle)| (name.as_str(), handle.info.max_entries))
    }

    /// Bytes the kernel has set aside for this object's maps, as it tells in `/proc/self/fdinfo`.
    pub(crate) fn map_bytes(&self) -> u64 {
        use std::os::fd::AsRawFd;
        let fds = self.maps.values().map(|handle| handle.fd().as_raw_fd()).chain(self.ring_fds());
        let fds = fds.chain(self.follower.iter().flat_map(Follower::map_fds));
        fds.filter_map(memlock).sum()
    }

    /// What the kernel counts about each loaded program.
    pub(crate) fn run_stats(&self) -> Vec<(&str, sys::RunStats)> {
        let ours = self.ebpf.programs().filter(|(name, _)| self.loaded.contains(name));
        let stats = |(name, program): (_, &aya::programs::Program)| {
            Some((name, sys::run_stats(program.fd().ok()?.as_fd()).ok()?))
        };
        let of_copies = self.follower.iter().flat_map(Follower::run_stats);
        ours.filter_map(stats).chain(of_copies.map(|(name, stats)| -> (&str, _) { (name, stats) })).collect()
    }

    /// What to report about followed interfaces, if anything has changed since the last time.
    pub(crate) fn news(&mut self) -> Option<News> {
        self.follower.as_mut().and_then(Follower::news)
    }

    fn handle(&self, map: &str) -> Result<&Handle, KernelError> {
        self.maps.get(map).ok_or_else(|| failed(format!("map {map}"), io::ErrorKind::NotFound.into()))
    }
}

/// The kernel's own figure for a map's memory.
fn memlock(fd: RawFd) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

/// The kinds of maps collectors can speak to. The others stay with the object.
fn is_ours(map: &Map) -> bool {
    matches!(
        map,
        Map::RingBuf(_)
            | Map::Array(_)
            | Map::HashMap(_)
            | Map::LruHashMap(_)
            | Map::PerCpuArray(_)
            | Map::PerCpuHashMap(_)
            | Map::PerCpuLruHashMap(_)
            | Map::LpmTrie(_)
            | Map::StackTraceMap(_)
            | Map::Queue(_)
    )
}

fn data_of(map: Map) -> Option<MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::LpmTrie(data)
        | Map::StackTraceMap(data)
        | Map::Queue(data) => Some(data),
        _ => None,
    }
}

fn failed(what: String, cause: io::Error) -> KernelError {
    KernelError { what, cause }
}

/// Number of CPUs the kernel makes room for in per-CPU values.
pub(crate) fn possible_cpus() -> usize {
    static CPUS: OnceLock<usize> = OnceLock::new();
    *CPUS.get_or_init(|| aya::util::nr_cpus().unwrap_or(1))
}

impl Kernel for Object {
    fn lookup(&self, map: &str, key: &[u8], value: &mut [u8]) -> Result<bool, KernelError> {
        let handle = self.handle(map)?;
        sized(handle, map, key, value.len())?;
        sys::lookup(handle.fd(), key, value).map_err(|cause| failed(format!("reading map {map}"), cause))
    }

    fn update(&self, map: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError> {
        let handle = self.handle(map)?;
        sized(handle, map, key, value.len())?;
        sys::update(handle.fd(), key, value).map_err(|cause| failed(format!("writing map {map}"), cause))
    }

    fn delete(&self, map: &str, key: &[u8]) -> Result<bool, KernelError> {
        let handle = self.handle(map)?;
        sized(handle, map, key, handle.info.value_size as usize)?;
        sys::delete(handle.fd(), key).map_err(|cause| failed(format!("deleting from map {map}"), cause))
    }

    fn for_each(
        &self,
        map: &str,
        remove: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), KernelError> {
        let handle = self.handle(map)?;
        walk(handle, remove, visit).map_err(|cause| failed(format!("reading map {map}"), cause))
    }

    fn per_cpu_sum(&self, map: &str, index: u32) -> Result<u64, KernelError> {
        let handle = self.handle(map)?;
        // Each CPU's value takes a multiple of eight bytes, which a u64 is.
        let mut values = vec![0u8; possible_cpus() * 8];
        sys::lookup(handle.fd(), &index.to_ne_bytes(), &mut values)
            .map_err(|cause| failed(format!("reading map {map}"), cause))?;
        let values = values.chunks_exact(8).filter_map(|value| value.try_into().ok());
        Ok(values.map(u64::from_ne_bytes).fold(0, u64::wrapping_add))
    }

    fn per_cpu(&self, map: &str, index: u32, out: &mut Vec<u8>) -> Result<(), KernelError> {
        let handle = self.handle(map)?;
        let begin = out.len();
        out.resize(begin + handle.all_cpus(), 0);
        sys::lookup(handle.fd(), &index.to_ne_bytes(), &mut out[begin..])
            .map(drop)
            .map_err(|cause| failed(format!("reading map {map}"), cause))
    }

    fn clear_per_cpu(&self, map: &str, index: u32) -> Result<(), KernelError> {
        let handle = self.handle(map)?;
        sys::update(handle.fd(), &index.to_ne_bytes(), &vec![0; handle.all_cpus()])
            .map_err(|cause| failed(format!("clearing map {map}"), cause))
    }

    fn run_iterator(&self, program: &str, out: &mut Vec<u8>) -> Result<(), KernelError> {
        let failed = |cause| failed(format!("running iterator {program}"), cause);
        let iterator = self.iterators.get(program).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        // Reading starts with tiny probes into a small buffer, each of them a call.
        out.reserve(READ_AHEAD);
        let read = |out: &mut Vec<u8>| -> io::Result<()> {
            let mut file = sys::iterator_file(iterator.link.as_fd())?;
            // The kernel answers EAGAIN when it has passed a million objects without a word: there is more to come.
            loop {
                match file.read_to_end(out) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result.map(drop),
                }
            }
        };
        if iterator.per_namespace {
            let closed = netns::in_each(|| read(out)).map_err(failed)?;
            if closed > 0 {
                tracing::warn!(
                    namespaces = closed,
                    "cannot enter all network namespaces (needs CAP_SYS_ADMIN): connections there that no process \
                     holds are not seen"
                );
            }
            Ok(())
        } else {
            read(out).map_err(failed)
        }
    }

    fn interfaces(&mut self, map: &str, visit: &mut dyn FnMut(&Interface, &[u8])) -> Result<(), KernelError> {
        let Some(follower) = &mut self.follower else { return Ok(()) };
        follower
            .visit(map, possible_cpus(), visit)
            .map_err(|cause| failed(format!("reading map {map} of the interfaces"), cause))
    }

    fn drain(&mut self, ring: &str, visit: &mut dyn FnMut(&[u8])) -> Result<(), KernelError> {
        let buffer = self
            .rings
            .get_mut(ring)
            .ok_or_else(|| failed(format!("ring {ring}"), io::ErrorKind::NotFound.into()))?;
        while let Some(record) = buffer.next() {
            visit(&record);
        }
        Ok(())
    }

    fn has_program(&self, program: &str) -> bool {
        self.loaded.contains(&program)
    }

    fn monotonic(&self) -> Duration {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a valid pointer; CLOCK_MONOTONIC always exists.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }
}

/// A wrong size would make the kernel read or write beyond the slice.
fn sized(handle: &Handle, map: &str, key: &[u8], value: usize) -> Result<(), KernelError> {
    if key.len() == handle.info.key_size as usize && value == handle.info.value_size as usize {
        return Ok(());
    }
    Err(failed(
        format!(
            "map {map} has keys of {} and values of {} bytes, not {} and {value}",
            handle.info.key_size,
            handle.info.value_size,
            key.len()
        ),
        io::ErrorKind::InvalidInput.into(),
    ))
}

fn walk(handle: &Handle, remove: bool, visit: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()> {
    let (key_size, value_size) = (handle.info.key_size as usize, handle.info.value_size as usize);
    let mut count = BATCH.min(handle.info.max_entries.max(1));
    let (mut from, mut to): (Option<sys::Cursor>, sys::Cursor) = (None, [0; 64]);
    loop {
        let (mut keys, mut values) =
            (vec![0; key_size * count as usize], vec![0; value_size * count as usize]);
        let fetched = sys::batch(handle.fd(), remove, from.as_ref(), &mut to, &mut keys, &mut values, count);
        let (got, more) = match fetched {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && count < handle.info.max_entries => {
                count = (count * 4).min(handle.info.max_entries);
                continue;
            }
            other => other?,
        };
        for (key, value) in
            keys.chunks_exact(key_size).zip(values.chunks_exact(value_size)).take(got as usize)
        {
            visit(key, value);
        }
        if !more {
            return Ok(());
        }
        from = Some(to);
    }
}
