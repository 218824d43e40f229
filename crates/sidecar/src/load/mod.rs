//! From a probe's declaration to a running object: find the fields in this kernel's BTF, size the maps, load, climb each
//! hook's ladder. Whatever goes wrong stays with the probe it happened to, as its state and reason.

mod explain;
mod ladder;
mod netns;
mod object;
pub(crate) mod sys;
mod xdp;

use aya::{Btf as AyaBtf, EbpfLoader, VerifierLogLevel};
pub(crate) use object::Object;
use sidecar_btf::Btf;
use sidecar_common::{event, task::TaskFields};
use sidecar_core::{
    KernelError, Probe, ProbeReport, ProbeState, Start,
    probe::{KernelFacts, Plan},
};
pub(crate) use xdp::News;

/// The kernel as the loader sees it: both BTF readers, dropped when all probes are loaded because they are large.
pub(crate) struct Machine {
    btf: Btf,
    aya: AyaBtf,
}

impl Machine {
    /// Reads the running kernel's BTF; the error is a sentence with the next step.
    pub(crate) fn look() -> Result<Self, String> {
        let btf = Btf::from_kernel().map_err(|error| error.to_string())?;
        let aya = AyaBtf::from_sys_fs().map_err(|error| format!("{}: {error}", sidecar_btf::KERNEL_BTF))?;
        Ok(Self { btf, aya })
    }
}

impl KernelFacts for Machine {
    fn parameters(&self, function: &str) -> Option<u32> {
        self.btf.tracepoint_parameters(function).or_else(|| self.btf.parameters(function))
    }

    fn has_member(&self, path: &str) -> bool {
        self.btf.member(path).is_ok()
    }
}

/// A probe after loading: its report, and its object if it runs.
pub(crate) struct Loaded {
    pub(crate) report: ProbeReport,
    pub(crate) object: Option<Object>,
}

impl Loaded {
    fn without_object(probe: &Probe, state: ProbeState, reason: String, advice: String) -> Self {
        let report = ProbeReport { probe: probe.name, state, reason, advice, hooks: Vec::new() };
        Self { report, object: None }
    }
}

/// A probe that is switched off.
pub(crate) fn off(probe: &Probe) -> Loaded {
    Loaded::without_object(
        probe,
        ProbeState::Off,
        "switched off in the configuration".into(),
        format!("set probes.{}.enabled: true", probe.name),
    )
}

/// Loads one probe and attaches it, without a filter.
pub(crate) fn load(machine: &Machine, probe: &'static Probe, start: &Start) -> Loaded {
    load_scoped(machine, probe, start, |_| Ok(()))
}

/// Loads one probe, lets `prepared` fill its maps, and attaches it.
pub(crate) fn load_scoped(
    machine: &Machine,
    probe: &'static Probe,
    start: &Start,
    prepared: impl FnOnce(&Object) -> Result<(), KernelError>,
) -> Loaded {
    let fields = match machine.btf.resolve(probe.fields) {
        Ok(fields) => fields,
        Err(missing) => {
            return Loaded::without_object(
                probe,
                ProbeState::Unsupported,
                missing.to_string(),
                "this kernel has no such field; please report it with the kernel's version".into(),
            );
        }
    };
    let plan = (probe.plan)(start, machine);
    let object = prepare(machine, probe, &fields, &plan, start.event_bytes)
        .and_then(|object| prepared(&object).map(|()| object).map_err(|error| error.to_string()));
    match object {
        Ok(object) => ladder::climb(machine, probe, object, plan),
        Err(reason) => {
            let advice = explain::advice(&reason);
            Loaded::without_object(probe, ProbeState::Failed, reason, advice)
        }
    }
}

/// Creates the object's maps with the fields and constants in place; no program is loaded yet.
fn prepare(
    machine: &Machine,
    probe: &Probe,
    fields: &[u32],
    plan: &Plan,
    event_bytes: u32,
) -> Result<Object, String> {
    let bytes = sidecar_probes::object(probe.name).ok_or("this binary holds no object for the probe")?;
    let fields: Vec<u8> = fields.iter().flat_map(|offset| offset.to_ne_bytes()).collect();
    let task: Vec<u8> = machine
        .btf
        .resolve(TaskFields::SPECS)
        .map_err(|missing| missing.to_string())?
        .iter()
        .flat_map(|offset| offset.to_ne_bytes())
        .collect();
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&machine.aya));
    // The verifier's complaint without its whole reasoning, which older kernels take minutes to write down.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    loader.override_global("FIELDS", fields.as_slice(), !fields.is_empty());
    loader.override_global("TASK_FIELDS", task.as_slice(), false);
    let has_task_btf = u32::from(machine.btf.has_function("bpf_get_current_task_btf"));
    loader.override_global("TASK_BTF", &has_task_btf, false);
    for constant in &plan.constants {
        loader.override_global(constant.symbol, constant.bytes.as_slice(), true);
    }
    loader.override_global("EVENTS_BYTES", &event_bytes, false);
    loader.map_max_entries(event::RING, event_bytes);
    for (map, entries) in &plan.map_sizes {
        loader.map_max_entries(map, *entries);
    }
    let ebpf = loader.load(bytes).map_err(|error| explain::chain(&error))?;
    Object::new(ebpf).map_err(|error| format!("maps: {error}"))
}
