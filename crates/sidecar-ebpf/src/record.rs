// SPDX-License-Identifier: MIT OR GPL-2.0
//! Records to user space. The reader is woken only when a ring is half full: until then the agent's next tick fetches
//! everything, so a quiet probe costs no wake-ups and a busy one loses nothing.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    maps::RingBuf,
};

/// The flags to submit with, for a ring of `size` bytes.
#[inline(always)]
pub fn wakeup(ring: &RingBuf, size: u32) -> u64 {
    if ring.query(u64::from(BPF_RB_AVAIL_DATA)) > u64::from(size / 2) {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// The same, but how full the ring is is only asked for one record in eight, those whose time in nanoseconds, `now`, says
/// so: there is half a ring of room for the others.
#[inline(always)]
pub fn seldom_wakeup(ring: &RingBuf, size: u32, now: u64) -> u64 {
    const ONE_IN_EIGHT: u64 = 7 << 4;
    if now & ONE_IN_EIGHT == 0 { wakeup(ring, size) } else { u64::from(BPF_RB_NO_WAKEUP) }
}
