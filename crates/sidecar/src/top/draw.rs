//! The screen. Fits into 80×24; with less room charts go first, then events, then columns from the right.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
};
use sidecar_core::{Column, Unit};

use super::{
    app::{App, Page},
    draw_pages::{help, process},
    log::words,
    processes::{Cell, Key, is_gauge},
};
use crate::events::{self, text};

/// Columns of a number, and of a process id.
const NUMBER: usize = 8;
const PID: usize = 7;
/// The name of a process is given at least so many.
const NAME: usize = 15;
/// Columns of a line of a chart.
const TRACK: usize = 40;
/// Lines of a chart at most.
const TRACK_LINES: usize = 4;
/// Less height than this has no room for charts, or for events.
const WITH_CHARTS: u16 = 16;
const WITH_EVENTS: u16 = 12;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How text looks.
pub(super) struct Look {
    colours: bool,
}

impl Look {
    pub(super) fn title(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD).patch(self.colour(Color::Cyan))
    }

    fn colour(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn warning(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD).patch(self.colour(Color::Yellow))
    }

    pub(super) fn dim() -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let look = Look { colours: app.colours };
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    head(frame, top, app, &look);
    match app.page.clone() {
        Page::Processes => overview(frame, middle, app, &look),
        Page::Process(who) => {
            let events = if middle.height >= WITH_EVENTS { middle.height / 3 } else { 0 };
            let [facts, log] =
                Layout::vertical([Constraint::Min(1), Constraint::Length(events)]).areas(middle);
            process(frame, facts, app, &who, &look);
            draw_events(frame, log, app, &look);
        }
        Page::Help => help(frame, middle, app, &look),
    }
    foot(frame, bottom, app, &look);
}

/// One line, cut at the edge.
pub(super) fn put(frame: &mut Frame<'_>, area: Rect, row: usize, line: Line<'_>) {
    let Ok(row) = u16::try_from(row) else { return };
    if row < area.height {
        frame.render_widget(line, Rect { y: area.y + row, height: 1, ..area });
    }
}

fn head(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let every = humantime::format_duration(app.interval);
    let kind = if app.totals { "totals" } else { "per second" };
    let mut spans = vec![
        Span::styled("sidecar top", look.title()),
        Span::raw(format!("  {}  every {every}", app.origin)),
    ];
    if app.paused {
        let at = app.taken().map(text::clock).unwrap_or_default();
        spans.push(Span::styled(format!("  PAUSED {}", at.get(..8).unwrap_or_default()), look.warning()));
    }
    if !app.filter.is_empty() {
        spans.push(Span::styled(format!("  filter: {}", text::shown(&app.filter)), look.warning()));
    }
    spans.push(Span::raw(format!("  {} processes, {kind}", app.lines.len())));
    put(frame, area, 0, Line::from(spans));
}

fn foot(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let line = if app.editing {
        Line::styled(format!("/{}█  Enter: keep  Esc: no filter", text::shown(&app.filter)), look.warning())
    } else if let Some(trouble) = &app.trouble {
        Line::styled(text::shown(trouble), look.warning())
    } else {
        let keys = match app.page {
            Page::Processes => {
                "q quit  ? help  / filter  < > sort  r reverse  t totals  Space pause  Enter open"
            }
            Page::Process(_) => "q quit  ? help  Esc back  Up Down scroll  Space pause",
            Page::Help => "q quit  Esc back  Up Down scroll",
        };
        Line::styled(keys, Look::dim())
    };
    put(frame, area, 0, line);
}

fn overview(frame: &mut Frame<'_>, area: Rect, app: &mut App, look: &Look) {
    let across = (usize::from(area.width) / TRACK).max(1);
    let height = |tracks: usize| 1 + tracks.div_ceil(across).min(TRACK_LINES) as u16;
    let charts: u16 = app.plots.iter().map(|plot| height(plot.chart.tracks.len())).sum();
    let charts = if area.height + 2 >= WITH_CHARTS { charts.min(area.height / 3) } else { 0 };
    let rest = area.height - charts;
    let events = if area.height + 2 >= WITH_EVENTS { (rest * 2 / 5).max(3) } else { 0 };
    let rows = [Constraint::Length(charts), Constraint::Min(2), Constraint::Length(events)];
    let [plots, table, log] = Layout::vertical(rows).areas(area);
    draw_charts(frame, plots, app, look, across);
    draw_table(frame, table, app, look);
    draw_events(frame, log, app, look);
}

fn draw_charts(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, across: usize) {
    let mut row = 0;
    for plot in &app.plots {
        let tracks = &plot.chart.tracks;
        let all: f64 = tracks.values().filter_map(|track| track.points.back()).sum();
        let title = match &plot.missing {
            Some(why) if tracks.is_empty() => format!("{}: -  {why}", plot.chart.rate.title),
            _ if tracks.is_empty() => format!("{}: none yet", plot.chart.rate.title),
            _ => format!("{}: {}/s", plot.chart.rate.title, number(all)),
        };
        put(frame, area, row, Line::styled(text::shown(&title), look.title()));
        let lines = tracks.len().div_ceil(across).min(TRACK_LINES);
        let width = usize::from(area.width) / across;
        for (at, (name, track)) in tracks.iter().take(lines * across).enumerate() {
            let newest = track.points.back().copied();
            let now = if app.totals { exact(track.total) } else { newest.map_or("-".into(), number) };
            let room = width.saturating_sub(10 + NUMBER + 3);
            let points: Vec<f64> = track.points.iter().rev().take(room).rev().copied().collect();
            let name = text::shown(name);
            let line = format!("{:10}{now:>NUMBER$} {:>room$}", text::cut(&name, 9), bars(&points));
            let place = Rect { x: area.x + (at % across * width) as u16, width: width as u16, ..area };
            put(frame, place, row + 1 + at / across, Line::raw(line));
        }
        row += 1 + lines;
    }
}

/// A bar for each point, the highest as high as there is.
pub(super) fn bars(points: &[f64]) -> String {
    let most = points.iter().copied().fold(0.0, f64::max);
    let bar = |point: &f64| {
        if *point <= 0.0 { ' ' } else { BARS[((point / most * 8.0).ceil() as usize).clamp(1, 8) - 1] }
    };
    points.iter().map(bar).collect()
}

/// How many columns of numbers fit, whether there is one of process ids, and how wide the names are.
fn fit(app: &App, width: usize) -> (usize, bool, usize) {
    let has_pids = app.lines.is_empty() || app.lines.iter().any(|line| !line.who.pid.is_empty());
    let fixed = if has_pids { PID + 1 } else { 0 };
    let columns = (width.saturating_sub(fixed + NAME) / (NUMBER + 1)).min(app.columns.len());
    (columns, has_pids, width.saturating_sub(fixed + columns * (NUMBER + 1)))
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, app: &mut App, look: &Look) {
    let (columns, has_pids, name) = fit(app, usize::from(area.width));
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let height = usize::from(body.height);
    let mut offset = app.areas.offset.min(app.lines.len().saturating_sub(height));
    offset = offset.clamp((app.selected + 1).saturating_sub(height.max(1)), app.selected);
    app.areas.titles = titles(columns, has_pids, name);
    (app.areas.title_row, app.areas.body, app.areas.offset) = (area.y, body, offset);

    let mut spans = Vec::new();
    for (from, to, key) in &app.areas.titles {
        let width = usize::from(to - from);
        let is_sorted = *key == app.sort;
        let arrow = match (is_sorted, app.descending) {
            (true, true) => "▼",
            (true, false) => "▲",
            _ => "",
        };
        let title = match key {
            Key::Pid => format!("{:>PID$} ", format!("PID{arrow}")),
            Key::Name => format!("{:width$}", format!("PROCESS{arrow}")),
            Key::Column(at) => format!("{:>width$}", format!("{}{arrow}", app.columns[*at].column.title)),
        };
        let style = if is_sorted { look.title() } else { Style::new().add_modifier(Modifier::BOLD) };
        spans.push(Span::styled(title, style.add_modifier(Modifier::UNDERLINED)));
    }
    put(frame, area, 0, Line::from(spans));
    if app.lines.is_empty() {
        let why = match (app.taken(), app.filter.as_str()) {
            (None, _) => "waiting for the first numbers",
            (_, "") => "nothing has happened yet",
            _ => "no process has this text in its name, id or cgroup; Esc removes the filter",
        };
        put(frame, body, 0, Line::styled(why, Look::dim()));
    }
    for row in 0..height.min(app.lines.len() - offset) {
        let at = offset + row;
        let line = &app.lines[at];
        let mut spans = Vec::new();
        if has_pids {
            spans.push(Span::raw(format!("{:>PID$} ", text::shown(&line.who.pid))));
        }
        let shown = text::shown(&line.who.name());
        let shown = text::cut(&shown, name.saturating_sub(1));
        let pad = name - unicode_width::UnicodeWidthStr::width(shown);
        spans.push(Span::raw(format!("{shown}{}", " ".repeat(pad))));
        for (cell, column) in line.cells.iter().zip(&app.columns).take(columns) {
            spans.push(if column.missing.is_some() {
                right("-", true)
            } else {
                value(cell, column.column, app.totals)
            });
        }
        let style =
            if at == app.selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        put(frame, body, row, Line::from(spans).style(style));
    }
}

fn titles(columns: usize, has_pids: bool, name: usize) -> Vec<(u16, u16, Key)> {
    let pid = has_pids.then_some((Key::Pid, PID + 1));
    let numbers = (0..columns).map(|at| (Key::Column(at), NUMBER + 1));
    let mut from = 0;
    let all = pid.into_iter().chain([(Key::Name, name)]).chain(numbers);
    all.map(|(key, width)| {
        let begin = from;
        from += width as u16;
        (begin, from, key)
    })
    .collect()
}

fn value(cell: &Cell, column: &Column, totals: bool) -> Span<'static> {
    let bytes = |number: u64| text::bytes(i64::try_from(number).unwrap_or(i64::MAX));
    let is_sum = totals || is_gauge(column);
    let is_zero = if is_sum { cell.total == 0 } else { cell.rate == Some(0.0) };
    let shown = match (is_sum, column.unit, cell.rate) {
        (true, Unit::Bytes, _) => bytes(cell.total),
        (true, ..) => exact(cell.total),
        (false, _, None) => "-".to_owned(),
        (false, Unit::Bytes, Some(rate)) => bytes(rate.round() as u64),
        (false, _, Some(rate)) => number(rate),
    };
    right(&shown, is_zero)
}

/// A cell of a column of numbers.
fn right(shown: &str, is_dim: bool) -> Span<'static> {
    Span::styled(format!(" {shown:>NUMBER$}"), if is_dim { Look::dim() } else { Style::new() })
}

/// A number of things in a second, in at most seven characters.
pub(super) fn number(rate: f64) -> String {
    match rate {
        ..0.05 => "0".to_owned(),
        ..9.95 => format!("{rate:.1}"),
        ..999_999.5 => format!("{rate:.0}"),
        ..999_950_000.0 => format!("{:.1}M", rate / 1e6),
        _ => format!("{:.1}G", rate / 1e9),
    }
}

/// All digits, as long as there is room for them.
pub(super) fn exact(total: u64) -> String {
    if total < 100_000_000 { total.to_string() } else { number(total as f64) }
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    if area.height == 0 {
        return;
    }
    let lost = if app.log.lost > 0 { format!(", {} lost", app.log.lost) } else { String::new() };
    let title = format!("events: {} so far{lost}", app.log.seen);
    let style = if app.log.lost > 0 { look.warning() } else { look.title() };
    put(frame, area, 0, Line::styled(title, style));
    for (row, event) in app.events(usize::from(area.height) - 1).into_iter().enumerate() {
        let words = if event.spec.kind == events::LOST.kind {
            Span::styled(words(event), look.warning())
        } else {
            Span::raw(words(event))
        };
        let time = Span::styled(format!("{} ", text::clock(event.wall)), Look::dim());
        put(frame, area, row + 1, Line::from(vec![time, words]));
    }
}
