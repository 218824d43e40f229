//! The pages besides the overview: one process, and the help. Both scroll.

use std::time::Duration;

use ratatui::{Frame, layout::Rect, text::Line};
use sidecar_core::{Unit, Value};

use super::{
    app::App,
    detail::Fact,
    draw::{Look, exact, number, put},
    input::KEYS,
    processes::Who,
};
use crate::events::text;

/// Everything the snapshots say about a process.
pub(super) fn process(frame: &mut Frame<'_>, area: Rect, app: &mut App, who: &Who, look: &Look) {
    let pid = if who.pid.is_empty() { String::new() } else { format!(" {}", who.pid) };
    let facts = app.facts(who);
    let title = format!("process{pid} {}", who.name());
    put(frame, area, 0, Line::styled(text::shown(&title), look.title()));
    let width = usize::from(area.width);
    put(frame, area, 1, Line::styled(columns("METRIC", "PER SEC", "TOTAL", width), look.title()));
    let lines: Vec<String> = facts.iter().map(|fact| line(fact, width)).collect();
    scroll(frame, Rect { y: area.y + 2, height: area.height.saturating_sub(2), ..area }, app, &lines);
}

fn line(fact: &Fact, width: usize) -> String {
    let bytes = fact.metric.name.contains("bytes");
    let rate = match fact.rate {
        None => "-".to_owned(),
        Some(rate) if bytes => text::bytes(rate.round() as i64),
        Some(rate) => number(rate),
    };
    let total = match &fact.value {
        Value::Counter(total) if bytes => text::bytes(i64::try_from(*total).unwrap_or(i64::MAX)),
        Value::Counter(total) => exact(*total),
        Value::CounterF64(value) | Value::Gauge(value) => format!("{value}"),
        Value::Histogram(histogram) => match histogram.count() {
            0 => "0".to_owned(),
            count if fact.metric.unit == Unit::Seconds => {
                let mean = Duration::try_from_secs_f64(histogram.sum / count as f64).unwrap_or_default();
                format!("{} ø {}", exact(count), text::duration(mean))
            }
            count => exact(count),
        },
    };
    let labels = if fact.labels.is_empty() { String::new() } else { format!(" {}", fact.labels) };
    columns(&text::shown(&format!("{}{labels}", fact.metric.name)), &rate, &total, width)
}

fn columns(name: &str, rate: &str, total: &str, width: usize) -> String {
    const RATE: usize = 9;
    const TOTAL: usize = 18;
    let room = width.saturating_sub(RATE + TOTAL + 2);
    let name = text::cut(name, room);
    let pad = room - unicode_width::UnicodeWidthStr::width(name);
    format!("{name}{} {rate:>RATE$} {total:>TOTAL$}", " ".repeat(pad))
}

/// The keys, the columns, and what is missing.
pub(super) fn help(frame: &mut Frame<'_>, area: Rect, app: &mut App, look: &Look) {
    put(frame, area, 0, Line::styled("Keys", look.title()));
    let mut lines: Vec<String> = KEYS.iter().map(|(keys, what)| format!("{keys:27} {what}")).collect();
    lines.push(String::new());
    for shown in &app.columns {
        let column = shown.column;
        let without = shown.missing.as_ref().map(|why| format!(" - none here: {why}")).unwrap_or_default();
        lines.push(format!("{:8} {}{without}", column.title, column.help));
    }
    for plot in &app.plots {
        let without = plot.missing.as_ref().map(|why| format!(" - none here: {why}")).unwrap_or_default();
        let rate = plot.chart.rate;
        lines.push(format!("{}, by {}{without}; each line has a scale of its own", rate.title, rate.by));
    }
    lines.push("other: processes for which there was no room, metrics.max_series".to_owned());
    let width = usize::from(area.width).max(20);
    let lines: Vec<String> = lines.iter().flat_map(|line| wrapped(&text::shown(line), width)).collect();
    scroll(frame, Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area }, app, &lines);
}

/// Draws the lines from where the user has scrolled to.
fn scroll(frame: &mut Frame<'_>, area: Rect, app: &mut App, lines: &[String]) {
    let height = usize::from(area.height);
    app.areas.body = area;
    app.areas.end = lines.len().saturating_sub(height);
    app.scroll = app.scroll.min(app.areas.end);
    for (row, line) in lines.iter().skip(app.scroll).take(height).enumerate() {
        put(frame, area, row, Line::raw(line.as_str()));
    }
}

/// Lines no longer than this, broken between words, later ones indented.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    use unicode_width::UnicodeWidthStr as _;
    const INDENT: &str = "         ";
    if line.width() <= width {
        return vec![line.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let at = lines.len() - 1;
        if lines[at].width() + word.trim_end().width() > width && !lines[at].trim().is_empty() {
            lines.push(format!("{INDENT}{word}"));
        } else {
            lines[at].push_str(word);
        }
    }
    lines
}
