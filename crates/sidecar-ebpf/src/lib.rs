// SPDX-License-Identifier: MIT OR GPL-2.0
//! What every kernel program shares: reading kernel memory at offsets found at start, the user's filter, who is running,
//! loss counters and ring-buffer records. Linked into each probe's object; what a probe does not use is not in it.
#![no_std]

pub mod current;
pub mod loss;
pub mod mem;
pub mod record;
pub mod scope;

pub use aya_ebpf;
pub use sidecar_common;

/// Reads one offset of a table written by the loader. Volatile, because the compiler only knows the placeholder; the
/// map behind it is frozen, so to the verifier it is a constant.
#[macro_export]
macro_rules! field {
    ($table:ident . $name:ident) => {
        // SAFETY: a static of plain u32s, read through a raw pointer so that its placeholder is not folded in.
        unsafe { ::core::ptr::read_volatile(&raw const $table.$name) }
    };
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never reached: an object with a reachable panic does not pass the verifier.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
