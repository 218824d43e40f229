//! What is shown and what keys do, on snapshots made up here.

use std::time::{Duration, SystemTime};

use ratatui::crossterm::event::{
    Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use sidecar_core::{
    CollectError, Collector, Column, EventField, EventSpec, EventValue, FieldKind, Kernel, Kind, Labels,
    Listener as _, Metric, Probe, Rate, Rows, Snapshot, Unit, Value, View, probe::Plan,
};

use super::{
    app::{App, Page},
    draw, input,
    processes::Key,
};

macro_rules! metrics {
    ($($name:ident = $text:literal $kind:ident [$($label:literal),*];)+) => {
        $(static $name: Metric = Metric {
            name: $text,
            help: "Test",
            kind: Kind::$kind,
            unit: Unit::None,
            labels: &[$($label),*],
        };)+
    };
}

metrics! {
    DEEDS = "sidecar_deeds_total" Counter ["comm", "result"];
    IN = "sidecar_in_bytes_total" Counter ["comm"];
    OUT = "sidecar_out_bytes_total" Counter ["comm"];
    OPEN = "sidecar_held" Gauge ["comm"];
    FRAMES = "sidecar_frames_total" Counter ["protocol", "version"];
}

const fn column(title: &'static str, metrics: &'static [&'static Metric], unit: Unit) -> Column {
    Column { title, metrics, unit, help: "What the test says" }
}

struct Nothing;

impl Collector for Nothing {
    fn attached(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }
    fn rescoped(&mut self, _: &mut dyn Kernel, _: bool) -> Result<(), CollectError> {
        Ok(())
    }
    fn drain(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }
    fn fill(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
    fn collect(&mut self, _: &mut dyn Kernel, _: &mut Rows) -> Result<(), CollectError> {
        Ok(())
    }
}

const fn probe(name: &'static str, view: View) -> Probe {
    Probe {
        name,
        summary: "Test",
        enabled: true,
        metrics: &[],
        counts: &[],
        view,
        events: &[],
        options: &[],
        hooks: &[],
        fields: &[],
        capabilities: &[],
        cost: "",
        rings: &[],
        plan: |_, _| Plan::default(),
        start: |_| Box::new(Nothing),
    }
}

static MAIN: Probe = probe(
    "main",
    View {
        columns: &[
            column("HELD", &[&OPEN], Unit::None),
            column("BYTES", &[&IN, &OUT], Unit::Bytes),
            column("DEEDS", &[&DEEDS], Unit::None),
        ],
        rates: &[Rate { title: "frames", metric: &FRAMES, by: "protocol" }],
    },
);
static ABSENT: Probe = probe("absent", View { columns: &[column("CALLS", &[], Unit::None)], rates: &[] });

pub(super) static DONE: EventSpec = EventSpec {
    kind: "done",
    summary: "Test",
    fields: &[
        EventField { name: "pid", kind: FieldKind::Number, optional: false, width: 7, help: "Test" },
        EventField { name: "comm", kind: FieldKind::Text, optional: false, width: 15, help: "Test" },
        EventField { name: "path", kind: FieldKind::Text, optional: false, width: 15, help: "Test" },
    ],
};

pub(super) fn app() -> App {
    let state = |probe: &Probe| match probe.name {
        "main" => (true, String::new()),
        _ => (false, "this kernel has no such hook".to_owned()),
    };
    App::new("this machine".to_owned(), Duration::from_secs(1), &[&MAIN, &ABSENT], state)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Deeds, bytes in and bytes out of these processes, and frames of TCP.
pub(super) fn snapshot(seconds: u64, processes: &[(u32, &str, u64, u64, u64)], frames: u64) -> Snapshot {
    let mut rows = Rows::default();
    for (pid, comm, deeds, received, sent) in processes {
        let labels = Labels::new([("pid", pid.to_string()), ("comm", (*comm).to_owned())]);
        // Two rows of one process are one number.
        rows.push_with(&DEEDS, &labels, Some(("result", "ok")), Value::Counter(deeds - deeds / 4));
        rows.push_with(&DEEDS, &labels, Some(("result", "no")), Value::Counter(deeds / 4));
        rows.push(&IN, &labels, Value::Counter(*received));
        rows.push(&OUT, &labels, Value::Counter(*sent));
        rows.push(&OPEN, &labels, Value::Gauge(3.0));
    }
    for version in ["4", "6"] {
        let labels = Labels::new([("protocol", "tcp"), ("version", version)]);
        rows.push(&FRAMES, &labels, Value::Counter(frames / 2));
    }
    rows.finish(at(seconds), at(1))
}

pub(super) fn tell(app: &mut App, pid: i64, comm: &str, path: &str) {
    let values = vec![EventValue::Number(pid), EventValue::Text(comm.into()), EventValue::Text(path.into())];
    let event =
        sidecar_core::Event { spec: &DONE, monotonic: Duration::ZERO, wall: SystemTime::UNIX_EPOCH, values };
    app.log.event(event);
}

pub(super) fn press(app: &mut App, code: KeyCode) {
    input::handle(app, &Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
}

fn type_in(app: &mut App, text: &str) {
    text.chars().for_each(|c| press(app, KeyCode::Char(c)));
}

fn names(app: &App) -> Vec<&str> {
    app.lines.iter().map(|line| line.who.comm.as_str()).collect()
}

/// An app that has seen two snapshots, two seconds apart.
pub(super) fn two() -> App {
    let mut app = app();
    app.take(snapshot(10, &[(1, "idle", 8, 0, 0), (20, "busy", 100, 1000, 0)], 50));
    app.take(snapshot(
        12,
        &[(1, "idle", 8, 0, 0), (20, "busy", 140, 1500, 500), (300, "new", 6, 0, 9000)],
        70,
    ));
    app
}

#[test]
fn rates_are_what_was_added_in_a_second_and_totals_are_all() {
    let app = two();
    assert_eq!(names(&app), ["busy", "new", "idle"], "most deeds first");
    let cells = &app.lines[0].cells;
    assert_eq!((cells[2].total, cells[2].rate), (140, Some(20.0)));
    assert_eq!((cells[1].total, cells[1].rate), (2000, Some(500.0)), "sum of two metrics");
    assert_eq!((cells[0].total, cells[0].rate), (3, Some(3.0)), "a gauge is what it is");
    assert_eq!(app.lines[1].cells[2].rate, Some(3.0), "a new process had done nothing before");
    assert_eq!(app.plots[0].chart.tracks["tcp"].points, [10.0], "both versions together");
}

#[test]
fn before_the_second_snapshot_no_rate_is_known() {
    let mut app = app();
    app.take(snapshot(10, &[(1, "one", 8, 0, 0)], 50));
    assert_eq!(app.lines[0].cells[2].rate, None);
    assert!(app.plots[0].chart.tracks["tcp"].points.is_empty());
}

#[test]
fn a_probe_that_cannot_be_read_for_a_while_leaves_no_jump() {
    let mut app = two();
    let mut partial = snapshot(13, &[], 70);
    partial.families =
        partial.families.iter().filter(|family| family.metric.name == FRAMES.name).cloned().collect();
    app.take(partial);
    assert_eq!(app.lines[0].cells[2].total, 140, "what was counted is still there");
    app.take(snapshot(16, &[(20, "busy", 180, 1500, 500)], 70));
    assert_eq!(app.lines[0].cells[2].rate, Some(10.0), "40 in the four seconds since it was read");
}

#[test]
fn an_agent_that_was_started_anew_does_not_give_negative_or_huge_rates() {
    let mut app = two();
    let mut anew = snapshot(14, &[(20, "busy", 5, 0, 0)], 4);
    anew.started = at(13);
    app.take(anew);
    assert_eq!(app.lines.len(), 1);
    assert_eq!((app.lines[0].cells[2].total, app.lines[0].cells[2].rate), (5, None));
    assert!(app.plots[0].chart.tracks["tcp"].points.is_empty());
}

#[test]
fn the_same_snapshot_twice_is_one() {
    let mut app = two();
    app.take(snapshot(12, &[(20, "busy", 140, 0, 0)], 70));
    assert_eq!(app.lines[0].cells[2].rate, Some(20.0));
}

#[test]
fn keys_sort_turn_round_and_show_totals() {
    let mut app = two();
    assert_eq!(app.sort, Key::Column(2), "the last column that has numbers");
    press(&mut app, KeyCode::Char('<'));
    assert_eq!((app.sort, names(&app)[0]), (Key::Column(1), "new"));
    press(&mut app, KeyCode::Char('r'));
    assert_eq!(names(&app)[0], "idle");
    press(&mut app, KeyCode::Right);
    press(&mut app, KeyCode::Char('t'));
    assert_eq!(names(&app), ["busy", "idle", "new"], "by totals");
    for _ in 0..9 {
        press(&mut app, KeyCode::Left);
    }
    assert_eq!((app.sort, names(&app)), (Key::Pid, vec!["idle", "busy", "new"]));
    press(&mut app, KeyCode::Right);
    assert_eq!(names(&app), ["busy", "idle", "new"], "by name");
}

#[test]
fn the_filter_leaves_processes_and_events_that_have_the_text() {
    let mut app = two();
    tell(&mut app, 20, "busy", "/etc/Passwd");
    tell(&mut app, 1, "idle", "/etc/group");
    press(&mut app, KeyCode::Char('/'));
    type_in(&mut app, "BUq");
    press(&mut app, KeyCode::Backspace);
    assert_eq!(names(&app), ["busy"]);
    assert!(!app.done, "q is a letter here");
    press(&mut app, KeyCode::Enter);
    assert!(!app.editing && app.events(9).len() == 1);
    press(&mut app, KeyCode::Esc);
    assert_eq!((names(&app).len(), app.events(9).len()), (3, 2));
    press(&mut app, KeyCode::Char('/'));
    type_in(&mut app, "300");
    assert_eq!(names(&app), ["new"], "process ids are text too");
    press(&mut app, KeyCode::Esc);
    press(&mut app, KeyCode::Char('/'));
    type_in(&mut app, "passwd");
    assert_eq!((names(&app).len(), app.events(9).len()), (0, 1));
}

#[test]
fn while_paused_nothing_changes_and_afterwards_the_rate_is_of_the_whole_time() {
    let mut app = two();
    press(&mut app, KeyCode::Char(' '));
    app.take(snapshot(14, &[(20, "busy", 200, 0, 0)], 90));
    tell(&mut app, 20, "busy", "/a");
    assert_eq!((app.lines[0].cells[2].total, app.events(9).len(), app.log.seen), (140, 0, 1));
    press(&mut app, KeyCode::Char(' '));
    assert_eq!(app.events(9).len(), 1);
    app.take(snapshot(22, &[(20, "busy", 240, 0, 0)], 90));
    assert_eq!(app.lines[0].cells[2].rate, Some(10.0));
}

#[test]
fn events_are_bounded_and_losses_are_told() {
    let mut app = two();
    for number in 0..5000 {
        tell(&mut app, number, "many", "/");
    }
    app.log.lost(&DONE, 7);
    assert_eq!((app.log.seen, app.log.lost), (5000, 7));
    assert_eq!(app.events(usize::MAX).len(), 1000);
    assert_eq!(app.events(2)[1].spec.kind, "lost");
}

#[test]
fn the_selection_stays_with_the_process() {
    let mut app = two();
    press(&mut app, KeyCode::Down);
    assert_eq!(app.lines[app.selected].who.comm, "new");
    app.take(snapshot(13, &[(20, "busy", 140, 0, 0), (300, "new", 99, 0, 0)], 0));
    assert_eq!((app.selected, app.lines[0].who.comm.as_str()), (0, "new"));
    press(&mut app, KeyCode::Enter);
    assert!(matches!(&app.page, Page::Process(who) if who.pid == "300"));
    press(&mut app, KeyCode::F(1));
    assert_eq!(app.page, Page::Help);
    press(&mut app, KeyCode::Esc);
    assert!(matches!(app.page, Page::Process(_)));
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.page, Page::Processes);
    press(&mut app, KeyCode::End);
    assert_eq!(app.selected, app.lines.len() - 1);
}

#[test]
fn a_process_has_its_rows_and_its_events_only() {
    let mut app = two();
    tell(&mut app, 20, "busy", "/a");
    tell(&mut app, 1, "idle", "/b");
    press(&mut app, KeyCode::Enter);
    let Page::Process(who) = app.page.clone() else { panic!("not there") };
    let facts = app.facts(&who);
    let deeds: Vec<_> = facts.iter().filter(|fact| fact.metric.name == DEEDS.name).collect();
    assert_eq!(deeds.len(), 2);
    assert_eq!((deeds[0].labels.as_str(), &deeds[0].value), ("result=ok", &Value::Counter(105)));
    assert_eq!(deeds[0].rate, Some(15.0));
    assert_eq!(app.events(9).len(), 1);
}

#[test]
fn q_and_control_c_quit_wherever_one_is() {
    for page in [KeyCode::Null, KeyCode::Enter, KeyCode::Char('?')] {
        let mut app = two();
        press(&mut app, page);
        press(&mut app, KeyCode::Char('q'));
        assert!(app.done);
    }
    let mut app = two();
    press(&mut app, KeyCode::Char('/'));
    input::handle(&mut app, &Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert!(app.done);
}

#[test]
fn the_mouse_sorts_by_titles_and_opens_lines() {
    let mut app = two();
    let mut terminal = ratatui::Terminal::new(ratatui::backend::TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw::draw(frame, &mut app)).unwrap();
    let click = |column, row| {
        let kind = MouseEventKind::Down(MouseButton::Left);
        Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })
    };
    let (from, _, key) = app.areas.titles[3];
    assert_eq!(key, Key::Column(1));
    let row = app.areas.title_row;
    input::handle(&mut app, &click(from + 2, row));
    assert_eq!(app.sort, Key::Column(1));
    input::handle(&mut app, &click(5, row + 2));
    assert_eq!((app.selected, &app.page), (1, &Page::Processes));
    input::handle(&mut app, &click(5, row + 2));
    assert!(matches!(app.page, Page::Process(_)));
}

#[test]
fn columns_of_a_probe_that_does_not_run_say_why() {
    let app = app();
    assert_eq!(app.columns[3].missing.as_deref(), Some("this kernel has no such hook"));
    assert!(app.columns[..3].iter().all(|shown| shown.missing.is_none()));
}
