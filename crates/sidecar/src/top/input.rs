//! What keys and the mouse do.

use ratatui::crossterm::event::{
    Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};

use super::{
    app::{App, Page},
    processes::Key,
};

/// Lines a turn of the wheel goes.
const WHEEL: isize = 3;
/// More than this nobody types into a filter.
const MOST: usize = 64;

/// The keys and what they do, as the help shows them.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("Up Down PgUp PgDn Home End", "choose a process, or scroll"),
    ("Enter, click twice", "everything about the chosen process"),
    ("Esc", "back; no filter"),
    ("< > or Left Right, click", "sort by the column beside, or by this one"),
    ("r", "turn the order round"),
    ("t", "totals, or what is added in a second"),
    ("/", "only processes and events with this text in them"),
    ("Space", "pause: look at this moment; nothing is lost from the totals"),
    ("? F1", "this help"),
    ("q Ctrl-C", "quit"),
];

/// Does what the user wants.
pub(super) fn handle(app: &mut App, event: &Event) {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => press(app, *key),
        Event::Mouse(mouse) => point(app, *mouse),
        Event::Paste(text) if app.editing => text.chars().for_each(|c| type_in(app, c)),
        _ => {}
    }
}

fn press(app: &mut App, key: KeyEvent) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && matches!(key.code, KeyCode::Char('c' | 'C')) {
        app.done = true;
    } else if app.editing {
        edit(app, key.code);
    } else if !control {
        command(app, key.code);
    }
}

fn edit(app: &mut App, code: KeyCode) {
    match code {
        KeyCode::Enter => app.editing = false,
        KeyCode::Esc => {
            app.editing = false;
            app.set_filter(String::new());
        }
        KeyCode::Backspace => {
            let mut filter = app.filter.clone();
            filter.pop();
            app.set_filter(filter);
        }
        KeyCode::Char(c) => type_in(app, c),
        _ => {}
    }
}

fn type_in(app: &mut App, c: char) {
    if !c.is_control() && app.filter.chars().count() < MOST {
        let mut filter = app.filter.clone();
        filter.push(c);
        app.set_filter(filter);
    }
}

fn command(app: &mut App, code: KeyCode) {
    let page = isize::try_from(app.areas.body.height.max(2) - 1).unwrap_or(1);
    match code {
        KeyCode::Char('q') => app.done = true,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => app.help(),
        KeyCode::Esc => app.back(),
        KeyCode::Enter => app.enter(),
        KeyCode::Up | KeyCode::Char('k') => app.go(-1),
        KeyCode::Down | KeyCode::Char('j') => app.go(1),
        KeyCode::PageUp => app.go(-page),
        KeyCode::PageDown => app.go(page),
        KeyCode::Home => app.go(isize::MIN),
        KeyCode::End => app.go(isize::MAX),
        KeyCode::Left | KeyCode::Char('<' | ',') => app.sort_beside(-1),
        KeyCode::Right | KeyCode::Char('>' | '.') => app.sort_beside(1),
        KeyCode::Char('r') => app.sort_by(app.sort),
        KeyCode::Char('t') => {
            app.totals = !app.totals;
            app.arrange();
        }
        KeyCode::Char('/') => {
            app.page = Page::Processes;
            app.editing = true;
        }
        KeyCode::Char(' ' | 'p') => app.pause(),
        _ => {}
    }
}

fn point(app: &mut App, mouse: MouseEvent) {
    match mouse.kind {
        MouseEventKind::ScrollDown => app.go(WHEEL),
        MouseEventKind::ScrollUp => app.go(-WHEEL),
        MouseEventKind::Down(MouseButton::Left) if app.page == Page::Processes => click(app, mouse),
        _ => {}
    }
}

fn click(app: &mut App, mouse: MouseEvent) {
    let title = |(from, to, key): &(u16, u16, Key)| (*from..*to).contains(&mouse.column).then_some(*key);
    if mouse.row == app.areas.title_row {
        if let Some(key) = app.areas.titles.iter().find_map(title) {
            app.sort_by(key);
        }
    } else if app.areas.body.contains((mouse.column, mouse.row).into()) {
        let at = app.areas.offset + usize::from(mouse.row - app.areas.body.y);
        // The second click on a line opens it.
        if at == app.selected && at < app.lines.len() {
            app.enter();
        } else {
            app.select(at);
        }
    }
}
