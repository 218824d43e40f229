//! One streamed fact, for those who subscribe. Metrics never depend on events.

use std::time::{Duration, SystemTime};

/// A value in an event.
#[derive(Debug, Clone, PartialEq)]
pub enum EventValue {
    /// Text, already redacted and bounded.
    Text(String),
    /// A whole number.
    Number(i64),
    /// A length of time.
    Duration(Duration),
    /// A list of texts, such as arguments.
    List(Vec<String>),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event type: a probe's name, or `<probe>_<what>` where a probe has several.
    pub kind: &'static str,
    /// `CLOCK_MONOTONIC` when it happened.
    pub monotonic: Duration,
    /// The wall clock when it happened.
    pub wall: SystemTime,
    /// Its fields, in the order of the published schema.
    pub fields: Vec<(&'static str, EventValue)>,
}
