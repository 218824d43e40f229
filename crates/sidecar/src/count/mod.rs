//! `sidecar count`: how often something happens, live and as a summary at the end like that of `strace -c`. Runs the one
//! probe it needs in its own process; a running agent is not needed and not disturbed.

mod show;
mod tally;
#[cfg(test)]
mod test;

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant, SystemTime},
};

use sidecar_common::loss::Loss;
use sidecar_core::{CountSpec, Kernel as _, Rows, Snapshot};
use sidecar_probes::PROBES;

use self::{show::Show, tally::Tally};
use crate::{
    agent::alone::{Alone, is_stopped, stop_on_signals},
    cli::{CommonArgs, CountArgs, Exit},
    config,
};

/// Events are not asked for: as small as a ring can be.
const RING_BYTES: u32 = 64 << 10;

type Failure = (Exit, String);

/// Runs the command to its end.
pub(crate) fn run(common: &CommonArgs, args: &CountArgs) -> Exit {
    match try_run(common, args) {
        Ok(()) => Exit::Ok,
        Err((exit, message)) => {
            eprintln!("sidecar: {message}");
            exit
        }
    }
}

fn try_run(common: &CommonArgs, args: &CountArgs) -> Result<(), Failure> {
    let usage = |message: String| (Exit::Usage, message);
    let (probe, spec) = args.spec().ok_or_else(|| usage(format!("nothing counts {}", args.noun)))?;
    let by = args.group(spec).map_err(usage)?;
    let (common, interval) = common.live_interval().map_err(usage)?;
    let mut config =
        config::load(&common, env::vars_os(), PROBES).map_err(|errors| usage(errors.to_string()))?;
    // Nothing else needs to be told apart.
    config.metrics.labels = vec![by.to_owned()];
    stop_on_signals();
    let mut alone = Alone::start(&config, &[probe], RING_BYTES)?;
    let show = Show::new(args, spec, by, io::stdout().is_terminal());
    match follow(&mut alone, args, spec, interval, &show) {
        // Whoever read has seen enough (`| head`).
        Err(Problem::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        Err(Problem::Write(error)) => return Err((Exit::Failure, format!("standard output: {error}"))),
        Err(Problem::Read(error)) => return Err((Exit::Failure, error)),
        Ok(()) => {}
    }
    tell_losses(&alone, spec);
    Ok(())
}

/// Why it cannot go on.
enum Problem {
    Read(String),
    Write(io::Error),
}

/// Shows counts until the user or the time says that it is enough, then all of them.
fn follow(
    alone: &mut Alone,
    args: &CountArgs,
    spec: &'static CountSpec,
    interval: Duration,
    show: &Show,
) -> Result<(), Problem> {
    let begun = Instant::now();
    let mut shown = (begun, Tally::default());
    let mut next = begun + interval;
    loop {
        let now = Instant::now();
        let left = args.duration.map_or(interval, |duration| duration.saturating_sub(begun.elapsed()));
        if is_stopped() || left.is_zero() {
            break;
        }
        if now >= next {
            let tally = show.tally(&read(alone)?);
            let text = show.interval(&tally.since(&shown.1), now - shown.0, begun.elapsed());
            write(&text)?;
            shown = (now, tally);
            next = now + interval;
        }
        // A signal ends the sleep.
        alone.wait(left.min(next.saturating_duration_since(Instant::now())));
    }
    let all = show.tally(&read(alone)?);
    tracing::debug!(noun = spec.noun, "done");
    write(&show.summary(&all, begun.elapsed()))
}

fn read(alone: &mut Alone) -> Result<Snapshot, Problem> {
    let mut rows = Rows::default();
    alone.tick(&mut rows).map_err(|error| Problem::Read(error.to_string()))?;
    Ok(rows.finish(SystemTime::now(), SystemTime::now()))
}

fn write(text: &str) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Problem::Write)
}

/// Says what is missing from the counts, if anything is.
fn tell_losses(alone: &Alone, spec: &CountSpec) {
    for probe in &alone.probes {
        let left_out: u64 = probe.object.run_stats().iter().map(|(_, stats)| stats.missed).sum();
        let reasons = Loss::ALL.iter().filter(|(loss, _)| *loss != Loss::Spilled);
        let lost: u64 =
            reasons.filter_map(|(loss, _)| probe.object.per_cpu_sum("LOSS", *loss as u32).ok()).sum();
        if left_out > 0 {
            eprintln!(
                "sidecar: up to {left_out} {} are missing: the kernel left out runs of our programs while they \
                 were running already",
                spec.noun
            );
        }
        if lost > 0 {
            eprintln!("sidecar: {lost} {} are missing: a map or ring was full", spec.noun);
        }
    }
}
