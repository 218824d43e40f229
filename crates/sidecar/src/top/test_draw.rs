//! The screen, character by character.

use std::time::SystemTime;

use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};

use super::{
    app::App,
    draw::{bars, draw, exact, number},
    test::{app, press, snapshot, tell, two},
};
use crate::events::text::clock;

fn screen(app: &mut App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    // Hours and minutes are those of this machine's time zone.
    let begin = clock(SystemTime::UNIX_EPOCH)[..6].to_owned();
    let row = |y| {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect();
        line.replace(&begin, "00:00:")
    };
    (0..height).map(|y| row(y).trim_end().to_owned()).collect()
}

fn expect(shown: &[String], file: &str, expected: &str) {
    if std::env::var_os("SIDECAR_WRITE_SCREENS").is_some() {
        let path = format!("{}/src/top/screens/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, shown.join("\n") + "\n").unwrap();
        return;
    }
    assert_eq!(shown.join("\n") + "\n", expected, "{file}");
}

/// An app with something of everything.
fn full() -> App {
    let mut app = two();
    app.take(snapshot(14, &[(1, "idle", 8, 0, 0), (20, "busy", 2_000_140, 2_501_500, 500)], 110));
    tell(&mut app, 20, "busy", "/usr/lib/one");
    tell(&mut app, 300, "ne\x1b[2Jw", "/usr/lib/two");
    app
}

macro_rules! screens {
    ($($name:ident $file:literal $width:literal $height:literal [$($key:expr),*];)+) => {
        $(#[test]
        fn $name() {
            let mut app = full();
            // A page knows how far it scrolls once it was drawn.
            screen(&mut app, $width, $height);
            for key in [$($key),*] as [KeyCode; _] {
                press(&mut app, key);
            }
            let shown = screen(&mut app, $width, $height);
            expect(&shown, $file, include_str!(concat!("screens/", $file)));
        })+
    };
}

screens! {
    the_overview_fits_into_80_by_24 "overview-80x24.txt" 80 24 [];
    the_overview_uses_200_by_50 "overview-200x50.txt" 200 50 [];
    the_help_fits_into_80_by_24 "help-80x24.txt" 80 24 [KeyCode::Char('?')];
    a_process_fits_into_80_by_24 "process-80x24.txt" 80 24 [KeyCode::Enter];
    totals_a_filter_and_a_pause_are_told "totals-80x24.txt" 80 24 [
        KeyCode::Char('t'), KeyCode::Char('/'), KeyCode::Char('u'), KeyCode::Enter, KeyCode::Char(' ')
    ];
}

#[test]
fn no_size_is_too_small() {
    for (width, height) in [(1, 1), (2, 3), (10, 2), (20, 5), (40, 10), (79, 11), (81, 15), (500, 200)] {
        for page in [KeyCode::Null, KeyCode::Char('?'), KeyCode::Enter, KeyCode::Char('/')] {
            let mut app = full();
            press(&mut app, page);
            screen(&mut app, width, height);
            for key in [KeyCode::PageDown, KeyCode::End, KeyCode::Down, KeyCode::PageUp] {
                press(&mut app, key);
                screen(&mut app, width, height);
            }
        }
    }
}

#[test]
fn the_selected_process_is_always_in_view() {
    let many: Vec<(u32, String)> = (1..200).map(|pid| (pid, format!("p{pid}."))).collect();
    let processes: Vec<_> = many.iter().map(|(pid, name)| (*pid, name.as_str(), 8, 0, 0)).collect();
    let mut app = app();
    app.take(snapshot(10, &processes, 0));
    for key in
        [KeyCode::Down, KeyCode::PageDown, KeyCode::PageDown, KeyCode::End, KeyCode::PageUp, KeyCode::Home]
    {
        press(&mut app, key);
        let shown = screen(&mut app, 80, 24);
        let name = &app.lines[app.selected].who.comm;
        assert!(shown.iter().any(|line| line.contains(name.as_str())), "{key:?}: {shown:#?}");
    }
    assert_eq!(app.selected, 0);
}

#[test]
fn nothing_a_process_is_called_reaches_the_terminal_as_a_command() {
    let mut app = full();
    app.take(snapshot(15, &[(7, "\x1b]0;x\x07", 8, 0, 0)], 0));
    let shown = screen(&mut app, 80, 24).concat();
    assert!(shown.chars().all(|c| !c.is_control()), "{shown:?}");
}

#[test]
fn numbers_are_short() {
    let shown = [0.0, 0.04, 0.5, 9.94, 9.96, 123.4, 999_999.0, 1_500_000.0, 2.5e9].map(number);
    assert_eq!(shown, ["0", "0", "0.5", "9.9", "10", "123", "999999", "1.5M", "2.5G"]);
    assert_eq!((exact(99_999_999), exact(123_456_789)), ("99999999".into(), "123.5M".into()));
}

#[test]
fn the_highest_point_has_the_highest_bar_and_nothing_has_none() {
    assert_eq!(bars(&[0.0, 1.0, 4.0, 8.0]), " ▁▄█");
    assert_eq!(bars(&[0.0, 0.0]), "  ");
}
