// SPDX-License-Identifier: MIT OR GPL-2.0
//! Two ways to read kernel memory, so that one body of code serves typed and untyped hooks: a plain load where the
//! verifier knows the pointer's type (one instruction), a checked copy where it does not (about seventy).

use aya_ebpf::{
    cty::c_void,
    helpers::generated::{
        bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_skc_to_tcp_sock,
    },
};

/// The value the loader wrote over a placeholder. Volatile, because the compiler only knows the placeholder; the map
/// behind it is frozen, so to the verifier it is a constant.
#[inline(always)]
pub fn constant(placeholder: &u32) -> u32 {
    // SAFETY: a valid reference.
    unsafe { core::ptr::read_volatile(placeholder) }
}

/// The low bits of a number. Not left out where the compiler knows that it changes nothing: the verifier may not.
#[inline(always)]
pub fn masked<const MASK: i32>(mut value: u64) -> u64 {
    // SAFETY: one instruction on a register.
    unsafe { core::arch::asm!("{0} &= {1}", inout(reg) value, const MASK, options(pure, nomem, nostack)) };
    value
}

/// A way to read kernel memory.
pub trait Mem {
    /// Reads a `T` at `base + offset`; zero if the memory is not there.
    ///
    /// # Safety
    /// `offset` comes from the running kernel's BTF for the type `base` points to, and `T` is as wide as the member.
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T;

    /// `struct task_struct *` of the running task. Where it can be followed with plain loads: since 5.11.
    fn current() -> *const u8;

    /// The `tcp_sock` of a TCP socket, null if the kernel says it is not one.
    fn tcp_sock(sk: *const u8) -> *const u8;

    /// The address as a number to calculate with.
    fn address(pointer: *const u8) -> u64;
}

/// What [`Typed::address`] measures distances from: its own address, once anybody has asked for one.
static mut ANCHOR: u64 = 0;

/// For pointers the verifier knows the type of (`tp_btf`, `fentry`, helper results).
pub struct Typed;

impl Mem for Typed {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: the verifier checks the member's offset and width, and the kernel handles a fault like a probe read.
        unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
    }

    #[inline(always)]
    fn current() -> *const u8 {
        // SAFETY: no arguments, always succeeds.
        unsafe { bpf_get_current_task_btf().cast_const().cast() }
    }

    #[inline(always)]
    fn tcp_sock(sk: *const u8) -> *const u8 {
        // SAFETY: a helper that accepts any `struct sock *` and returns null or a typed pointer.
        unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast::<c_void>()).cast_const().cast() }
    }

    /// The verifier lets nobody calculate with a typed pointer, but allows the distance of two pointers, and a pointer
    /// that has been in a map's memory is a number. Whoever writes the anchor writes the same.
    #[inline(always)]
    fn address(pointer: *const u8) -> u64 {
        let anchor = &raw mut ANCHOR;
        let (own, mut distance) = (anchor as u64, pointer as u64);
        // SAFETY: the anchor is a live map value; the subtraction is spelled out because the compiler would change its
        // order with the addition's, which the verifier refuses.
        unsafe {
            anchor.write_volatile(own);
            core::arch::asm!("{0} -= {1}", inout(reg) distance, in(reg) own, options(pure, nomem, nostack));
            distance.wrapping_add(anchor.read_volatile())
        }
    }
}

/// For addresses that are only numbers to the verifier (raw tracepoints, map keys, pointers found in structs).
pub struct Checked;

impl Mem for Checked {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        let mut value = T::default();
        // Its answer is not looked at: on failure it clears the value, and a branch here would double the states the
        // verifier has to follow with every read.
        // SAFETY: the helper checks the address itself and writes as many bytes as `T` has.
        unsafe {
            bpf_probe_read_kernel(
                (&raw mut value).cast(),
                size_of::<T>() as u32,
                base.wrapping_add(offset as usize).cast(),
            );
        }
        value
    }

    #[inline(always)]
    fn current() -> *const u8 {
        // SAFETY: no arguments, always succeeds.
        unsafe { bpf_get_current_task() as *const u8 }
    }

    #[inline(always)]
    fn tcp_sock(sk: *const u8) -> *const u8 {
        // `struct tcp_sock` begins with its `struct sock`.
        sk
    }

    #[inline(always)]
    fn address(pointer: *const u8) -> u64 {
        pointer as u64
    }
}
