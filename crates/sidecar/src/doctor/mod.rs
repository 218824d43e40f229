//! `sidecar doctor`: what works on this machine, what does not, why, and what to do about it. It does not guess: every
//! enabled probe is loaded and attached for a moment, the way the agent does it.

mod check;
mod host;
mod kernel;
mod privileges;
mod show;
#[cfg(test)]
mod tests;
mod trial;

use std::io::{self, IsTerminal as _};

use sidecar_core::Probe;
use sidecar_probes::PROBES;

use self::{
    check::{Check, Level},
    host::Host,
    privileges::Privileges,
    trial::Trial,
};
use crate::{
    cli::{Exit, Format},
    config::{Config, target},
};

const FILTER: &str = "filter";

/// Everything found out, and what it comes to.
struct Findings {
    checks: Vec<Check>,
    trials: Vec<Trial>,
    exit: Exit,
    /// The result in one sentence without a full stop at its end.
    summary: String,
}

/// Looks at this machine, tries every enabled probe, prints what it found.
pub(crate) fn run(config: &Config, format: Format) -> Exit {
    let findings = examine(config, &Host::this());
    let text = match format {
        Format::Text => show::text(&findings, coloured()),
        Format::Json => show::json(&findings),
    };
    match crate::print(&text) {
        Exit::Ok => findings.exit,
        unwritten => unwritten,
    }
}

fn examine(config: &Config, host: &Host) -> Findings {
    let enabled: Vec<&'static Probe> =
        PROBES.iter().copied().filter(|probe| is_enabled(config, probe)).collect();
    let privileges = Privileges::of(host, &enabled);
    let mut checks = kernel::checks(host);
    let obstacle = checks.iter().find(|check| check.level == Level::Fail);
    let obstacle = obstacle.map_or_else(String::new, |check| check.advice.clone());
    checks.extend(privileges.checks(&enabled, config));
    checks.extend(filter(config, host));
    let (trials, readable) = trial::all(config, &privileges, &obstacle);
    let (exit, summary) = match trial::verdict(&trials, readable) {
        // The agent would refuse to start.
        (Exit::Ok, _) if checks.iter().any(|check| check.name == FILTER && check.level == Level::Fail) => {
            (Exit::Failure, "the filter names what is not there".to_owned())
        }
        verdict => verdict,
    };
    Findings { checks, trials, exit, summary }
}

/// Whether what the configured filter names is there, if there is one.
fn filter(config: &Config, host: &Host) -> Option<Check> {
    if !config.target.is_filtered() {
        return None;
    }
    let check = |level, found: String| Check::new(FILTER, level, found, serde_json::Value::Null);
    Some(match target::resolve(config, &host.target(), 1) {
        Ok(resolved) if resolved.notes.is_empty() => {
            check(Level::Ok, "all that it names is there".to_owned())
        }
        Ok(resolved) => check(Level::Warn, resolved.notes.join("; ")),
        Err(errors) => {
            let problems: Vec<String> = errors.problems.iter().map(ToString::to_string).collect();
            check(Level::Fail, problems.join("; "))
        }
    })
}

fn is_enabled(config: &Config, probe: &Probe) -> bool {
    config.probes.get(probe.name).is_some_and(|settings| settings.enabled)
}

/// Colours are for eyes: not for files and pipes, and not where <https://no-color.org> asks for none.
fn coloured() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
