//! One interface's own copy of a probe's object: its maps and one program. aya loads an object once and reads the kernel's
//! type information for it, which takes tens of megabytes; an interface that appears later must cost next to nothing.

use std::{
    collections::HashSet,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use aya_obj::{EbpfSectionKind, Object as File, ProgramSection};
use sidecar_core::XdpMode;

use super::super::sys::{self, xdp};

/// A map of the copy.
pub(super) struct Map {
    pub(super) name: String,
    pub(super) fd: OwnedFd,
    pub(super) value_size: u32,
}

/// A program in the kernel with the maps it alone uses.
pub(super) struct Copy {
    pub(super) program: OwnedFd,
    pub(super) maps: Vec<Map>,
}

impl Copy {
    /// Loads `program` of the object file `bytes` with new maps.
    pub(super) fn load(bytes: &[u8], program: &str) -> Result<Self> {
        let mut file = File::parse(bytes)?;
        let text: HashSet<usize> = file.functions.keys().map(|(section, _)| *section).collect();
        let declared = std::mem::take(&mut file.maps);
        let mut maps = Vec::new();
        for (name, map) in &declared {
            // Global variables; a program that refers to any fails below.
            if matches!(
                map.section_kind(),
                EbpfSectionKind::Rodata | EbpfSectionKind::Data | EbpfSectionKind::Bss
            ) {
                continue;
            }
            let fd = xdp::create_map(&xdp::MapShape {
                kind: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: map.max_entries(),
                flags: map.map_flags(),
            })
            .with_context(|| format!("creating map {name}"))?;
            maps.push(Map { name: name.clone(), fd, value_size: map.value_size() });
        }
        let places = maps
            .iter()
            .filter_map(|map| Some((map.name.as_str(), map.fd.as_raw_fd(), declared.get(&map.name)?)));
        file.relocate_maps(places, &text)?;
        file.relocate_calls(&text)?;
        let found = file.programs.get(program).context("the object has no such program")?;
        let ProgramSection::Xdp { frags, .. } = found.section else { bail!("{program} is no XDP program") };
        let function = file.functions.get(&found.function_key()).context("the program has no code")?;
        let license = found.license.as_c_str();
        let program = xdp::load(program, &function.instructions, license, frags)?;
        Ok(Self { program, maps })
    }

    /// Attaches the program; it is detached when the link is closed, by whatever end of the agent.
    pub(super) fn attach(&self, interface: u32, mode: XdpMode) -> std::io::Result<OwnedFd> {
        xdp::link(self.program.as_fd(), interface, mode == XdpMode::Generic)
    }

    /// All CPUs' values of a map's only entry.
    pub(super) fn read(&self, map: &str, cpus: usize) -> std::io::Result<Vec<u8>> {
        let found = self.maps.iter().find(|own| own.name == map);
        let map = found.ok_or(std::io::ErrorKind::NotFound)?;
        let mut values = vec![0; map.value_size.next_multiple_of(8) as usize * cpus];
        sys::lookup(map.fd.as_fd(), &0u32.to_ne_bytes(), &mut values)?;
        Ok(values)
    }

    /// Kernel memory of its maps.
    pub(super) fn map_fds(&self) -> impl Iterator<Item = i32> + '_ {
        self.maps.iter().map(|map| map.fd.as_raw_fd())
    }
}
