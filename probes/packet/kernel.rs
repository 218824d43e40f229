// SPDX-License-Identifier: MIT OR GPL-2.0
//! Counts each received frame and lets it pass. There is a copy of this object for each interface, so that no frame has
//! to look up where it came from.
#![no_std]
#![no_main]

mod shared;

use aya_ebpf::{
    bindings::{xdp_action::XDP_PASS, xdp_md},
    helpers::generated::bpf_xdp_get_buff_len,
    macros::{map, xdp},
    maps::PerCpuArray,
    programs::XdpContext,
};
use shared::{CLASS_SLOTS, Counters, FIRST_MARK, Frame, MARKS, OTHER};
use sidecar_ebpf as _;

/// One interface's counters.
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// For kernels and drivers that may hand over a frame in several buffers (5.18).
#[xdp(frags)]
pub fn count_frags(ctx: XdpContext) -> u32 {
    let ctx = ctx.ctx;
    let first = Packet::of(ctx);
    let mut verdict = shared::verdict(&first);
    let mut length = first.length;
    // What is whole and known to be IP lies in the first buffer. For the rest, ask how much more there is.
    if verdict >> FIRST_MARK != 0 || verdict == OTHER {
        // SAFETY: the program's own context.
        length = unsafe { bpf_xdp_get_buff_len(ctx) };
        if length != first.length {
            verdict = again(ctx, length);
        }
    }
    count(verdict, length);
    XDP_PASS
}

/// For the others: a frame is one buffer.
#[xdp]
pub fn count_linear(ctx: XdpContext) -> u32 {
    let packet = Packet::of(ctx.ctx);
    count(shared::verdict(&packet), packet.length);
    XDP_PASS
}

/// The verdict on a frame that goes on beyond its first buffer.
#[inline(never)]
fn again(ctx: *mut xdp_md, length: u64) -> u32 {
    shared::verdict(&Packet { length, ..Packet::of(ctx) })
}

#[inline(never)]
fn tagged(ctx: *mut xdp_md, length: u64, kind: u32) -> u32 {
    shared::tagged(&Packet { length, ..Packet::of(ctx) }, kind as u16)
}

#[inline(never)]
fn extended(ctx: *mut xdp_md, length: u64, next: u32, at: u64, end: u64) -> u32 {
    // Told again what it is: at most the tags and headers before the extensions.
    shared::extended(&Packet { length, ..Packet::of(ctx) }, next as u8, at & 0xff, end)
}

#[inline(always)]
fn count(verdict: u32, length: u64) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value, which nobody else writes; the mask keeps the index within the array.
    unsafe {
        let class =
            (&raw mut (*counters).classes).cast::<shared::Count>().add(verdict as usize & (CLASS_SLOTS - 1));
        (*class).frames += 1;
        (*class).bytes += length;
        let marks = verdict >> FIRST_MARK;
        if marks != 0 {
            for mark in 0..MARKS {
                if marks & (1 << mark) != 0 {
                    *(&raw mut (*counters).marks).cast::<u64>().add(mark) += 1;
                }
            }
        }
    }
}

/// A frame as the driver hands it over.
struct Packet {
    ctx: *mut xdp_md,
    data: usize,
    end: usize,
    length: u64,
}

impl Packet {
    #[inline(always)]
    fn of(ctx: *mut xdp_md) -> Self {
        // Volatile, lest the compiler hand them to functions as the 32-bit numbers they are declared to be: the verifier
        // knows them as pointers.
        // SAFETY: the program's own context, whose members are always readable.
        let (data, end) = unsafe {
            (
                (&raw const (*ctx).data).read_volatile() as usize,
                (&raw const (*ctx).data_end).read_volatile() as usize,
            )
        };
        Self { ctx, data, end, length: (end - data) as u64 }
    }
}

impl Frame for Packet {
    type View = usize;

    #[inline(always)]
    fn length(&self) -> u64 {
        self.length
    }

    #[inline(always)]
    fn view(&self, at: u64, len: u64) -> Option<usize> {
        let from = self.data + at as usize;
        if from + len as usize > self.end { None } else { Some(from) }
    }

    #[inline(always)]
    fn byte(view: usize, at: usize) -> u8 {
        // SAFETY: within what `view` found to be there, as the verifier checks.
        unsafe { *((view + at) as *const u8) }
    }

    #[inline(always)]
    fn word(view: usize, at: usize) -> u16 {
        // SAFETY: as above. Headers are made so that their numbers lie at even places, and drivers put frames there.
        u16::from_be(unsafe { *((view + at) as *const u16) })
    }

    #[inline(always)]
    fn tagged(&self, kind: u16) -> u32 {
        tagged(self.ctx, self.length, u32::from(kind))
    }

    #[inline(always)]
    fn extended(&self, next: u8, at: u64, end: u64) -> u32 {
        extended(self.ctx, self.length, u32::from(next), at, end)
    }
}
