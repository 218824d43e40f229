//! Trying the probes: each enabled one is loaded and attached as the agent would, and dropped again. What comes of it
//! is the only proof that a probe works here.

use std::sync::Arc;

use sidecar_core::{Probe, ProbeReport, ProbeState, probe::Names};
use sidecar_probes::PROBES;

use super::{
    is_enabled,
    privileges::{Privileges, RAISE_LIMIT},
};
use crate::{
    agent,
    cli::Exit,
    config::Config,
    enrich::CgroupNames,
    load::{self, Machine},
};

/// What became of one probe.
pub(super) struct Trial {
    pub(super) probe: &'static Probe,
    pub(super) report: ProbeReport,
    /// Capabilities it needs and this process lacks.
    pub(super) missing: Vec<&'static str>,
}

/// Tries every probe. `obstacle` is what to do about a kernel that runs no probe at all, empty for others. The second
/// value says whether the kernel's type information could be read.
pub(super) fn all(config: &Config, privileges: &Privileges, obstacle: &str) -> (Vec<Trial>, bool) {
    let machine = Machine::look();
    // A trial is over before anybody asks for a name.
    let names: Arc<dyn Names> = Arc::new(CgroupNames::new(None));
    let one = |probe: &&'static Probe| {
        let mut missing = privileges.missing(probe.capabilities);
        let report = match &machine {
            _ if !is_enabled(config, probe) => load::off(probe).report,
            Ok(machine) => {
                let report = load::load(machine, probe, &agent::start_of(config, probe, &names)).report;
                let report = advised(report, &missing, privileges, obstacle);
                if report.advice == RAISE_LIMIT {
                    missing.push("CAP_SYS_RESOURCE");
                }
                report
            }
            Err(reason) => unreadable(probe, reason, obstacle),
        };
        Trial { probe, report, missing }
    };
    (PROBES.iter().map(one).collect(), machine.is_ok())
}

/// Without the kernel's type information no probe finds its fields.
fn unreadable(probe: &Probe, reason: &str, advice: &str) -> ProbeReport {
    ProbeReport {
        probe: probe.name,
        state: ProbeState::Unsupported,
        reason: reason.to_owned(),
        advice: advice.to_owned(),
        hooks: Vec::new(),
    }
}

/// Replaces the loader's general advice where the process's privileges or the kernel's state say more.
pub(super) fn advised(
    report: ProbeReport,
    missing: &[&str],
    privileges: &Privileges,
    obstacle: &str,
) -> ProbeReport {
    let refused = report.reason.contains("not permitted") || report.reason.contains("os error 1)");
    let advice = if report.state == ProbeState::Active {
        return report;
    } else if !missing.is_empty() {
        privileges.advice()
    } else if !obstacle.is_empty() {
        obstacle.to_owned()
    } else if !refused {
        return report;
    } else if privileges.locked_memory.is_some() {
        RAISE_LIMIT.to_owned()
    } else if privileges.seccomp == Some(true) {
        "the capabilities are there, so the seccomp filter or a security module refuses it: allow bpf and \
         perf_event_open in the container's seccomp profile"
            .to_owned()
    } else {
        "the capabilities are there, so a security module refuses it: dmesg or the audit log names it"
            .to_owned()
    };
    ProbeReport { advice, ..report }
}

/// What the trials come to: the exit code and a sentence.
pub(super) fn verdict(trials: &[Trial], readable: bool) -> (Exit, String) {
    use ProbeState::{Active, Degraded, Off};
    let enabled: Vec<&Trial> = trials.iter().filter(|trial| trial.report.state != Off).collect();
    let short: Vec<&Trial> = enabled.iter().copied().filter(|trial| trial.report.state != Active).collect();
    let runs = enabled.iter().any(|trial| matches!(trial.report.state, Active | Degraded));
    let named: Vec<String> =
        short.iter().map(|trial| format!("{} ({})", trial.probe.name, trial.report.state.as_str())).collect();
    let named = named.join(", ");
    if enabled.is_empty() {
        (Exit::Ok, "no probe is enabled".to_owned())
    } else if short.is_empty() {
        (Exit::Ok, "every enabled probe is active".to_owned())
    } else if readable && short.iter().any(|trial| !trial.missing.is_empty()) {
        (Exit::Privilege, format!("capabilities are missing: {named}"))
    } else if !runs {
        (Exit::Kernel, format!("no enabled probe can run here: {named}"))
    } else {
        (Exit::Failure, format!("not every enabled probe is active: {named}"))
    }
}
