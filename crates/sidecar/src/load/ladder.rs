//! The hook ladder: each hook's steps in order, the next one when a step is refused, and the reason of every refusal.

use std::{os::fd::AsFd, time::Instant};

use aya::programs::{
    BtfTracePoint, FEntry, FExit, Iter, KProbe, Program, ProgramError, RawTracePoint, TracePoint,
};
use sidecar_core::{Hook, HookReport, Probe, ProbeReport, ProbeState, Step, Via, probe::Plan};

use super::{
    Loaded, Machine, Object, explain,
    object::Iterator,
    sys,
    xdp::{self, Follower, News},
};

/// Attaches all hooks of a probe and says how it went.
pub(super) fn climb(machine: &Machine, probe: &'static Probe, mut object: Object, plan: Plan) -> Loaded {
    if let Some(hook) = probe.hooks.iter().find(|hook| xdp::follows(hook)) {
        return follow(probe, hook, object, plan);
    }
    let wanted: Vec<Hook> =
        probe.hooks.iter().filter(|hook| !plan.without.contains(&hook.name)).copied().collect();
    let hooks: Vec<HookReport> = wanted.iter().map(|hook| attach(machine, &mut object, hook)).collect();
    let (state, reason) = judge(&wanted, &hooks);
    let advice = if state == ProbeState::Active { String::new() } else { explain::advice(&reason) };
    let runs = matches!(state, ProbeState::Active | ProbeState::Degraded);
    Loaded {
        report: ProbeReport { probe: probe.name, state, reason, advice, hooks },
        object: runs.then_some(object),
    }
}

/// A probe whose only hook is each interface that its patterns mean.
fn follow(probe: &'static Probe, hook: &'static Hook, mut object: Object, plan: Plan) -> Loaded {
    let bytes = sidecar_probes::object(probe.name).unwrap_or_default();
    let mut follower = Follower::new(probe, hook, bytes, plan.interfaces);
    let News { hooks, state, reason, advice } = follower.report();
    object.follower = Some(follower);
    let runs = matches!(state, ProbeState::Active | ProbeState::Degraded);
    Loaded {
        report: ProbeReport { probe: probe.name, state, reason, advice, hooks },
        object: runs.then_some(object),
    }
}

fn attach(machine: &Machine, object: &mut Object, hook: &Hook) -> HookReport {
    let mut refused = Vec::new();
    for step in hook.steps {
        let begun = Instant::now();
        let tried = try_step(machine, object, step);
        tracing::debug!(step = %step.via, program = step.program, took = ?begun.elapsed(), ok = tried.is_ok(), "tried");
        match tried {
            Ok(()) => {
                object.mark_loaded(step.program);
                return HookReport { hook: hook.name.into(), used: Some(*step), refused };
            }
            Err(error) => refused.push((*step, explain::step(*step, &error))),
        }
    }
    HookReport { hook: hook.name.into(), used: None, refused }
}

/// From the hooks' fate to the probe's.
fn judge(hooks: &[Hook], reports: &[HookReport]) -> (ProbeState, String) {
    let mut degraded = Vec::new();
    for (hook, report) in hooks.iter().zip(reports) {
        match report.used {
            Some(step) if step.degrades.is_empty() => {}
            Some(step) => degraded.push(format!("{}: {}", hook.name, step.degrades)),
            None => {
                let reasons: Vec<_> =
                    report.refused.iter().map(|(step, why)| format!("{}: {why}", step.via)).collect();
                let reason = format!("{}: {}", hook.name, reasons.join("; "));
                if hook.required {
                    return (ProbeState::Unsupported, reason);
                }
                degraded.push(format!("{} ({reason})", hook.missing));
            }
        }
    }
    let state = if degraded.is_empty() { ProbeState::Active } else { ProbeState::Degraded };
    (state, degraded.join("; "))
}

fn try_step(machine: &Machine, object: &mut Object, step: &Step) -> anyhow::Result<()> {
    if object.iterators.contains_key(step.program) {
        return Ok(());
    }
    let aya = &machine.aya;
    let ebpf = &mut object.ebpf;
    match step.via {
        Via::TpBtf(name) => {
            let program: &mut BtfTracePoint = program(ebpf, step)?;
            program.load(name, aya)?;
            program.attach()?;
        }
        Via::RawTp(name) => {
            let program: &mut RawTracePoint = program(ebpf, step)?;
            program.load()?;
            program.attach(name)?;
        }
        Via::Fentry(function) => {
            let program: &mut FEntry = program(ebpf, step)?;
            program.load(function, aya)?;
            program.attach()?;
        }
        Via::Fexit(function) => {
            let program: &mut FExit = program(ebpf, step)?;
            program.load(function, aya)?;
            program.attach()?;
        }
        Via::Kprobe(function) | Via::Kretprobe(function) => {
            let program: &mut KProbe = program(ebpf, step)?;
            program.load()?;
            program.attach(function, 0)?;
        }
        Via::Tracepoint(category, name) => {
            let program: &mut TracePoint = program(ebpf, step)?;
            program.load()?;
            program.attach(category, name)?;
        }
        Via::Iterator(target) | Via::NetIterator(target) => iterate(machine, object, step, target, None)?,
        Via::MapIterator(map) => iterate(machine, object, step, "bpf_map_elem", Some(map))?,
        Via::Xdp(_) => anyhow::bail!("a hook at interfaces has no other steps"),
    }
    Ok(())
}

fn iterate(
    machine: &Machine,
    object: &mut Object,
    step: &Step,
    target: &str,
    map: Option<&str>,
) -> anyhow::Result<()> {
    let program: &mut Iter = program(&mut object.ebpf, step)?;
    program.load(target, &machine.aya)?;
    let fd = program.fd()?.as_fd().try_clone_to_owned()?;
    let map = match map {
        Some(name) => {
            Some(object.map_fd(name).ok_or_else(|| anyhow::anyhow!("no map {name} in the object"))?)
        }
        None => None,
    };
    let link = sys::iterator_link(fd.as_fd(), map)?;
    let per_namespace = matches!(step.via, Via::NetIterator(_));
    object.iterators.insert(step.program, Iterator { link, per_namespace });
    Ok(())
}

fn program<'a, T>(ebpf: &'a mut aya::Ebpf, step: &Step) -> anyhow::Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(step.program)
        .ok_or_else(|| anyhow::anyhow!("the object has no program {}", step.program))?;
    Ok(program.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Step = Step { program: "a", via: Via::Fexit("f"), degrades: "" };
    const LAST: Step = Step { program: "b", via: Via::Iterator("task_file"), degrades: "later" };
    const REQUIRED: Hook = Hook { name: "state", required: true, missing: "all", steps: &[FIRST] };
    const OPTIONAL: Hook =
        Hook { name: "accept", required: false, missing: "nobody known", steps: &[FIRST, LAST] };

    fn report(hook: &Hook, used: Option<Step>) -> HookReport {
        let refused = if used == Some(FIRST) { vec![] } else { vec![(FIRST, "not permitted".to_owned())] };
        HookReport { hook: hook.name.into(), used, refused }
    }

    #[test]
    fn all_first_steps_make_a_probe_active() {
        let reports = [report(&REQUIRED, Some(FIRST)), report(&OPTIONAL, Some(FIRST))];
        assert_eq!(judge(&[REQUIRED, OPTIONAL], &reports), (ProbeState::Active, String::new()));
    }

    #[test]
    fn a_lesser_step_degrades_and_says_how() {
        let reports = [report(&REQUIRED, Some(FIRST)), report(&OPTIONAL, Some(LAST))];
        let (state, reason) = judge(&[REQUIRED, OPTIONAL], &reports);
        assert_eq!((state, reason.as_str()), (ProbeState::Degraded, "accept: later"));
    }

    #[test]
    fn a_missing_optional_hook_degrades_and_keeps_the_reason() {
        let reports = [report(&REQUIRED, Some(FIRST)), report(&OPTIONAL, None)];
        let (state, reason) = judge(&[REQUIRED, OPTIONAL], &reports);
        assert_eq!(state, ProbeState::Degraded);
        assert_eq!(reason, "nobody known (accept: fexit/f: not permitted)");
    }

    #[test]
    fn a_missing_required_hook_makes_the_probe_unsupported() {
        let reports = [report(&REQUIRED, None), report(&OPTIONAL, Some(FIRST))];
        let (state, reason) = judge(&[REQUIRED, OPTIONAL], &reports);
        assert_eq!(state, ProbeState::Unsupported);
        assert_eq!(reason, "state: fexit/f: not permitted");
    }
}
