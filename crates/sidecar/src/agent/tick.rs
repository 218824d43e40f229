//! The thread that owns the probes: reads them at every tick and when somebody asks, drains rings that fill up, changes
//! the filter. One thread, so that a collector needs no locks and the order of events is plain.

use std::{
    os::fd::{OwnedFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime},
};

use sidecar_common::loss::Loss;
use sidecar_core::{Collector, Kernel as _, ProbeReport, Rows, Snapshot};
use tokio::sync::oneshot;

use super::{
    own::Own,
    scope,
    wait::{Bell, Waiter},
};
use crate::{
    config::target::Resolved,
    events::{self, Hub},
    load::{News, Object},
    serve::{Ready, Source},
};

/// A snapshot younger than this answers a scrape; two scrapers do not cost twice.
const FRESH: Duration = Duration::from_millis(500);
/// A collector may take this share of the time between two of its ticks before it is called less often.
const SHARE: u32 = 10;
/// Time between two looks for events while somebody listens; a ring that is half full is looked into at once.
const LIVE: Duration = Duration::from_millis(100);
/// Time between two log lines about losses.
const TELL: Duration = Duration::from_mins(1);
/// A failing collector is left out of this many ticks at most.
const MAX_PAUSE: u32 = 16;

/// A probe that runs.
pub(super) struct Running {
    pub(super) report: ProbeReport,
    pub(super) object: Object,
    pub(super) collector: Box<dyn Collector>,
    pub(super) rings: &'static [&'static str],
    pub(super) events: events::Source,
    /// Time spent in its collector.
    pub(super) spent: Duration,
    pub(super) collects: u64,
    pub(super) failures: u64,
    /// The circuit breaker: ticks to leave out, and how many the last time.
    pub(super) pause: u32,
    pub(super) last_pause: u32,
    /// Losses the log has told of, and when.
    pub(super) told: (u64, Option<Instant>),
}

/// What the other threads may ask.
enum Command {
    Snapshot(oneshot::Sender<Arc<Snapshot>>),
    Retarget(Box<Resolved>),
    Interval(Duration),
    Stop,
}

/// The other threads' end.
pub(crate) struct Ticker {
    commands: mpsc::Sender<Command>,
    bell: Arc<Bell>,
    hub: Arc<Hub>,
    reports: Arc<Mutex<Vec<ProbeReport>>>,
    ticked: Arc<AtomicBool>,
}

impl Ticker {
    fn send(&self, command: Command) {
        // Fails only while the thread is ending, when nobody needs an answer any more.
        let _ = self.commands.send(command);
        self.bell.ring();
    }

    /// Changes the filter of every probe.
    pub(crate) fn retarget(&self, target: Resolved) {
        self.send(Command::Retarget(Box::new(target)));
    }

    /// Changes the time between ticks.
    pub(crate) fn set_interval(&self, interval: Duration) {
        self.send(Command::Interval(interval));
    }

    /// Ends the thread, which detaches everything.
    pub(crate) fn stop(&self) {
        self.send(Command::Stop);
    }

    /// Ends the streams of events, so that their clients do not hold up the agent's end.
    pub(crate) fn end_streams(&self) {
        self.hub.close();
    }
}

impl Source for Ticker {
    fn request_snapshot(&self) -> oneshot::Receiver<Arc<Snapshot>> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Snapshot(sender));
        receiver
    }

    fn ready(&self) -> Ready {
        use sidecar_core::ProbeState::{Active, Degraded, Off};
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reasons: Vec<String> = reports
            .iter()
            .filter(|report| !matches!(report.state, Active | Off))
            .map(|report| format!("probe {} is {}: {}", report.probe, report.state.as_str(), report.reason))
            .collect();
        let attached = reports.iter().all(|report| matches!(report.state, Active | Degraded | Off));
        let ticked = self.ticked.load(Ordering::Acquire);
        if !ticked {
            reasons.push("the first tick is not done yet".into());
        }
        Ready { ready: attached && ticked, reasons }
    }

    fn probes(&self) -> Vec<ProbeReport> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn events(&self) -> Arc<Hub> {
        Arc::clone(&self.hub)
    }
}

/// Everything the thread needs to begin.
pub(super) struct Setup {
    pub(super) running: Vec<Running>,
    /// Probes that do not run.
    pub(super) idle: Vec<ProbeReport>,
    pub(super) own: Own,
    pub(super) interval: Duration,
    pub(super) started: SystemTime,
    /// Keeps the kernel measuring run times, until the moment given.
    pub(super) stats: Option<(OwnedFd, Option<Duration>)>,
}

/// Starts the thread.
pub(super) fn spawn(setup: Setup) -> std::io::Result<(Arc<Ticker>, std::thread::JoinHandle<()>)> {
    let (commands, inbox) = mpsc::channel();
    let rings = setup.running.iter().flat_map(|running| running.object.ring_fds());
    let (waiter, bell) = Waiter::new(rings)?;
    let bell = Arc::new(bell);
    let offered = setup.running.iter().flat_map(|running| running.events.events()).copied().collect();
    let ringer = Arc::clone(&bell);
    let hub = Arc::new(Hub::new(offered, move || ringer.ring()));
    let reports =
        setup.running.iter().map(|running| running.report.clone()).chain(setup.idle.iter().cloned());
    let reports = Arc::new(Mutex::new(reports.collect::<Vec<_>>()));
    let first_done = Arc::new(AtomicBool::new(false));
    let ticker = Arc::new(Ticker {
        commands,
        bell,
        hub: Arc::clone(&hub),
        reports: Arc::clone(&reports),
        ticked: Arc::clone(&first_done),
    });
    let state = State {
        inbox,
        waiter,
        hub,
        heard: 0,
        ticked: first_done,
        reports,
        last: None,
        measured: Duration::ZERO,
        begun: Instant::now(),
        setup,
    };
    let thread = std::thread::Builder::new().name("tick".into()).spawn(move || state.run())?;
    Ok((ticker, thread))
}

struct State {
    setup: Setup,
    inbox: mpsc::Receiver<Command>,
    waiter: Waiter,
    hub: Arc<Hub>,
    /// Version of who listens to what that the probes are switched to.
    heard: u64,
    ticked: Arc<AtomicBool>,
    /// What the other threads see.
    reports: Arc<Mutex<Vec<ProbeReport>>>,
    last: Option<(Instant, Arc<Snapshot>)>,
    measured: Duration,
    begun: Instant,
}

impl State {
    fn run(mut self) {
        let mut next = Instant::now();
        loop {
            if Instant::now() >= next {
                self.tick();
                next = Instant::now() + self.setup.interval;
            }
            let mut nap = next.saturating_duration_since(Instant::now());
            if self.setup.running.iter().any(|running| running.events.is_on()) {
                nap = nap.min(LIVE);
            }
            let readable = self.waiter.wait(nap);
            self.drain(&readable);
            self.listen();
            while let Ok(command) = self.inbox.try_recv() {
                match command {
                    Command::Snapshot(reply) => {
                        // Whoever asked may have gone away meanwhile.
                        let _ = reply.send(self.fresh());
                    }
                    Command::Retarget(target) => self.retarget(&target),
                    Command::Interval(interval) => {
                        self.setup.interval = interval;
                        next = next.min(Instant::now() + interval);
                    }
                    Command::Stop => return,
                }
            }
        }
    }

    fn drain(&mut self, readable: &[RawFd]) {
        for running in &mut self.setup.running {
            if !running.rings.is_empty() && running.object.ring_fds().any(|fd| readable.contains(&fd)) {
                let begun = Instant::now();
                if let Err(error) = running.collector.drain(&mut running.object) {
                    running.failures += 1;
                    tracing::warn!(probe = running.report.probe, "reading its ring buffer failed: {error}");
                }
                running.spent += begun.elapsed();
            }
        }
    }

    /// Switches the probes to what somebody listens to and hands over what they tell.
    fn listen(&mut self) {
        let version = self.hub.version();
        let changed = version != self.heard;
        for running in &mut self.setup.running {
            if !changed && !running.events.is_on() || running.events.events().is_empty() {
                continue;
            }
            let begun = Instant::now();
            let wanted = self.hub.wanted(running.events.events());
            let mut hub = self.hub.receive();
            let (object, collector) = (&mut running.object, &mut *running.collector);
            let read = if changed {
                running.events.switch(wanted, object, collector, &mut hub)
            } else {
                running.events.pump(object, collector, &mut hub)
            };
            drop(hub);
            if let Err(error) = read {
                running.failures += 1;
                tracing::warn!(probe = running.report.probe, "reading its events failed: {error}");
            }
            running.spent += begun.elapsed();
        }
        if changed {
            self.heard = version;
            self.hub.switched(version);
        }
    }

    fn fresh(&mut self) -> Arc<Snapshot> {
        match &self.last {
            Some((taken, snapshot)) if taken.elapsed() < FRESH => Arc::clone(snapshot),
            _ => self.tick(),
        }
    }

    fn tick(&mut self) -> Arc<Snapshot> {
        self.measure();
        // As old as its oldest value: who asks while it is made may know of later things.
        let begun = Instant::now();
        let mut rows = Rows::default();
        for running in &mut self.setup.running {
            running.collect(&mut rows, self.setup.interval);
            if running.hear() {
                let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
                reports
                    .iter_mut()
                    .filter(|report| report.probe == running.report.probe)
                    .for_each(|report| report.clone_from(&running.report));
            }
        }
        self.setup.own.rows(&self.setup.running, &self.setup.idle, self.measured, &mut rows);
        self.hub.collect(&mut rows);
        let snapshot = Arc::new(rows.finish(SystemTime::now(), self.setup.started));
        self.last = Some((begun, Arc::clone(&snapshot)));
        self.ticked.store(true, Ordering::Release);
        snapshot
    }

    /// Keeps count of how long the kernel has measured, and ends it in time.
    fn measure(&mut self) {
        if let Some((_, limit)) = &self.setup.stats {
            self.measured = self.begun.elapsed();
            if limit.is_some_and(|limit| self.measured >= limit) {
                self.setup.stats = None;
            }
        }
    }

    fn retarget(&mut self, target: &Resolved) {
        for running in &mut self.setup.running {
            let changed = scope::apply(&running.object, target)
                .map_err(sidecar_core::CollectError::from)
                .and_then(|()| running.collector.rescoped(&mut running.object, target.scope.flags != 0));
            if let Err(error) = changed {
                tracing::error!(probe = running.report.probe, "the new filter could not be set: {error}");
            }
        }
    }
}

impl Running {
    /// One line a minute at most, with what has been lost since the last one.
    fn tell_losses(&mut self) {
        let counts = Loss::ALL.iter().filter(|(loss, _)| *loss != Loss::Spilled);
        let lost: u64 =
            counts.filter_map(|(loss, _)| self.object.per_cpu_sum("LOSS", *loss as u32).ok()).sum();
        let (told, at) = self.told;
        if lost > told && at.is_none_or(|at| at.elapsed() >= TELL) {
            self.told = (lost, Some(Instant::now()));
            tracing::warn!(
                probe = self.report.probe,
                lost = lost - told,
                "facts were lost: sidecar_lost_total says why, the probe's README what is then missing"
            );
        }
    }

    /// Takes over what has changed at what the probe follows; whether anything has.
    fn hear(&mut self) -> bool {
        let Some(News { hooks, state, reason, advice }) = self.object.news() else { return false };
        self.report = ProbeReport { probe: self.report.probe, state, reason, advice, hooks };
        true
    }

    fn collect(&mut self, rows: &mut Rows, interval: Duration) {
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        let begun = Instant::now();
        let result = self.collector.collect(&mut self.object, rows);
        let took = begun.elapsed();
        self.tell_losses();
        self.spent += took;
        self.collects += 1;
        match result {
            Ok(()) if took > interval / SHARE => {
                self.last_pause = 0;
                tracing::warn!(probe = self.report.probe, ?took, "reading it takes long for this interval");
            }
            Ok(()) => self.last_pause = 0,
            Err(error) => {
                self.failures += 1;
                self.last_pause = (self.last_pause * 2).clamp(1, MAX_PAUSE);
                self.pause = self.last_pause;
                tracing::error!(
                    probe = self.report.probe,
                    pause_ticks = self.pause,
                    "reading it failed: {error}"
                );
            }
        }
    }
}
