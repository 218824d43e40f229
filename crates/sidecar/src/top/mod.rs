//! `sidecar top`: what the processes of this machine do, on a full screen, from probes in its own process or from a
//! running agent.
//!
//! ```text
//! own, remote → Snapshot, Event → app (what is looked at) → draw → screen
//!                        keys, mouse → input ↗
//! ```

mod app;
mod charts;
mod detail;
mod draw;
mod draw_pages;
mod input;
mod log;
mod own;
mod parse;
mod processes;
mod remote;
mod screen;
#[cfg(test)]
mod test;
#[cfg(test)]
mod test_draw;

use std::{
    env,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use ratatui::crossterm::event;
use sidecar_probes::PROBES;

use self::{app::App, own::Own, remote::Remote, screen::Screen};
use crate::{
    agent::alone::{is_stopped, stop_on_signals},
    cli::{CommonArgs, Exit, TopArgs},
    config,
};

/// Time between two looks for events and signals.
const LIVE: Duration = Duration::from_millis(100);

/// Where the numbers come from.
trait Feed {
    /// Hands over the events there are; called about ten times a second.
    fn pump(&mut self, app: &mut App);
    /// Hands over a snapshot; called at each interval.
    fn tick(&mut self, app: &mut App);
}

/// Runs the command to its end.
pub(crate) fn run(common: &CommonArgs, args: &TopArgs) -> Exit {
    match try_run(common, args) {
        Ok(()) => Exit::Ok,
        Err((exit, message)) => {
            eprintln!("sidecar: {message}");
            exit
        }
    }
}

fn try_run(common: &CommonArgs, args: &TopArgs) -> Result<(), (Exit, String)> {
    let usage = |message: String| (Exit::Usage, message);
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(usage(no_terminal()));
    }
    let (common, interval) = common.live_interval().map_err(usage)?;
    let config = config::load(&common, env::vars_os(), PROBES).map_err(|errors| usage(errors.to_string()))?;
    stop_on_signals();
    let shown: Vec<_> = PROBES.iter().filter(|probe| own::is_shown(probe)).copied().collect();
    let (mut feed, mut app): (Box<dyn Feed>, App) = if let Some(url) = &args.connect {
        let remote = Remote::connect(url, interval).map_err(|message| (Exit::Failure, message))?;
        let app = App::new(remote.address.clone(), interval, &shown, |probe| remote.state(probe));
        (Box::new(remote), app)
    } else {
        eprintln!("sidecar: loading probes …");
        let own = Own::start(config)?;
        let app = App::new("this machine".to_owned(), interval, &shown, |probe| own.state(probe));
        (Box::new(own), app)
    };
    app.colours = !args.no_color && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    follow(&mut *feed, &mut app).map_err(|error| (Exit::Failure, format!("the terminal: {error}")))
}

/// What to use instead.
fn no_terminal() -> String {
    let noun = PROBES.iter().flat_map(|probe| probe.counts).map(|spec| spec.noun).next().unwrap_or_default();
    let kind = PROBES.iter().flat_map(|probe| probe.events).map(|spec| spec.kind).next().unwrap_or_default();
    format!(
        "top needs a terminal as standard input and output; for files and pipes there are `sidecar count {noun}` and \
         `sidecar trace {kind}`"
    )
}

/// Shows the numbers until the user has had enough.
fn follow(feed: &mut dyn Feed, app: &mut App) -> io::Result<()> {
    let mut screen = Screen::take()?;
    let mut next = Instant::now();
    while !app.done && !is_stopped() {
        if Instant::now() >= next {
            feed.tick(app);
            next = Instant::now() + app.interval;
        }
        feed.pump(app);
        screen.draw(|frame| draw::draw(frame, app))?;
        let mut patience = LIVE.min(next.saturating_duration_since(Instant::now()));
        // All that waits, then one picture of what has become of it.
        while !app.done && event::poll(patience)? {
            input::handle(app, &event::read()?);
            patience = Duration::ZERO;
        }
    }
    Ok(())
}
