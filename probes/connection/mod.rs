//! Who talks to whom over TCP, how much, how fast, and how it ends?
//!
//! Nothing runs when data is sent or received. Two things are enough: a program at the tracepoint where a socket changes
//! its state, and a sweep over the live sockets at every tick; both read the counters the kernel keeps anyway.

mod collect;
mod ending;
mod metrics;
mod series;
pub mod shared;
mod tell;
#[cfg(test)]
mod test;

use sidecar_core::{
    Column, Hook, Probe, Start, Step, Unit, Via, View,
    probe::{Constant, KernelFacts, Plan},
};

use crate::plain::{Plain, as_bytes};

// SAFETY: integers only, `#[repr(C)]`, no padding: every gap has a `reserved` member.
unsafe impl Plain for shared::Conn {}
// SAFETY: as above.
unsafe impl Plain for shared::Record {}
// SAFETY: as above.
unsafe impl Plain for shared::Control {}
// SAFETY: as above.
unsafe impl Plain for shared::Constants {}

/// The probe.
pub static PROBE: Probe = Probe {
    name: "connection",
    summary: "TCP connections: who talks to whom, bytes, packets, retransmits, round-trip times, how they begin and end",
    enabled: true,
    metrics: metrics::ALL,
    counts: &[],
    view: VIEW,
    events: &[&tell::CONNECTION],
    options: &[],
    hooks: HOOKS,
    fields: shared::Fields::SPECS,
    capabilities: &["CAP_BPF", "CAP_PERFMON"],
    cost: "no program on the data path; see bench/README.md",
    rings: &["RECORDS"],
    plan,
    start: |start| Box::new(collect::Connections::new(start)),
};

const STATES: &str = "socket states";
/// The same on kernels where the cheaper hooks can be interrupted by other tasks.
const STATES_WHOLE: &str = "socket states, uninterrupted";
const LEFT_OUT: &str = "what another task does to its connections while one's is looked at is left out; \
                        sidecar_bpf_missed_runs_total tells how often";

const VIEW: View = View {
    columns: &[
        Column {
            title: "CONN",
            metrics: &[&metrics::OPENED],
            unit: Unit::None,
            help: "TCP connections established, made and accepted ones",
        },
        Column {
            title: "SENT",
            metrics: &[&metrics::BYTES_SENT],
            unit: Unit::Bytes,
            help: "Payload bytes sent over TCP",
        },
        Column {
            title: "RECV",
            metrics: &[&metrics::BYTES_RECEIVED],
            unit: Unit::Bytes,
            help: "Payload bytes received over TCP",
        },
    ],
    rates: &[],
};

static HOOKS: &[Hook] = &[
    Hook {
        name: STATES,
        required: true,
        missing: "no connections are seen",
        steps: &[
            Step { program: "state_tp_btf", via: Via::TpBtf("inet_sock_set_state"), degrades: "" },
            Step { program: "state_raw_tp", via: Via::RawTp("inet_sock_set_state"), degrades: "" },
        ],
    },
    Hook {
        name: STATES_WHOLE,
        required: true,
        missing: "no connections are seen",
        steps: &[
            Step {
                program: "state_tracepoint",
                via: Via::Tracepoint("sock", "inet_sock_set_state"),
                degrades: "",
            },
            Step { program: "state_tp_btf", via: Via::TpBtf("inet_sock_set_state"), degrades: LEFT_OUT },
            Step { program: "state_raw_tp", via: Via::RawTp("inet_sock_set_state"), degrades: LEFT_OUT },
        ],
    },
    Hook {
        name: "sweep of live connections",
        required: true,
        missing: "live connections are not counted",
        steps: &[Step { program: "sweep", via: Via::MapIterator("SOCKETS"), degrades: "" }],
    },
    Hook {
        name: "sweep of new connections",
        required: true,
        missing: "new connections are not counted before they end",
        steps: &[Step { program: "sweep_nursery", via: Via::MapIterator("NURSERY"), degrades: "" }],
    },
    Hook {
        name: "accepting process",
        required: false,
        missing: "accepted connections carry the name of the process that called listen()",
        steps: &[
            Step { program: "accept_fexit", via: Via::Fexit("inet_csk_accept"), degrades: "" },
            Step { program: "accept_kretprobe", via: Via::Kretprobe("inet_csk_accept"), degrades: "" },
            // Finds the holder of live connections at each tick; shorter ones belong to who closes them.
            Step { program: "scan_files", via: Via::Iterator("task_file"), degrades: "" },
        ],
    },
    Hook {
        name: "connections from before",
        required: false,
        missing: "connections opened before the agent are not seen",
        steps: &[Step { program: "scan_files", via: Via::Iterator("task_file"), degrades: "" }],
    },
    Hook {
        name: "connections without a process",
        required: false,
        missing: "connections from before the agent that no process holds are not seen",
        steps: &[Step { program: "scan_sockets", via: Via::NetIterator("tcp"), degrades: "" }],
    },
];

fn plan(start: &Start, facts: &dyn KernelFacts) -> Plan {
    let other = if facts.tracepoints_let_tasks_in() { STATES } else { STATES_WHOLE };
    let nursery = shared::nursery_slots(start.max_connections);
    let constants = shared::Constants {
        accept_parameters: facts.parameters("inet_csk_accept").unwrap_or(0),
        parked: shared::MAX_PARKED.min(start.max_connections / 16),
        nursery_mask: nursery - 1,
    };
    Plan {
        map_sizes: vec![("SOCKETS", start.max_connections), ("NURSERY", nursery)],
        constants: vec![Constant { symbol: "CONSTANTS", bytes: as_bytes(&constants).to_vec() }],
        without: vec![other],
        ..Plan::default()
    }
}
