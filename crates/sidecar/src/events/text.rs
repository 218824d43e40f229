//! Values of events as people read them.
//!
//! What programs put into their names and arguments must not reach the terminal as commands to it: control characters are
//! shown, not sent.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use sidecar_core::{Event, EventField, EventValue};
use unicode_width::UnicodeWidthChar as _;

/// Those fields of an event that are wanted and known, each after a space and its name.
pub(crate) fn fields(event: &Event, wanted: impl Fn(&EventField) -> bool) -> String {
    let mut text = String::new();
    for (field, value) in event.spec.fields.iter().zip(&event.values) {
        if wanted(field) && *value != EventValue::Unknown {
            let _ = write!(text, " {}={}", field.name, plain(value, field.name));
        }
    }
    text
}

/// As much of the beginning as fits into so many columns.
pub(crate) fn cut(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > width {
            return &text[..at];
        }
    }
    text
}

/// A value in words.
pub(crate) fn plain(value: &EventValue, name: &str) -> String {
    match value {
        EventValue::Unknown => "-".to_owned(),
        EventValue::Text(text) => shown(text),
        EventValue::Word(word) => (*word).to_owned(),
        EventValue::Number(number) if name.ends_with("_bytes") => bytes(*number),
        EventValue::Number(number) => number.to_string(),
        EventValue::Seconds(time) => duration(*time),
        EventValue::Bool(is_so) => if *is_so { "yes" } else { "no" }.to_owned(),
        EventValue::List(texts) => texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(" "),
    }
}

/// Text without anything a terminal would act upon or show in another order.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// An argument as one would type it.
fn quoted(text: &str) -> String {
    let text = shown(text);
    if text.is_empty() || text.contains([' ', '\'', '"', '$', '`', '*', '|', '&', ';', '<', '>', '(', ')']) {
        format!("'{}'", text.replace('\'', "'\\''"))
    } else {
        text
    }
}

/// A length of time in few characters.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_nanos() {
        0..1_000_000 => format!("{:.1}us", seconds * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1}ms", seconds * 1e3),
        1_000_000_000..100_000_000_000 => format!("{seconds:.2}s"),
        _ => format!("{seconds:.0}s"),
    }
}

/// Bytes in few characters.
pub(crate) fn bytes(number: i64) -> String {
    let mut value = number as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// Hours, minutes, seconds and milliseconds of this machine's time zone.
pub(crate) fn clock(wall: SystemTime) -> String {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() as libc::time_t;
    // SAFETY: a `tm` of zeros is valid, and the call fills in what it is given.
    let local = unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const seconds, &raw mut local);
        local
    };
    format!("{:02}:{:02}:{:02}.{:03}", local.tm_hour, local.tm_min, local.tm_sec, since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(
            (bytes(999), bytes(1_500), bytes(2_000_000_000)),
            ("999 B".into(), "1.5 kB".into(), "2.0 GB".into())
        );
        let times =
            [1_500, 2_500_000, 3_500_000_000, 250_000_000_000].map(|n| duration(Duration::from_nanos(n)));
        assert_eq!(times, ["1.5us", "2.5ms", "3.50s", "250s"]);
    }
}
