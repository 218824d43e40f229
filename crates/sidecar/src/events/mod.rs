//! Events on their way from the probes to whoever listens: `trace`'s own process, and streams of the running agent.
//!
//! ```text
//! kernel.rs → ring → collector → Event → Hub → a bounded queue for each subscriber → HTTP
//!                                      ↘ trace → table or JSON lines
//! ```

mod filter;
mod hub;
mod json;
mod pages;
mod queue;
mod source;
#[cfg(test)]
mod test;
pub(crate) mod text;

use sidecar_core::{Event, EventField, EventSpec, FieldKind};

pub(crate) use self::{
    filter::Filter,
    hub::{Hub, METRICS},
    json::line,
    pages::{index_page, schemas},
    queue::Subscription,
    source::Source,
};

const fn field(name: &'static str, kind: FieldKind, width: u8, help: &'static str) -> EventField {
    EventField { name, kind, optional: false, width, help }
}

/// What a subscriber gets in place of events that did not come through.
pub(crate) static LOST: EventSpec = EventSpec {
    kind: "lost",
    summary: "Events were lost here; how many of them a filter would have left out is not known",
    fields: &[
        field("lost", FieldKind::Text, 16, "Type of the lost events"),
        field("count", FieldKind::Number, 10, "How many"),
        field(
            "reason",
            FieldKind::Choice(&[RING_FULL, SLOW_READER]),
            0,
            "ring_full: they came faster than they could be read from the kernel; slow_reader: this reader did not keep up",
        ),
    ],
};

/// The event that says that so many of a type were lost because the kernel side had no room.
pub(crate) fn lost(kind: &'static str, count: u64) -> Event {
    queue::lost(kind, RING_FULL, count)
}

/// Why events are lost: the kernel side had no room.
const RING_FULL: &str = "ring_full";
/// Why events are lost: a subscriber's queue had no room.
const SLOW_READER: &str = "slow_reader";
