//! Numbers from probes in our own process.

use std::time::SystemTime;

use sidecar_core::{Probe, ProbeReport, ProbeState, Rows, Snapshot, Via};
use sidecar_probes::PROBES;

use super::{Feed, app::App};
use crate::{
    agent::alone::{Alone, refusal},
    cli::Exit,
    config::Config,
    load::News,
};

/// Size of the rings: enough for a burst of tens of thousands of events.
const RING_BYTES: u32 = 8 << 20;

/// Label sets of a probe unless the user says otherwise: each process has its own, while an agent that runs for months
/// must do with fewer.
const MAX_SERIES: usize = 50_000;

/// The probes that run.
pub(super) struct Own {
    alone: Alone,
    started: SystemTime,
    /// Probes that could not be read the last time, and why.
    unread: Vec<(&'static str, String)>,
}

impl Own {
    /// Starts every probe that has something to show and that the user has not switched off; what takes hold of network
    /// interfaces only if it was asked for.
    pub(super) fn start(mut config: Config) -> Result<Self, (Exit, String)> {
        let wanted: Vec<&'static Probe> =
            PROBES.iter().filter(|probe| is_shown(probe) && is_wanted(&config, probe)).copied().collect();
        config.metrics.labels = vec!["comm".to_owned(), "pid".to_owned()];
        if !config.is_set("metrics.max_series") {
            config.metrics.max_series = MAX_SERIES;
        }
        let mut alone = Alone::start_possible(&config, &wanted, RING_BYTES)?;
        if alone.probes.is_empty() {
            let reasons: Vec<String> = alone.refused.iter().map(refusal).collect();
            let why =
                if reasons.is_empty() { "every probe is switched off".into() } else { reasons.join("\n") };
            return Err((Exit::Kernel, format!("nothing can be shown: {why}")));
        }
        let started = SystemTime::now();
        alone
            .switch(|_| true, &mut super::log::Log::default())
            .map_err(|error| (Exit::Failure, error.to_string()))?;
        Ok(Self { alone, started, unread: Vec::new() })
    }

    /// Whether the probe runs, and what is wrong with it.
    pub(super) fn state(&self, probe: &Probe) -> (bool, String) {
        let running = self.alone.probes.iter().map(|probe| &probe.report);
        let report = running.chain(&self.alone.refused).find(|report| report.probe == probe.name);
        if let Some((_, error)) = self.unread.iter().find(|(name, _)| *name == probe.name) {
            return (false, error.clone());
        }
        let off = if touches_interfaces(probe) {
            format!("not asked for (--probe {}): it takes hold of network interfaces", probe.name)
        } else {
            "switched off".to_owned()
        };
        report.map_or((false, off), |report| {
            let runs = matches!(report.state, ProbeState::Active | ProbeState::Degraded);
            (runs, report.reason.clone())
        })
    }
}

/// Whether a look at the machine may start this probe.
fn is_wanted(config: &Config, probe: &Probe) -> bool {
    let enabled = config.probes.get(probe.name).is_some_and(|settings| settings.enabled);
    enabled || !touches_interfaces(probe) && !config.refuses(probe.name)
}

/// Whether a program is attached at network interfaces: some drivers restart their queues for it, which nobody expects of
/// a look.
fn touches_interfaces(probe: &Probe) -> bool {
    probe.hooks.iter().flat_map(|hook| hook.steps).any(|step| matches!(step.via, Via::Xdp(_)))
}

/// Whether anything of the probe is shown.
pub(super) fn is_shown(probe: &Probe) -> bool {
    !probe.view.columns.is_empty() || !probe.view.rates.is_empty() || !probe.events.is_empty()
}

impl Feed for Own {
    fn pump(&mut self, app: &mut App) {
        for probe in &mut self.alone.probes {
            if let Err(error) = probe.collector.drain(&mut probe.object) {
                app.trouble = Some(format!("probe {}: {error}", probe.report.probe));
            }
        }
        if let Err(error) = self.alone.pump(&mut app.log) {
            app.trouble = Some(error.to_string());
        }
    }

    fn tick(&mut self, app: &mut App) {
        let (mut families, taken) = (Vec::new(), SystemTime::now());
        app.trouble = None;
        self.unread.clear();
        for probe in &mut self.alone.probes {
            // What one cannot read costs only its own numbers.
            let mut own = Rows::default();
            match probe.collector.collect(&mut probe.object, &mut own) {
                Ok(()) => families.extend(own.finish(taken, taken).families.iter().cloned()),
                Err(error) => {
                    app.trouble = Some(format!("probe {}: {error}", probe.report.probe));
                    self.unread.push((probe.report.probe, error.to_string()));
                }
            }
            if let Some(News { hooks, state, reason, advice }) = probe.object.news() {
                probe.report = ProbeReport { probe: probe.report.probe, state, reason, advice, hooks };
            }
        }
        app.take(Snapshot { taken, started: self.started, families: families.into() });
        app.hear(|probe| self.state(probe));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_hold_of_network_interfaces_is_only_started_when_asked_for() {
        let config = |args: &[&str]| {
            let args = [&["sidecar", "top", "--config", "/dev/null"], args].concat();
            let Ok(crate::cli::Invocation::Top(args, ..)) =
                crate::cli::parse_from(args.into_iter().map(Into::into))
            else {
                panic!("no command line of top");
            };
            crate::config::load(&args, std::iter::empty(), PROBES).unwrap()
        };
        let (at_interfaces, others): (Vec<&Probe>, Vec<&Probe>) =
            PROBES.iter().copied().partition(|probe| touches_interfaces(probe));
        assert!(!at_interfaces.is_empty());
        let asked: Vec<&str> = at_interfaces.iter().flat_map(|probe| ["--probe", probe.name]).collect();
        let (usual, asked) = (config(&[]), config(&asked));
        assert!(at_interfaces.iter().all(|probe| !is_wanted(&usual, probe)));
        assert!(at_interfaces.iter().all(|probe| is_wanted(&asked, probe)));
        assert!(others.iter().all(|probe| is_wanted(&usual, probe)));
    }
}
