//! `sidecar trace`: events of this machine as they happen, as a table or as lines of JSON. Runs the probes it needs in
//! its own process; a running agent is not needed and not disturbed.

mod output;
mod table;

use std::{
    env,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use sidecar_core::{Event, EventSpec, Listener, Probe, ProbeReport, Rows};
use sidecar_probes::PROBES;

use self::{output::Output, table::Table};
use crate::{
    agent::alone::{Alone, is_stopped, stop_on_signals},
    cli::{CommonArgs, Exit, TraceArgs, TraceFormat},
    config, events,
};

/// Size of the rings: enough for a burst of tens of thousands of events.
const RING_BYTES: u32 = 8 << 20;
/// Time between two looks for events; a ring that is half full is looked into at once.
const LIVE: Duration = Duration::from_millis(100);
/// Time between two lines about the progress: on a terminal the line is overwritten.
const PROGRESS: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

/// Runs the command to its end.
pub(crate) fn run(common: &CommonArgs, args: &TraceArgs) -> Exit {
    match try_run(common, args) {
        Ok(()) => Exit::Ok,
        Err((exit, message)) => {
            eprintln!("sidecar: {message}");
            exit
        }
    }
}

fn try_run(common: &CommonArgs, args: &TraceArgs) -> Result<(), (Exit, String)> {
    let failed = |error: io::Error| (Exit::Failure, error.to_string());
    let config =
        config::load(common, env::vars_os(), PROBES).map_err(|errors| (Exit::Usage, errors.to_string()))?;
    let probes: Vec<&'static Probe> =
        PROBES.iter().filter(|probe| probe.events.iter().any(|spec| args.wants(spec))).copied().collect();
    let output = Output::open(args.output.as_deref()).map_err(failed)?;
    stop_on_signals();
    let mut alone = Alone::start(&config, &probes, RING_BYTES)?;
    for (probe, running) in probes.iter().zip(&alone.probes) {
        tell_missing(probe, &running.report);
    }
    let types: Vec<_> =
        probes.iter().flat_map(|probe| probe.events).filter(|spec| args.wants(spec)).copied().collect();
    let mut printer = Printer::new(args, &types, output);
    let ended = follow(&mut alone, args, config.metrics.interval, &mut printer);
    match ended.and_then(|()| printer.finish()) {
        // Whoever read has seen enough (`| head`).
        Err(Problem::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        Err(Problem::Write(error)) => return Err((Exit::Failure, format!("{}: {error}", printer.output))),
        Err(Problem::Read(error)) => return Err((Exit::Failure, error)),
        Ok(()) => {}
    }
    eprintln!("{}", printer.summary());
    Ok(())
}

/// Says what will not be seen on this kernel.
fn tell_missing(probe: &Probe, report: &ProbeReport) {
    for hook in report.hooks.iter().filter(|hook| hook.used.is_none()) {
        let missing =
            probe.hooks.iter().find(|known| known.name == hook.hook).map_or("", |known| known.missing);
        eprintln!("sidecar: {missing} (`sidecar doctor` says why)");
    }
}

/// Why it cannot go on.
enum Problem {
    Read(String),
    Write(io::Error),
}

/// Shows events until the user, the time or the limit says that it is enough.
fn follow(
    alone: &mut Alone,
    args: &TraceArgs,
    interval: Duration,
    printer: &mut Printer,
) -> Result<(), Problem> {
    let failed = |error: sidecar_core::CollectError| Problem::Read(error.to_string());
    let begun = Instant::now();
    printer.begun = begun;
    let mut next_tick = begun + interval;
    alone.switch(|spec| args.wants(spec), printer).map_err(failed)?;
    printer.head();
    loop {
        printer.flush()?;
        let left = args.duration.map_or(LIVE, |duration| duration.saturating_sub(begun.elapsed()));
        if is_stopped() || left.is_zero() || printer.is_done() {
            break;
        }
        alone.wait(left.min(LIVE));
        alone.pump(printer).map_err(failed)?;
        printer.progress();
        if Instant::now() >= next_tick {
            // Probes put their maps in order then; the numbers are not shown.
            alone.tick(&mut Rows::default()).map_err(failed)?;
            next_tick += interval;
        }
    }
    alone.switch(|_| false, printer).map_err(failed)?;
    printer.flush()
}

/// Turns events into text and counts them.
struct Printer {
    output: Output,
    table: Option<Table>,
    limit: u64,
    shown: u64,
    lost: u64,
    begun: Instant,
    /// When to say how far it is, if at all.
    progress: Option<(Instant, Duration)>,
    failed: Option<io::Error>,
}

impl Printer {
    fn new(args: &TraceArgs, types: &[&'static EventSpec], output: Output) -> Self {
        let is_terminal = args.output.is_none() && io::stdout().is_terminal();
        let no_color = args.no_color || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let table = (args.format == TraceFormat::Table)
            .then(|| Table::new(types, is_terminal, is_terminal && !no_color));
        let every = PROGRESS[usize::from(!io::stderr().is_terminal())];
        let now = Instant::now();
        Self {
            table,
            limit: args.limit.unwrap_or(u64::MAX),
            shown: 0,
            lost: 0,
            begun: now,
            progress: args.output.is_some().then_some((now + every, every)),
            failed: None,
            output,
        }
    }

    fn is_done(&self) -> bool {
        self.shown >= self.limit
    }

    fn head(&mut self) {
        if let Some(table) = &mut self.table {
            self.output.add(table.head().as_bytes());
        }
    }

    /// Writes what has been put together so far.
    fn flush(&mut self) -> Result<(), Problem> {
        if let Some(error) = self.failed.take() {
            return Err(Problem::Write(error));
        }
        self.output.flush().map_err(Problem::Write)
    }

    fn finish(&mut self) -> Result<(), Problem> {
        self.flush()?;
        self.output.close().map_err(Problem::Write)
    }

    fn line(&mut self, event: &Event) {
        match &mut self.table {
            Some(table) => self.output.add(table.line(event).as_bytes()),
            None => self.output.add(&events::line(event)),
        }
        // A burst must not pile up here while it is read from the kernel.
        if self.output.is_full()
            && let Err(error) = self.output.flush()
        {
            self.failed = Some(error);
        }
    }

    fn progress(&mut self) {
        let Some((at, every)) = self.progress else { return };
        if Instant::now() >= at {
            self.progress = Some((at + every, every));
            if every == PROGRESS[0] {
                eprint!("\r\x1b[K{}", self.summary());
            } else {
                eprintln!("{}", self.summary());
            }
        }
    }

    fn summary(&self) -> String {
        let start =
            if self.progress.is_some_and(|(_, every)| every == PROGRESS[0]) { "\r\x1b[K" } else { "" };
        let unwritten = match self.output.unwritten() {
            0 => String::new(),
            bytes => format!(", {bytes} bytes not written because nobody read them"),
        };
        let seconds = self.begun.elapsed().as_secs_f64();
        format!("{start}{} events in {seconds:.1} s, {} lost{unwritten}", self.shown, self.lost)
    }
}

impl Listener for Printer {
    fn event(&mut self, event: Event) {
        if !self.is_done() && self.failed.is_none() {
            self.shown += 1;
            self.line(&event);
        }
    }

    fn lost(&mut self, spec: &'static EventSpec, count: u64) {
        self.lost += count;
        if !self.is_done() && self.failed.is_none() {
            self.line(&events::lost(spec.kind, count));
        }
    }
}
