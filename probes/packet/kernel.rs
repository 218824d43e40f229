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
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return XDP_PASS };
    let packet = Packet::of(ctx.ctx);
    match shared::quick(&packet) {
        // A packet that lies whole in the first buffer.
        Some(place) => add(counters, place, packet.length),
        None => closer::<true>(ctx.ctx, counters),
    }
    XDP_PASS
}

/// For the others: a frame is one buffer.
#[xdp]
pub fn count_linear(ctx: XdpContext) -> u32 {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return XDP_PASS };
    let packet = Packet::of(ctx.ctx);
    match shared::quick(&packet) {
        Some(place) => add(counters, place, packet.length),
        None => closer::<false>(ctx.ctx, counters),
    }
    XDP_PASS
}

/// Frames that are not what nearly all are. A function of its own, so that those save no registers for it.
#[inline(never)]
fn closer<const FRAGS: bool>(ctx: *mut xdp_md, counters: *mut Counters) {
    let first = Packet::of(ctx).length;
    let mut length = first;
    let mut verdict = look(ctx, first);
    // What is whole and known to be IP lies in the first buffer. For the rest, ask how much more there is.
    if FRAGS && (verdict >> FIRST_MARK != 0 || verdict == OTHER) {
        // SAFETY: the program's own context.
        length = unsafe { bpf_xdp_get_buff_len(ctx) };
        if length != first {
            verdict = look(ctx, length);
        }
    }
    add(counters, shared::place(verdict & (CLASS_SLOTS as u32 - 1)), length);
    for mark in 0..MARKS {
        if verdict >> FIRST_MARK & (1 << mark) != 0 {
            // SAFETY: as in `add`.
            unsafe { *(&raw mut (*counters).marks).cast::<u64>().add(mark) += 1 };
        }
    }
}

/// The verdict on a frame of this length.
#[inline(never)]
fn look(ctx: *mut xdp_md, length: u64) -> u32 {
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

/// One frame more at a place, which must be within the array.
#[inline(always)]
fn add(counters: *mut Counters, place: usize, length: u64) {
    // SAFETY: this CPU's own value, which nobody else writes; the verifier checks the place.
    unsafe {
        let count = (&raw mut (*counters).classes).cast::<u8>().add(place).cast::<shared::Count>();
        (*count).frames += 1;
        (*count).bytes += length;
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
    fn quad(view: usize, at: usize) -> u32 {
        // Volatile, because to load it once more is cheaper than to keep it.
        // SAFETY: as above; such places are even, too.
        unsafe { ((view + at) as *const u32).read_volatile() }
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
