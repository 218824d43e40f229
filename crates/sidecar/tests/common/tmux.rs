//! A real terminal: a program in a window of tmux, which is told keys and asked what it shows.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{is_slow, program, run};

/// A server of its own with one window. Ends with the value.
pub(crate) struct Tmux {
    socket: String,
}

impl Tmux {
    /// Runs a command of the shell in a window of this size; none if this machine has no tmux.
    pub(crate) fn start(width: u16, height: u16, command: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        program("tmux")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tmux = Self { socket: format!("sidecar-test-{}-{number}", std::process::id()) };
        let (width, height) = (width.to_string(), height.to_string());
        tmux.run(&["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, command]);
        Some(tmux)
    }

    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(program("tmux").unwrap());
        // What runs in the window inherits what the first command has.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIDECAR_"))
        {
            command.env_remove(name);
        }
        command.args(["-L", &self.socket]).args(args).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        run(&mut command).unwrap()
    }

    /// Presses keys, by tmux's names for them.
    pub(crate) fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// Types text as it is.
    pub(crate) fn type_in(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
    }

    /// The lines of the screen.
    pub(crate) fn screen(&self) -> Vec<String> {
        self.run(&["capture-pane", "-p"]).lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits for a screen of which this is true.
    pub(crate) fn when(&self, what: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return screen;
            }
            let limit = Duration::from_secs(if is_slow() { 180 } else { 30 });
            assert!(begun.elapsed() < limit, "never {what}:\n{}", screen.join("\n"));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for a text anywhere on the screen.
    pub(crate) fn shows(&self, text: &str) -> Vec<String> {
        self.when(text, |screen| screen.iter().any(|line| line.contains(text)))
    }

    /// Changes the size of the window.
    pub(crate) fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        self.run(&["resize-window", "-x", &width, "-y", &height]);
    }

    /// Whether the program uses the alternate screen, hears the mouse, shows the cursor.
    pub(crate) fn modes(&self) -> String {
        let format = "#{alternate_on} #{mouse_any_flag} #{cursor_flag}";
        self.run(&["display-message", "-p", format]).trim().to_owned()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the screen:\n{}", self.screen().join("\n"));
        }
        self.run(&["kill-server"]);
    }
}
