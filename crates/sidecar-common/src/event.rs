//! What both sides know of events: the maps they go through and how each record begins. The maps are made by the kernel
//! library's `event` module; user space switches them on and reads them for every probe alike.

/// Ring buffer with the records.
pub const RING: &str = "EVENTS";
/// Array of one `u32`: bit `n` is set while somebody listens to the `n`-th event type of the probe.
pub const SWITCH: &str = "EVENTS_ON";
/// Per-CPU array of `u64`: events of the `n`-th type for which the ring had no room.
pub const LOST: &str = "EVENTS_LOST";
/// Most event types of a probe.
pub const MAX_KINDS: u32 = 8;
/// Size of the ring unless the agent makes it larger.
pub const RING_BYTES: u32 = 64 * 1024;

/// How each record begins.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHeader {
    /// When it happened, monotonic nanoseconds.
    pub time: u64,
    /// Which of the probe's event types it is.
    pub kind: u32,
    /// Keeps the layout free of padding; free for the probe's use.
    pub extra: u32,
}
