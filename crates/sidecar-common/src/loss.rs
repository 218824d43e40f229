//! The loss ledger's kernel half: one per-CPU array per object, one slot per way a fact can be lost.

/// Slots of the `LOSS` map. A slot only ever grows.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// A record did not fit into the ring buffer and was kept in the spill map instead: late, not lost.
    Spilled = 0,
    /// A record fitted neither into the ring buffer nor into the spill map.
    Record = 1,
    /// A map had no room for a new entry.
    MapFull = 2,
    /// A fact about something the probe had not been tracking.
    Untracked = 3,
}

/// Number of slots in the `LOSS` map.
pub const LOSS_SLOTS: u32 = 8;

impl Loss {
    /// Every reason with the name it has in metrics.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Spilled, "spilled"),
        (Self::Record, "record"),
        (Self::MapFull, "map_full"),
        (Self::Untracked, "untracked"),
    ];
}
