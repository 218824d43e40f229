//! The last events, bounded; held back while the user looks at them.

use std::collections::VecDeque;

use sidecar_core::{Event, EventField, EventSpec, EventValue, FieldKind, Listener};

use super::processes::Who;
use crate::events::{self, text};

/// Events kept.
const MOST: usize = 1000;

/// What has happened lately.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The newest last.
    shown: VecDeque<Event>,
    /// Those that came while the user had the view paused.
    waiting: VecDeque<Event>,
    pub(super) is_paused: bool,
    /// All that came, shown or not.
    pub(super) seen: u64,
    pub(super) lost: u64,
}

impl Log {
    /// Shows what was held back.
    pub(super) fn resume(&mut self) {
        self.is_paused = false;
        for event in std::mem::take(&mut self.waiting) {
            keep(&mut self.shown, event);
        }
    }

    /// The last of those that are wanted, as many as asked for, the newest last.
    pub(super) fn last(&self, most: usize, wanted: impl Fn(&Event) -> bool) -> Vec<&Event> {
        let mut last: Vec<&Event> =
            self.shown.iter().rev().filter(|event| wanted(event)).take(most).collect();
        last.reverse();
        last
    }

    fn keep(&mut self, event: Event) {
        keep(if self.is_paused { &mut self.waiting } else { &mut self.shown }, event);
    }
}

fn keep(events: &mut VecDeque<Event>, event: Event) {
    if events.len() == MOST {
        events.pop_front();
    }
    events.push_back(event);
}

impl Listener for Log {
    fn event(&mut self, event: Event) {
        if event.spec.kind == events::LOST.kind {
            if let Some(EventValue::Number(count)) = event.value("count") {
                self.lost += count.unsigned_abs();
            }
        } else {
            self.seen += 1;
        }
        self.keep(event);
    }

    fn lost(&mut self, spec: &'static EventSpec, count: u64) {
        self.event(events::lost(spec.kind, count));
    }
}

/// A field no wider than this is told before the last one, which is what the event is about.
const SHORT: u8 = 9;

/// Type, process and fields in one line, numbers at its end: there is not always room for all of it.
pub(super) fn words(event: &Event) -> String {
    let value = |name| event.value(name).map_or(String::new(), |value| text::plain(value, name));
    let last = event.spec.fields.iter().rfind(|field| field.width > 0 && field.kind != FieldKind::Number);
    let rank = |field: &EventField| match field.kind {
        _ if field.width == 0 || ["pid", "comm"].contains(&field.name) => None,
        FieldKind::Number => Some(3),
        _ if last == Some(field) => Some(1),
        _ => Some(if field.width <= SHORT { 0 } else { 2 }),
    };
    let fields: String = (0..4).map(|at| text::fields(event, |field| rank(field) == Some(at))).collect();
    format!("{:10} {:>7} {:15}{fields}", event.spec.kind, value("pid"), value("comm"))
}

/// Whether the event is this process's, as far as both tell.
pub(super) fn is_of(event: &Event, who: &Who) -> bool {
    let pid = || match event.value("pid") {
        Some(EventValue::Number(pid)) => pid.to_string() == who.pid,
        _ => false,
    };
    let text = |name, expected: &str| match event.value(name) {
        Some(EventValue::Text(text)) => text == expected,
        _ => false,
    };
    (who.pid.is_empty() || pid())
        && (who.comm.is_empty() || !who.pid.is_empty() || text("comm", &who.comm))
        && (who.cgroup.is_empty() || text("cgroup", &who.cgroup))
}
