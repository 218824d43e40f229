// SPDX-License-Identifier: MIT OR GPL-2.0
//! What the kernel program and the collector say to each other.

/// Slot of `COUNTS` that holds the number of events.
pub const EVENTS: u32 = 0;
/// Slots of `COUNTS`.
pub const SLOTS: u32 = 1;
