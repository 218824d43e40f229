// SPDX-License-Identifier: MIT OR GPL-2.0
//! What every kernel program shares: reading kernel memory at offsets found at start, the user's filter, who is running,
//! loss counters and ring-buffer records. Linked into each probe's object; what a probe does not use is not in it.
#![no_std]
#![feature(asm_experimental_arch)]

pub mod current;
pub mod event;
pub mod loss;
pub mod mem;
pub mod per_cpu;
pub mod record;
pub mod scope;

pub use aya_ebpf;
pub use sidecar_common;

/// Reads one offset of a table written by the loader.
#[macro_export]
macro_rules! field {
    ($table:ident . $name:ident) => {
        $crate::mem::constant(&$table.$name)
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
