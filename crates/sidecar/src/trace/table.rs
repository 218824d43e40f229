//! Events for people: one line each, in columns as wide as their declaration says, no wider than the terminal.

use std::fmt::Write as _;

use sidecar_core::{Event, EventField, EventSpec, FieldKind};
use unicode_width::UnicodeWidthStr as _;

use crate::events::text::{self, clock, cut, plain};

/// Columns of the time.
const TIME: usize = 12;
/// The last column is not made narrower than this; others go first.
const LAST: usize = 16;
/// Lines in which the width of the terminal is looked at once.
const LOOK: u32 = 32;

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// What is shown how.
pub(super) struct Table {
    /// With one type its fields are columns; with several each line names its own.
    fields: Option<&'static EventSpec>,
    is_terminal: bool,
    colours: bool,
    width: Option<usize>,
    lines: u32,
}

impl Table {
    /// For these event types.
    pub(super) fn new(types: &[&'static EventSpec], is_terminal: bool, colours: bool) -> Self {
        let fields = if let [one] = types { Some(*one) } else { None };
        Self { fields, is_terminal, colours, width: None, lines: 0 }
    }

    /// The names of the columns.
    pub(super) fn head(&mut self) -> String {
        self.look();
        let mut line = format!("{:TIME$}", "TIME");
        if let Some(spec) = self.fields {
            let columns = columns(spec, self.width);
            for (at, field) in columns.iter().enumerate() {
                cell(&mut line, &title(field), field, at + 1 == columns.len());
            }
        } else {
            line.push_str(" EVENT");
        }
        self.end(&line, BOLD)
    }

    /// An event.
    pub(super) fn line(&mut self, event: &Event) -> String {
        self.look();
        let mut line = clock(event.wall);
        if event.spec.kind == crate::events::LOST.kind {
            let shown = |name| event.value(name).map(|value| plain(value, "")).unwrap_or_default();
            let _ = write!(line, " lost {} events ({})", shown("count"), shown("lost"));
            return self.end(&line, RED);
        }
        if let Some(spec) = self.fields {
            let columns = columns(spec, self.width);
            for (at, field) in columns.iter().enumerate() {
                let text = event.value(field.name).map(|value| plain(value, field.name)).unwrap_or_default();
                cell(&mut line, &text, field, at + 1 == columns.len());
            }
        } else {
            let _ = write!(line, " {:16}", event.spec.kind);
            line.push_str(&text::fields(event, |field| field.width > 0));
        }
        self.end(&line, "")
    }

    /// The line as it goes out.
    fn end(&self, line: &str, colour: &str) -> String {
        let line = match self.width {
            Some(width) => cut(line, width),
            None => line,
        };
        let line = line.trim_end();
        match line.split_at_checked(TIME) {
            _ if !self.colours => format!("{line}\n"),
            Some((time, rest)) if colour.is_empty() => format!("{DIM}{time}{PLAIN}{rest}\n"),
            _ => format!("{colour}{line}{PLAIN}\n"),
        }
    }

    /// Keeps up with a terminal that changes its size.
    fn look(&mut self) {
        if self.is_terminal && self.lines.is_multiple_of(LOOK) {
            self.width = terminal_width();
        }
        self.lines = self.lines.wrapping_add(1);
    }
}

/// The columns that fit: those before the last go, from the right, until the last has room.
fn columns(spec: &'static EventSpec, width: Option<usize>) -> Vec<&'static EventField> {
    let mut columns: Vec<_> = spec.fields.iter().filter(|field| field.width > 0).collect();
    let Some(width) = width else { return columns };
    let needed = |columns: &[&EventField]| {
        let fixed = columns.iter().rev().skip(1).map(|field| usize::from(field.width) + 1).sum::<usize>();
        let last = columns.last().map_or(0, |field| usize::from(field.width).min(LAST));
        TIME + fixed + 1 + last
    };
    while columns.len() > 1 && needed(&columns) > width {
        columns.remove(columns.len() - 2);
    }
    columns
}

/// `lifetime_seconds` → `LIFETIME`.
fn title(field: &EventField) -> String {
    let name = field.name.strip_suffix("_seconds").or_else(|| field.name.strip_suffix("_bytes"));
    name.unwrap_or(field.name).replace('_', " ").to_uppercase()
}

/// Numbers to the right, the rest to the left; the last column as long as it is.
fn cell(line: &mut String, text: &str, field: &EventField, is_last: bool) {
    line.push(' ');
    let width = usize::from(field.width);
    let is_number = matches!(field.kind, FieldKind::Number | FieldKind::Seconds);
    let text = if is_last || is_number { text } else { cut(text, width) };
    let pad = width.saturating_sub(text.width());
    if is_number {
        line.extend(std::iter::repeat_n(' ', pad));
    }
    line.push_str(text);
    if !is_number && !is_last {
        line.extend(std::iter::repeat_n(' ', pad));
    }
}

/// Columns of the terminal; a line as long as that would wrap on some.
fn terminal_width() -> Option<usize> {
    // SAFETY: a valid place for the answer, which is all zeros before.
    let (result, size) = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size), size)
    };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use sidecar_core::EventValue;

    use super::*;

    const fn field(name: &'static str, kind: FieldKind, width: u8) -> EventField {
        EventField { name, kind, optional: true, width, help: "Test" }
    }

    static SPEC: EventSpec = EventSpec {
        kind: "done",
        summary: "Test",
        fields: &[
            field("pid", FieldKind::Number, 7),
            field("comm", FieldKind::Text, 6),
            field("hidden", FieldKind::Text, 0),
            field("took_seconds", FieldKind::Seconds, 8),
            field("args", FieldKind::List, 30),
        ],
    };

    fn event(comm: &str, args: &[&str]) -> Event {
        let values = vec![
            EventValue::Number(42),
            EventValue::Text(comm.into()),
            EventValue::Text("x".into()),
            EventValue::Seconds(Duration::from_micros(1500)),
            EventValue::List(args.iter().map(ToString::to_string).collect()),
        ];
        Event { spec: &SPEC, monotonic: Duration::ZERO, wall: SystemTime::UNIX_EPOCH, values }
    }

    fn table(width: Option<usize>) -> Table {
        Table { width, ..Table::new(&[&SPEC], false, false) }
    }

    #[test]
    fn values_stand_under_their_titles() {
        let mut table = table(None);
        assert_eq!(table.head(), "TIME             PID COMM       TOOK ARGS\n");
        let line = table.line(&event("name", &["a b", "it's", ""]));
        assert_eq!(&line[TIME..], "      42 name      1.5ms 'a b' 'it'\\''s' ''\n");
    }

    #[test]
    fn lines_are_no_longer_than_the_terminal_and_columns_go_before_the_last() {
        for width in 20..120 {
            let mut table = table(Some(width));
            let (head, line) = (table.head(), table.line(&event("ありがとう", &["word"; 40])));
            assert!(head.trim_end().width() <= width && line.trim_end().width() <= width, "{width}: {line}");
            assert!(head.contains(&"ARGS"[..4.min(width - TIME - 1)]), "{width}: {head}");
        }
        assert!(!table(Some(45)).head().contains("TOOK"));
        assert!(table(Some(60)).head().contains("TOOK"));
    }

    #[test]
    fn nothing_a_program_says_reaches_the_terminal_as_a_command() {
        let line = table(None).line(&event("\x1b[2J", &["a\nb", "\x07", "\u{202e}c", "\u{9b}1m"]));
        assert!(line.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line:?}");
        assert!(line.contains("\\u{1b}") && line.contains("a\\nb"), "{line:?}");
    }

    #[test]
    fn colours_are_left_out_when_they_are_not_wanted() {
        let mut colourful = Table::new(&[&SPEC], false, true);
        assert!(colourful.head().contains(BOLD) && colourful.line(&event("a", &[])).contains(DIM));
        assert!(!table(None).line(&event("a", &[])).contains('\x1b'));
    }

    #[test]
    fn several_types_name_their_fields() {
        static OTHER: EventSpec = EventSpec { kind: "other", summary: "Test", fields: &[] };
        let line = Table::new(&[&SPEC, &OTHER], false, false).line(&event("a", &["b"]));
        assert_eq!(&line[TIME..], " done             pid=42 comm=a took_seconds=1.5ms args=b\n");
    }
}
