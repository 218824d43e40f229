//! The terminal, taken over as a whole and given back as it was: at the end, on an error, and when the program panics.

use std::{
    io::{self, Stdout, Write as _},
    panic,
    sync::atomic::{AtomicBool, Ordering},
};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

/// Whether the terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal while it is ours.
pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes the terminal over. It is given back when the value goes, or before a panic is told of.
    pub(super) fn take() -> io::Result<Self> {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            told(info);
        }));
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let taken = execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, EnableBracketedPaste)
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        taken.map(Self).inspect_err(|_| give_back())
    }

    /// Draws what has changed.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        if !TAKEN.load(Ordering::SeqCst) {
            return Err(io::Error::other("a thread has failed"));
        }
        self.0.draw(draw).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Once is enough.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // Whoever had the terminal may be gone; then there is nobody to give it back to.
        let _ =
            execute!(io::stdout(), DisableBracketedPaste, DisableMouseCapture, LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread, time::Duration};

    use super::*;

    /// Run by the test below in a terminal of its own, where there is something to take.
    #[test]
    #[ignore = "takes a terminal over; the next test gives it one"]
    fn panics_on_the_screen() {
        let mut screen = Screen::take().unwrap();
        screen.draw(|frame| frame.render_widget("drawn", frame.area())).unwrap();
        panic!("this was expected");
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was_and_is_told() {
        let socket = format!("sidecar-panic-{}", std::process::id());
        let tmux = |args: &[&str]| {
            let output = Command::new("tmux").args(["-L", &socket]).args(args).env_remove("TMUX").output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let this = std::env::current_exe().unwrap();
        let script = format!(
            "before=$(stty -g); {} --ignored --exact top::screen::tests::panics_on_the_screen --nocapture; \
             test \"$before\" = \"$(stty -g)\" && echo settings as before; echo it has ended; exec sleep 600",
            this.display()
        );
        if tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "50", &script]).is_err() {
            println!("skipped: no tmux on this machine");
            return;
        }
        let (mut shown, mut modes) = (String::new(), String::new());
        for _ in 0..200 {
            shown = tmux(&["capture-pane", "-p"]).unwrap();
            modes =
                tmux(&["display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}"]).unwrap();
            if shown.contains("it has ended") {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = tmux(&["kill-server"]);
        for text in ["this was expected", "settings as before", "it has ended"] {
            assert!(shown.contains(text), "no {text:?} in:\n{shown}");
        }
        assert!(!shown.contains("drawn"), "{shown}");
        assert_eq!(modes.trim(), "0 0 1", "alternate screen, mouse, cursor");
    }
}
