//! A few probes by themselves in a process of their own, for commands that show something live: no server, no thread,
//! and nothing loaded that is not asked for.

use std::{
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sidecar_core::{CollectError, Collector, Listener, Probe, ProbeReport, Rows, probe::Names};

use super::{Failure, frugal, no_kernel, note, privilege, scope, start_of, wait::Waiter};
use crate::{
    cli::Exit,
    config::{
        Config,
        target::{self, Host},
    },
    enrich::CgroupNames,
    events,
    load::{self, Loaded, Machine, Object},
};

/// Set by SIGINT and SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

/// Whether the user has had enough.
pub(crate) fn is_stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// From here on SIGINT and SIGTERM only say that it is time to end. What the process waits in is interrupted.
pub(crate) fn stop_on_signals() {
    // SAFETY: a handler that does nothing but store a flag; a zeroed `sigaction` is one without flags and mask.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = stop as *const () as usize;
        for signal in [libc::SIGINT, libc::SIGTERM] {
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// A probe that runs.
pub(crate) struct Probed {
    pub(crate) report: ProbeReport,
    pub(crate) object: Object,
    pub(crate) collector: Box<dyn Collector>,
    events: events::Source,
}

/// All of them.
pub(crate) struct Alone {
    pub(crate) probes: Vec<Probed>,
    /// Those that cannot run here, and why.
    pub(crate) refused: Vec<ProbeReport>,
    waiter: Waiter,
}

/// Why a probe does not run, in a sentence.
pub(crate) fn refusal(report: &ProbeReport) -> String {
    let ProbeReport { probe, reason, advice, .. } = report;
    let advice = if advice.is_empty() { String::new() } else { format!("; {advice}") };
    format!("probe {probe}: {} ({reason}){advice}", report.state.as_str())
}

impl Alone {
    /// Loads and attaches these probes under the configuration's filter, and gives up what that took. `event_bytes` is
    /// the size of each ring of events. All of them must run.
    pub(crate) fn start(
        config: &Config,
        probes: &[&'static Probe],
        event_bytes: u32,
    ) -> Result<Self, (Exit, String)> {
        let alone = Self::start_possible(config, probes, event_bytes)?;
        match alone.refused.first() {
            None => Ok(alone),
            Some(report) => Err((no_kernel(), refusal(report))),
        }
    }

    /// The same, but a probe that cannot run costs only what it would tell.
    pub(crate) fn start_possible(
        config: &Config,
        probes: &[&'static Probe],
        event_bytes: u32,
    ) -> Result<Self, (Exit, String)> {
        Self::try_start(config, probes, event_bytes).map_err(|Failure(exit, message)| (exit, message))
    }

    fn try_start(config: &Config, probes: &[&'static Probe], event_bytes: u32) -> Result<Self, Failure> {
        frugal();
        let wanted = target::resolve(config, &Host::default(), 1)
            .map_err(|errors| Failure(Exit::Usage, errors.to_string()))?;
        note(&wanted);
        if let Some(missing) = privilege::missing() {
            return Err(Failure(Exit::Privilege, missing));
        }
        let machine = Machine::look().map_err(|error| Failure(no_kernel(), error))?;
        let names: Arc<dyn Names> = Arc::new(CgroupNames::new(target::cgroup_mount(&Host::default())));
        let (mut running, mut refused) = (Vec::new(), Vec::new());
        for &probe in probes {
            let start = sidecar_core::Start { event_bytes, ..start_of(config, probe, &names) };
            let Loaded { report, object } =
                load::load_scoped(&machine, probe, &start, |kernel| scope::apply(kernel, &wanted));
            let Some(mut object) = object else {
                refused.push(report);
                continue;
            };
            let mut collector = (probe.start)(&start);
            if let Err(error) = collector.attached(&mut object) {
                tracing::warn!(
                    "probe {}: could not take stock of what was there before: {error}",
                    probe.name
                );
            }
            running.push(Probed { report, object, collector, events: events::Source::new(probe.events) });
        }
        drop(machine);
        let steps = probes.iter().flat_map(|probe| probe.hooks).flat_map(|hook| hook.steps);
        let kept: Vec<&str> = steps.flat_map(|step| step.via.keeps()).copied().collect();
        if let Err(error) = privilege::drop_all(&kept) {
            tracing::warn!("could not give up capabilities: {error}");
        }
        let rings: Vec<RawFd> = running.iter().flat_map(|probe| probe.object.ring_fds()).collect();
        let (waiter, _) = Waiter::new(rings.into_iter())
            .map_err(|error| Failure(Exit::Failure, format!("cannot wait for events: {error}")))?;
        Ok(Self { probes: running, refused, waiter })
    }

    /// Sleeps until a ring is half full, a signal comes, or that long.
    pub(crate) fn wait(&self, timeout: Duration) {
        self.waiter.wait(timeout);
    }

    /// Switches each probe to those of its event types for which `wants`; what was under way is handed over.
    pub(crate) fn switch(
        &mut self,
        wants: impl Fn(&sidecar_core::EventSpec) -> bool,
        listener: &mut dyn Listener,
    ) -> Result<(), CollectError> {
        self.probes.iter_mut().try_for_each(|probe| {
            let types = probe.events.events().iter().enumerate();
            let wanted = types.filter(|(_, spec)| wants(spec)).fold(0, |bits, (at, _)| bits | 1 << at);
            probe.events.switch(wanted, &mut probe.object, &mut *probe.collector, listener)
        })
    }

    /// Hands over what has happened since the last time.
    pub(crate) fn pump(&mut self, listener: &mut dyn Listener) -> Result<(), CollectError> {
        self.probes
            .iter_mut()
            .try_for_each(|probe| probe.events.pump(&mut probe.object, &mut *probe.collector, listener))
    }

    /// Lets every probe read its maps as at a tick of the agent.
    pub(crate) fn tick(&mut self, rows: &mut Rows) -> Result<(), CollectError> {
        self.probes.iter_mut().try_for_each(|probe| probe.collector.collect(&mut probe.object, rows))
    }
}
