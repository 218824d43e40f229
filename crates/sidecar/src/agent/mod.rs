//! Running the agent: configuration → load → tick → serve, and back down again.

pub(crate) mod alone;
mod log;
mod own;
mod privilege;
mod scope;
mod tick;
mod wait;

use std::{
    env,
    sync::Arc,
    time::{Duration, SystemTime},
};

use caps::Capability;
use sidecar_common::event;
use sidecar_core::{Probe, ProbeState, Start, probe::Names};
use sidecar_probes::PROBES;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use self::own::METRICS;
use self::{
    log::Logging,
    own::Own,
    tick::{Running, Setup, Ticker},
};
use crate::{
    cli::{CommonArgs, Exit},
    config::{
        self, Config,
        target::{Host, Resolved},
    },
    enrich::CgroupNames,
    events,
    load::{self, Loaded, Machine},
    serve::{BindError, Server},
};

/// How long the kernel measures run times unless told otherwise.
const MEASURE: Duration = Duration::from_mins(1);

/// Why the agent ends; already one clear line.
struct Failure(Exit, String);

/// Runs the agent until it is told to stop.
pub(crate) fn run(args: &CommonArgs) -> Exit {
    match try_run(args) {
        Ok(()) => Exit::Ok,
        Err(Failure(exit, message)) => {
            eprintln!("sidecar: {message}");
            exit
        }
    }
}

fn try_run(args: &CommonArgs) -> Result<(), Failure> {
    let usage = |errors: config::ConfigErrors| Failure(Exit::Usage, errors.to_string());
    frugal();
    let config = config::load(args, env::vars_os(), PROBES).map_err(usage)?;
    let logging = Logging::start(&config.log);
    let target = config::target::resolve(&config, &Host::default(), 1).map_err(usage)?;
    note(&target);
    let server = bind(&config)?;
    let started = SystemTime::now();

    if let Some(missing) = privilege::missing() {
        return Err(Failure(Exit::Privilege, missing));
    }
    // Asked for before the capabilities go; ends by itself.
    let stats = measuring(&config);
    let (running, idle) = attach(&config, &target)?;
    match privilege::drop_all(&needed_later(&running)) {
        Ok(kept) => tracing::debug!(?kept, "gave up all other capabilities"),
        Err(error) => tracing::warn!("could not give up capabilities: {error}"),
    }
    trim();

    let address =
        server.address().map_err(|error| Failure(Exit::Failure, format!("its own address: {error}")))?;
    let own = Own::new(started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), server.stats());
    let setup = Setup { running, idle, own, interval: config.metrics.interval, started, stats };
    let failed = |error: std::io::Error| Failure(Exit::Failure, format!("cannot start: {error}"));
    let (ticker, thread) = tick::spawn(setup).map_err(failed)?;
    tracing::info!("serving on http://{address}/metrics");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(failed)?;
    let outcome = runtime.block_on(serve(server, &ticker, Reload { args, config, logging, version: 1 }));
    ticker.stop();
    // The thread ends between two ticks; a tick is milliseconds.
    let _ = thread.join();
    outcome.map_err(failed)
}

fn bind(config: &Config) -> Result<Server, Failure> {
    Server::bind(config.listen).map_err(|error| {
        let exit = if matches!(error, BindError::InUse { .. }) { Exit::AddressInUse } else { Exit::Failure };
        Failure(exit, error.to_string())
    })
}

/// What a probe is started with under this configuration.
pub(crate) fn start_of(config: &Config, probe: &Probe, names: &Arc<dyn Names>) -> Start {
    Start {
        names: Arc::clone(names),
        options: config.probes.get(probe.name).map(|settings| settings.options.clone()).unwrap_or_default(),
        labels: config.metrics.labels.clone(),
        max_series: config.metrics.max_series,
        max_connections: config.metrics.max_connections,
        filtered: config.target.is_filtered(),
        event_bytes: event::RING_BYTES,
    }
}

/// Loads and attaches every enabled probe, in the order of the list.
fn attach(
    config: &Config,
    target: &Resolved,
) -> Result<(Vec<Running>, Vec<sidecar_core::ProbeReport>), Failure> {
    let machine = Machine::look().map_err(|error| Failure(no_kernel(), error))?;
    let names: Arc<dyn Names> = Arc::new(CgroupNames::new(config::target::cgroup_mount(&Host::default())));
    let (mut running, mut idle) = (Vec::new(), Vec::new());
    for &probe in PROBES {
        if !config.probes.get(probe.name).is_none_or(|settings| settings.enabled) {
            idle.push(load::off(probe).report);
            continue;
        }
        let start = start_of(config, probe, &names);
        let Loaded { mut report, object } =
            load::load_scoped(&machine, probe, &start, |kernel| scope::apply(kernel, target));
        let Some(mut object) = object else {
            tracing::error!(
                "probe {}: {} ({}); {}",
                probe.name,
                report.state.as_str(),
                report.reason,
                report.advice
            );
            idle.push(report);
            continue;
        };
        let mut collector = (probe.start)(&start);
        if let Err(error) = collector.attached(&mut object) {
            report.state = ProbeState::Degraded;
            report.reason = format!("could not take stock of what was there before: {error}");
        }
        announce(&report);
        running.push(Running {
            report,
            object,
            collector,
            rings: probe.rings,
            events: events::Source::new(probe.events),
            spent: Duration::ZERO,
            collects: 0,
            failures: 0,
            pause: 0,
            last_pause: 0,
            told: (0, None),
        });
    }
    if running.is_empty() && idle.iter().any(|report| report.state != ProbeState::Off) {
        let reasons: Vec<_> = idle
            .iter()
            .map(|report| format!("{}: {}; {}", report.probe, report.reason, report.advice))
            .collect();
        return Err(Failure(no_kernel(), format!("no probe can run here: {}", reasons.join("; "))));
    }
    if running.is_empty() {
        tracing::warn!("every probe is switched off: there is nothing to see but the agent itself");
    }
    Ok((running, idle))
}

/// Capabilities that hooks in use need as long as the agent runs.
fn needed_later(running: &[Running]) -> Vec<&'static str> {
    let hooks = |running: &&Running| PROBES.iter().find(|probe| probe.name == running.report.probe);
    let steps = running
        .iter()
        .filter_map(|one| hooks(&one))
        .flat_map(|probe| probe.hooks)
        .flat_map(|hook| hook.steps);
    steps.flat_map(|step| step.via.keeps()).copied().collect()
}

/// Missing capabilities are the user's to give, a missing hook is the kernel's.
fn no_kernel() -> Exit {
    let may = privilege::has(Capability::CAP_SYS_ADMIN)
        || privilege::has(Capability::CAP_BPF) && privilege::has(Capability::CAP_PERFMON);
    if may { Exit::Kernel } else { Exit::Privilege }
}

/// What looking up the target brought to light.
fn note(target: &Resolved) {
    for note in &target.notes {
        tracing::warn!("{note}");
    }
}

fn announce(report: &sidecar_core::ProbeReport) {
    let hooks: Vec<String> =
        report.hooks.iter().filter_map(|hook| hook.used).map(|step| step.via.to_string()).collect();
    if report.state == ProbeState::Active {
        tracing::info!("probe {}: active ({})", report.probe, hooks.join(", "));
    } else {
        tracing::warn!("probe {}: {} ({})", report.probe, report.state.as_str(), report.reason);
    }
}

/// Makes the kernel measure run times as the configuration says. Costs every BPF program on the machine a little while
/// it lasts, so it lasts a minute by default.
fn measuring(config: &Config) -> Option<(std::os::fd::OwnedFd, Option<Duration>)> {
    let limit = match config.metrics.program_stats.as_str() {
        "never" => return None,
        "always" => None,
        _ => Some(MEASURE),
    };
    match load::sys::enable_stats() {
        Ok(stats) => Some((stats, limit)),
        Err(error) => {
            tracing::info!("run times of programs are not measured (needs CAP_SYS_ADMIN): {error}");
            None
        }
    }
}

/// Makes the allocator give back what it does not need: one arena for the few threads there are, and pages of metrics
/// mapped and unmapped rather than kept for the next one.
fn frugal() {
    // SAFETY: no pointers involved.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}

/// Gives the memory that loading took back to the system.
fn trim() {
    // SAFETY: no pointers involved.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What a re-reading of the configuration needs.
struct Reload<'a> {
    args: &'a CommonArgs,
    config: Config,
    logging: Logging,
    /// Of the filter in force.
    version: u32,
}

async fn serve(server: Server, ticker: &Arc<Ticker>, mut reload: Reload<'_>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let source = Arc::clone(ticker);
    let control = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => break tracing::info!("told to stop"),
                _ = interrupt.recv() => break tracing::info!("interrupted"),
                _ = hangup.recv() => reload.again(ticker),
            }
        }
        ticker.end_streams();
    };
    server.serve(source, control).await
}

impl Reload<'_> {
    /// Reads the configuration again and applies what can be applied. Anything wrong keeps the old one whole.
    fn again(&mut self, ticker: &Ticker) {
        let new = match config::load(self.args, env::vars_os(), PROBES) {
            Ok(new) => new,
            Err(errors) => return tracing::error!("the configuration stays as it was: {errors}"),
        };
        let changes = config::changes(&self.config, &new);
        if changes.is_empty() {
            return tracing::info!("the configuration has not changed");
        }
        if changes.touches("target") {
            match config::target::resolve(&new, &Host::default(), self.version + 1) {
                Ok(target) => {
                    self.version += 1;
                    note(&target);
                    ticker.retarget(target);
                }
                Err(errors) => return tracing::error!("the configuration stays as it was: {errors}"),
            }
        }
        if changes.touches("metrics.interval_secs") {
            ticker.set_interval(new.metrics.interval);
        }
        if changes.touches("log.level") {
            self.logging.set_level(&new.log.level);
        }
        if !changes.live.is_empty() {
            tracing::info!("applied: {}", changes.live.join(", "));
        }
        if !changes.restart.is_empty() {
            tracing::warn!("needs a restart: {}", changes.restart.join(", "));
        }
        self.config = self.config.adopt(&new);
    }
}
