//! One streamed fact, for those who subscribe. Metrics never depend on events.
//!
//! A probe declares its event types as data ([`EventSpec`]); JSON, its schema, the table of `sidecar trace` and the
//! documentation come from that declaration.

use std::time::{Duration, SystemTime};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// Text, redacted and bounded by the probe.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number.
    Number,
    /// A length of time; its name ends with `_seconds`.
    Seconds,
    /// True or false.
    Bool,
    /// Texts in order, such as arguments.
    List,
}

/// One field of an event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventField {
    /// Name in JSON. `pid`, `comm` and `cgroup` are what subscribers filter by.
    pub name: &'static str,
    /// What it holds.
    pub kind: FieldKind,
    /// Whether it may be unknown, `null` in JSON.
    pub optional: bool,
    /// Characters it takes in a table; 0 leaves it out. The last column takes what is left of the line.
    pub width: u8,
    /// One sentence without a full stop at its end, with the unit if there is one.
    pub help: &'static str,
}

/// An event type.
#[derive(Debug, PartialEq, Eq)]
pub struct EventSpec {
    /// Its name: the probe's, or `<probe>_<what>` where a probe has several.
    pub kind: &'static str,
    /// When it happens, one sentence without a full stop at its end.
    pub summary: &'static str,
    /// Its fields, in the order of JSON and table.
    pub fields: &'static [EventField],
}

impl EventSpec {
    /// The place of the field called `name`.
    pub fn field(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}

/// A value in an event.
#[derive(Debug, Clone, PartialEq)]
pub enum EventValue {
    /// Not known; only for optional fields.
    Unknown,
    /// For [`FieldKind::Text`].
    Text(String),
    /// For [`FieldKind::Choice`], and for texts that are in the code.
    Word(&'static str),
    /// For [`FieldKind::Number`].
    Number(i64),
    /// For [`FieldKind::Seconds`].
    Seconds(Duration),
    /// For [`FieldKind::Bool`].
    Bool(bool),
    /// For [`FieldKind::List`].
    List(Vec<String>),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its type.
    pub spec: &'static EventSpec,
    /// `CLOCK_MONOTONIC` when it happened.
    pub monotonic: Duration,
    /// The wall clock when it happened.
    pub wall: SystemTime,
    /// A value for each field of the type.
    pub values: Vec<EventValue>,
}

impl Event {
    /// The value of the field called `name`.
    pub fn value(&self, name: &str) -> Option<&EventValue> {
        self.values.get(self.spec.field(name)?)
    }
}

/// Who takes events from a collector.
pub trait Listener {
    /// Takes one.
    fn event(&mut self, event: Event);
    /// Hears that the collector itself had to let go of some. What the kernel side could not hand over is counted there.
    fn lost(&mut self, spec: &'static EventSpec, count: u64);
}

/// Where a collector puts its events; knows how monotonic time translates to the wall clock at this moment.
pub struct Events<'a> {
    /// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`.
    offset: Duration,
    listener: &'a mut dyn Listener,
}

impl<'a> Events<'a> {
    /// For this listener. `offset` is `CLOCK_REALTIME` less `CLOCK_MONOTONIC`, read just now.
    pub fn new(offset: Duration, listener: &'a mut dyn Listener) -> Self {
        Self { offset, listener }
    }

    /// Hands over what happened at `nanos` of the monotonic clock, a value for each field of the type.
    pub fn push(&mut self, spec: &'static EventSpec, nanos: u64, values: Vec<EventValue>) {
        debug_assert_eq!(values.len(), spec.fields.len(), "{}", spec.kind);
        let monotonic = Duration::from_nanos(nanos);
        let wall = SystemTime::UNIX_EPOCH + self.offset + monotonic;
        self.listener.event(Event { spec, monotonic, wall, values });
    }

    /// Says that events were let go of.
    pub fn lost(&mut self, spec: &'static EventSpec, count: u64) {
        if count > 0 {
            self.listener.lost(spec, count);
        }
    }
}
