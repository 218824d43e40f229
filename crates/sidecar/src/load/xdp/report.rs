//! From the interfaces' fate to the probe's state, and what to do about it.

use sidecar_core::{HookReport, ProbeState, Step};

use super::{Attached, Follower, Refusal, explain};

/// What a probe reports after a change.
pub(crate) struct News {
    pub(crate) hooks: Vec<HookReport>,
    pub(crate) state: ProbeState,
    pub(crate) reason: String,
    pub(crate) advice: String,
}

impl Follower {
    /// Whether this kernel loads none of the programs, and why.
    pub(super) fn hopeless(&self) -> Option<String> {
        let why = |step: &Step| self.unloadable.iter().find(|(program, _)| *program == step.program);
        let reasons: Option<Vec<_>> = self.steps.iter().map(why).collect();
        let mut reasons: Vec<String> =
            reasons?.into_iter().map(|(program, reason)| format!("{program}: {reason}")).collect();
        reasons.dedup();
        Some(reasons.join("; "))
    }

    /// What to report, if anything has changed since the last time.
    pub(in super::super) fn news(&mut self) -> Option<News> {
        self.changed.then(|| self.report())
    }

    /// What to report now.
    pub(in super::super) fn report(&mut self) -> News {
        self.changed = false;
        let mut hooks: Vec<HookReport> = Vec::new();
        for attached in self.attached.values() {
            let Attached { interface, step, refused, .. } = attached;
            let hook = interface.name.clone().into();
            hooks.push(HookReport { hook, used: Some(*step), refused: refused.clone() });
        }
        for Refusal { name, refused, .. } in self.refusals.values() {
            hooks.push(HookReport { hook: name.clone().into(), used: None, refused: refused.clone() });
        }
        hooks.sort_by(|one, other| one.hook.cmp(&other.hook));
        if let Some(reason) = self.hopeless() {
            let why = |step: &Step| {
                self.unloadable
                    .iter()
                    .find(|(program, _)| *program == step.program)
                    .map(|why| (*step, why.1.clone()))
            };
            let refused = self.steps.iter().filter_map(why).collect();
            let hooks = vec![HookReport { hook: self.hook.name.into(), used: None, refused }];
            let advice = explain::advice(&reason);
            return News { hooks, state: ProbeState::Unsupported, reason, advice };
        }
        let (reasons, advice) = self.complaints();
        let state = if reasons.is_empty() { ProbeState::Active } else { ProbeState::Degraded };
        News { hooks, state, reason: reasons.join("; "), advice }
    }

    /// What keeps the probe from being active, and what to do about it.
    fn complaints(&self) -> (Vec<String>, String) {
        let key = format!("probes.{}.interfaces", self.probe);
        if self.attached.is_empty() && self.refusals.is_empty() {
            let patterns = self.wanted.patterns.join(", ");
            return (
                vec![format!("no interface here is called {patterns}: waiting for one")],
                format!("name those to count at in {key}"),
            );
        }
        let mut reasons = Vec::new();
        let mut advice = String::new();
        for Refusal { name, refused, occupant, .. } in self.refusals.values() {
            let why: Vec<String> = refused.iter().map(|(step, why)| format!("{}: {why}", step.via)).collect();
            reasons.push(format!("{name}: {}", why.join("; ")));
            advice = if occupant.is_some() {
                format!("it is left as it is; leave {name} out in {key}, or detach the other program")
            } else {
                format!("leave {name} out in {key}; it is tried again meanwhile")
            };
        }
        for Attached { interface, step, .. } in self.attached.values() {
            if !step.degrades.is_empty() && self.wanted.mode.is_none() {
                reasons.push(format!("{}: {}", interface.name, step.degrades));
                if advice.is_empty() {
                    advice = format!(
                        "nothing to do: the driver has no XDP; probes.{}.mode: generic says that this is known",
                        self.probe
                    );
                }
            }
        }
        (reasons, advice)
    }
}
