//! How often does it happen? (Say here which question the probe answers, in one sentence, and then how.)

mod collect;
pub mod shared;
#[cfg(test)]
mod test;

use sidecar_core::{Hook, Kind, Metric, Probe, Step, Unit, Via, View, probe::Plan};

static EVENTS: Metric = Metric {
    name: "sidecar_@NAME@_events_total",
    help: "Programs started with execve()",
    kind: Kind::Counter,
    unit: Unit::None,
    labels: &[],
};

/// The probe.
pub static PROBE: Probe = Probe {
    name: "@NAME@",
    summary: "Counts programs that are started",
    enabled: false,
    metrics: &[&EVENTS],
    counts: &[],
    view: View::NONE,
    events: &[],
    options: &[],
    hooks: HOOKS,
    fields: &[],
    capabilities: &["CAP_BPF", "CAP_PERFMON"],
    cost: "not measured yet",
    rings: &[],
    plan: |_, _| Plan::default(),
    start: |_| Box::new(collect::Events),
};

static HOOKS: &[Hook] = &[Hook {
    name: "starts of programs",
    required: true,
    missing: "nothing is counted",
    steps: &[
        Step { program: "exec_tp_btf", via: Via::TpBtf("sched_process_exec"), degrades: "" },
        Step { program: "exec_raw_tp", via: Via::RawTp("sched_process_exec"), degrades: "" },
    ],
}];
