//! What arrives at the network interfaces: how many frames and bytes, of which protocols, and how many are damaged?
//!
//! An XDP program on each interface looks at the headers of each received frame, adds to counters of its own processor
//! and lets the frame pass. It sees what is received, not what is sent.

mod collect;
mod metrics;
pub mod shared;
#[cfg(test)]
mod test;

use sidecar_core::{
    CountSpec, Hook, OptionKind, OptionSpec, Probe, Rate, Start, Step, Via, View, XdpMode,
    probe::{Interfaces, KernelFacts, Plan},
};

/// The probe.
pub static PROBE: Probe = Probe {
    name: "packet",
    summary: "Frames and bytes received by network interfaces, by protocol; VLANs, fragments and malformed frames",
    enabled: false,
    metrics: metrics::ALL,
    options: OPTIONS,
    hooks: HOOKS,
    fields: &[],
    counts: &[CountSpec {
        noun: "packets",
        all: &metrics::RECEIVED,
        errors: None,
        seconds: None,
        by: "protocol",
    }],
    view: VIEW,
    events: &[],
    capabilities: &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"],
    cost: "some 60 instructions for each received frame, and what XDP itself takes; see bench/README.md",
    rings: &[],
    plan,
    start: |start| Box::new(collect::Frames::new(start)),
};

const VIEW: View = View {
    columns: &[],
    rates: &[Rate { title: "packets received", metric: &metrics::RECEIVED, by: "protocol" }],
};

const INTERFACES: &str = "interfaces";
const MODE: &str = "mode";

static OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: INTERFACES,
        kind: OptionKind::Texts,
        default: "[eth*, en*, wl*, ww*, -*.*]",
        help: "Interfaces of the agent's network namespace to count at, now and when they appear: names with * and ?, and after - those to leave out",
    },
    OptionSpec {
        name: MODE,
        kind: OptionKind::Choice(&["auto", "native", "generic"]),
        default: "auto",
        help: "Where the program runs: native in the driver, generic in the network stack, auto in the driver if that has XDP",
    },
];

const AFTER_GRO: &str =
    "counted in the network stack, where frames that receive offload has merged count as one";

static HOOKS: &[Hook] = &[Hook {
    name: "received frames",
    required: true,
    missing: "nothing is counted",
    steps: &[
        Step { program: "count_frags", via: Via::Xdp(XdpMode::Native), degrades: "" },
        Step { program: "count_linear", via: Via::Xdp(XdpMode::Native), degrades: "" },
        Step { program: "count_frags", via: Via::Xdp(XdpMode::Generic), degrades: AFTER_GRO },
        Step { program: "count_linear", via: Via::Xdp(XdpMode::Generic), degrades: AFTER_GRO },
    ],
}];

fn plan(start: &Start, _: &dyn KernelFacts) -> Plan {
    let mode = match start.options.text(MODE) {
        "native" => Some(XdpMode::Native),
        "generic" => Some(XdpMode::Generic),
        _ => None,
    };
    let interfaces = Interfaces { patterns: start.options.texts(INTERFACES).to_vec(), mode };
    Plan { interfaces, ..Plan::default() }
}
