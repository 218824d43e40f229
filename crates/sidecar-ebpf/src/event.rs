// SPDX-License-Identifier: MIT OR GPL-2.0
//! Events to whoever listens. While nobody does, [`wanted`] is all that runs: one look into an array of one word.
//!
//! ```ignore
//! if event::wanted(OPENED) {
//!     tell_of_open(…); // #[inline(never)]: builds the record
//! }
//! ```

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_ringbuf_output},
    macros::map,
    maps::{Array, PerCpuArray, RingBuf, ring_buf::RingBufEntry},
};
use sidecar_common::event::{EventHeader, MAX_KINDS, RING_BYTES};

use crate::{mem::constant, per_cpu, record};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
#[map]
static EVENTS_ON: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_KINDS, 0);
/// Size of the ring, as the loader made it.
#[unsafe(no_mangle)]
static EVENTS_BYTES: u32 = RING_BYTES;

/// Whether somebody listens to the probe's event type number `kind`.
#[inline(always)]
pub fn wanted(kind: u32) -> bool {
    EVENTS_ON.get(0).is_some_and(|on| on & (1 << kind) != 0)
}

/// Room for a record in the ring. Without room the loss is counted.
#[inline(always)]
pub fn reserve<T: 'static>(kind: u32) -> Option<RingBufEntry<T>> {
    let entry = EVENTS.reserve::<T>(0);
    if entry.is_none() {
        lost(kind);
    }
    entry
}

/// The beginning of a record of something that happens now.
#[inline(always)]
pub fn header(kind: u32, extra: u32) -> EventHeader {
    // SAFETY: no arguments, always succeeds.
    EventHeader { time: unsafe { bpf_ktime_get_ns() }, kind, extra }
}

/// Hands over a filled record.
#[inline(always)]
pub fn submit<T: 'static>(entry: RingBufEntry<T>) {
    entry.submit(record::wakeup(&EVENTS, constant(&EVENTS_BYTES)));
}

/// Hands over the first `length` bytes of a record built elsewhere (in a map), for records of very different lengths.
///
/// # Safety
/// The memory is of the given length, and its verifier type allows reading that much.
#[inline(always)]
pub unsafe fn output(kind: u32, record: *const u8, length: u32) {
    let flags = record::wakeup(&EVENTS, constant(&EVENTS_BYTES));
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: a ring buffer map; the caller answers for the memory.
    let result = unsafe { bpf_ringbuf_output(ring, record.cast_mut().cast(), u64::from(length), flags) };
    if result != 0 {
        lost(kind);
    }
}

/// Counts an event that could not be handed over.
#[inline(always)]
pub fn lost(kind: u32) {
    per_cpu::add(&EVENTS_LOST, kind, 1);
}
