//! The bpf(2) commands for a program that is loaded once for each interface: maps, program, link, and who else is there.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use aya_obj::generated::bpf_insn;

use super::{LINK_CREATE, bpf, object_info, owned};

const MAP_CREATE: i32 = 0;
const PROG_LOAD: i32 = 5;
const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_TYPE_XDP: u32 = 6;
/// `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;
/// `BPF_F_XDP_HAS_FRAGS`
const HAS_FRAGS: u32 = 1 << 5;
/// `XDP_FLAGS_SKB_MODE`
const GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`
const NATIVE: u32 = 1 << 2;
/// Kernel: `BPF_OBJ_NAME_LEN`, with its terminating zero.
const NAME: usize = 16;
/// Room for the verifier's complaint.
const LOG: usize = 64 * 1024;

/// What a map is made of.
pub(in super::super) struct MapShape {
    pub(in super::super) kind: u32,
    pub(in super::super) key_size: u32,
    pub(in super::super) value_size: u32,
    pub(in super::super) max_entries: u32,
    pub(in super::super) flags: u32,
}

/// Makes a map.
pub(in super::super) fn create_map(shape: &MapShape) -> io::Result<OwnedFd> {
    // The first five members.
    let mut attr = [shape.kind, shape.key_size, shape.value_size, shape.max_entries, shape.flags, 0];
    bpf(MAP_CREATE, &mut attr).map(owned)
}

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as `expected_attach_type`.
#[repr(C)]
struct Load {
    kind: u32,
    instructions_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME],
    interface: u32,
    attach_type: u32,
}

/// Loads an XDP program. The error holds the verifier's last line if it had something to say.
pub(in super::super) fn load(
    name: &str,
    instructions: &[bpf_insn],
    license: &CStr,
    frags: bool,
) -> io::Result<OwnedFd> {
    let mut attr = Load {
        kind: PROG_TYPE_XDP,
        instructions_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: if frags { HAS_FRAGS } else { 0 },
        name: [0; NAME],
        interface: 0,
        attach_type: ATTACH_XDP,
    };
    for (to, from) in attr.name[..NAME - 1].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let refused = match bpf(PROG_LOAD, &mut attr) {
        Ok(fd) => return Ok(owned(fd)),
        Err(error) => error,
    };
    let mut log = vec![0u8; LOG];
    (attr.log_level, attr.log_size, attr.log) = (1, LOG as u32, log.as_mut_ptr() as u64);
    if let Ok(fd) = bpf(PROG_LOAD, &mut attr) {
        return Ok(owned(fd));
    }
    let said = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
    match super::super::explain::last_words(&said) {
        Some(words) => Err(io::Error::new(refused.kind(), format!("the verifier refuses it: {words}"))),
        None => Err(refused),
    }
}

/// Attaches an XDP program to an interface of our network namespace, for as long as the link is open.
pub(in super::super) fn link(program: BorrowedFd<'_>, interface: u32, generic: bool) -> io::Result<OwnedFd> {
    // `struct { prog_fd; target_ifindex; attach_type; flags; }`
    let flags = if generic { GENERIC } else { NATIVE };
    let mut attr = [program.as_raw_fd() as u32, interface, ATTACH_XDP, flags];
    bpf(LINK_CREATE, &mut attr).map(owned)
}

/// The interface an XDP link is attached to; 0 if that is gone.
pub(in super::super) fn linked_interface(link: BorrowedFd<'_>) -> io::Result<u32> {
    // `struct bpf_link_info`: type, id, prog_id, padding, then the kind's own members.
    Ok(object_info(link, [0u32; 6])?[4])
}

/// The name of any loaded program; needs `CAP_SYS_ADMIN`.
pub(in super::super) fn program_name(id: u32) -> io::Result<String> {
    let program = owned(bpf(PROG_GET_FD_BY_ID, &mut [id, 0, 0])?);
    let info = object_info(std::os::fd::AsFd::as_fd(&program), [0u64; 10])?;
    // `struct bpf_prog_info` has the name behind eight words of other things.
    let name = [info[8].to_ne_bytes(), info[9].to_ne_bytes()].concat();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}
