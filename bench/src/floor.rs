//! The cheapest program a hook can have: it returns at once. What it adds is the price of the hook itself, below which
//! nothing that uses this hook can go.

use std::{ffi::CString, io, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, bail};
use sidecar_btf::{Btf, Kind};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_RAW_TP: u32 = 23;
const BPF_TRACE_FENTRY: u32 = 24;
/// `r0 = 0; exit`
const RETURN_ZERO: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// `XDP_FLAGS_DRV_MODE`
const NATIVE: u32 = 1 << 2;
/// `r0 = XDP_PASS; exit`
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
/// `enum bpf_attach_type` has no name for "none"; zero is what programs without one pass.
const NO_ATTACH_TYPE: u32 = 0;

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as `attach_btf_id`.
#[repr(C)]
#[derive(Default)]
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
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
    btf_fd: u32,
    function_info_size: u32,
    function_info: u64,
    function_info_count: u32,
    line_info_size: u32,
    line_info: u64,
    line_info_count: u32,
    attach_btf_id: u32,
}

/// `union bpf_attr` for `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
struct Open {
    name: u64,
    program: u32,
    reserved: u32,
}

/// Attaches an empty program and stays until killed.
pub(crate) fn hold(kind: &str, hook: &str) -> Result<()> {
    let _link =
        attach(kind, hook).with_context(|| format!("cannot attach an empty program to {kind} {hook}"))?;
    println!("@@attached {kind} {hook}");
    loop {
        sleep(Duration::from_hours(1));
    }
}

/// In the driver of an interface.
fn attach_xdp(interface: &str) -> Result<i32> {
    let load = Load {
        kind: BPF_PROG_TYPE_XDP,
        instructions_count: PASS.len() as u32,
        instructions: PASS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach_type: BPF_XDP,
        ..Load::default()
    };
    let program = bpf(BPF_PROG_LOAD, &load)?;
    let name = CString::new(interface)?;
    // SAFETY: a valid name.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    bpf(BPF_LINK_CREATE, &[program as u32, index, BPF_XDP, NATIVE])
}

fn attach(kind: &str, hook: &str) -> Result<i32> {
    if kind == "xdp" {
        return attach_xdp(hook);
    }
    let type_id = |kind, name: &str| {
        Btf::from_kernel()?.type_id(kind, name).with_context(|| format!("the kernel's BTF has no {name}"))
    };
    let (kind, attach_type, id) = match kind {
        "tp_btf" => {
            (BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP, type_id(Kind::Typedef, &format!("btf_trace_{hook}"))?)
        }
        "fentry" => (BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, type_id(Kind::Func, hook)?),
        "raw_tp" => (BPF_PROG_TYPE_RAW_TRACEPOINT, NO_ATTACH_TYPE, 0),
        _ => bail!("there is no kind of hook called `{kind}`"),
    };
    let load = Load {
        kind,
        instructions_count: RETURN_ZERO.len() as u32,
        instructions: RETURN_ZERO.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach_type,
        attach_btf_id: id,
        ..Load::default()
    };
    let program = bpf(BPF_PROG_LOAD, &load)?;
    let name = CString::new(hook)?;
    // Tracing programs know where they belong.
    let name = if attach_type == NO_ATTACH_TYPE { name.as_ptr() as u64 } else { 0 };
    bpf(BPF_RAW_TRACEPOINT_OPEN, &Open { name, program: program as u32, reserved: 0 })
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<i32> {
    // SAFETY: the attributes are of the command's layout and what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(result as i32)
}
