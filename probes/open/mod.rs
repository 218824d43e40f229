//! Which files are opened, by whom, how does it fail, and how long does it take?
//!
//! A program at the end of the one function that open, openat, openat2 and creat go through, on request one at its beginning
//! for latencies, and the same for `io_uring`'s. Nothing runs at any other system call, unless the kernel allows nothing else.

mod collect;
mod decode;
mod metrics;
pub mod shared;
#[cfg(test)]
mod test;

use sidecar_core::{
    Column, Hook, OptionKind, OptionSpec, Probe, Start, Step, Unit, Via, View,
    probe::{Constant, CountSpec, KernelFacts, Plan},
};

use crate::plain::{Plain, as_bytes};

// SAFETY: integers only, `#[repr(C)]`, no padding.
unsafe impl Plain for shared::Constants {}
// SAFETY: as above.
unsafe impl Plain for shared::Table {}
// SAFETY: as above.
unsafe impl Plain for [shared::Prefix; shared::MAX_PREFIXES] {}
// SAFETY: as above.
unsafe impl Plain for shared::Opened {}

/// The probe.
pub static PROBE: Probe = Probe {
    name: "open",
    summary: "Opened files: who opens what, which opens fail, and how long they take",
    enabled: false,
    metrics: &[&metrics::OPENS, &metrics::SECONDS],
    counts: &[CountSpec { noun: "opens", all: &metrics::OPENS, errors: None, seconds: None, by: "comm" }],
    view: VIEW,
    events: &[&decode::OPEN],
    options: &[
        OptionSpec {
            name: LATENCY,
            kind: OptionKind::Bool,
            default: "false",
            help: "Measure how long opens take; nearly doubles what an open costs",
        },
        OptionSpec {
            name: PATHS,
            kind: OptionKind::Texts,
            default: "[]",
            help: "Only files whose path begins with one of these: at most 8 of at most 64 bytes",
        },
    ],
    hooks: HOOKS,
    fields: shared::Fields::SPECS,
    capabilities: &["CAP_BPF", "CAP_PERFMON"],
    cost: "a program for every open, nearly twice as dear with latencies, nothing for other calls",
    rings: &[],
    plan,
    start: |start| Box::new(collect::Opens::new(start)),
};

const VIEW: View = View {
    columns: &[Column {
        title: "OPEN",
        metrics: &[&metrics::OPENS],
        unit: Unit::None,
        help: "Files opened, and opens that failed",
    }],
    rates: &[],
};

const LATENCY: &str = "latency";
const PATHS: &str = "paths";

const FUNCTION: &str = "do_sys_openat2";
const URING_FUNCTION: &str = "io_openat2";
const BEGUN: &str = "beginnings of opens";
const URING_BEGUN: &str = "beginnings of io_uring's opens";
const URING: &str = "io_uring's opens";

static HOOKS: &[Hook] = &[
    Hook {
        name: BEGUN,
        required: false,
        missing: "no latencies",
        steps: &[
            Step { program: "begin_fentry", via: Via::Fentry(FUNCTION), degrades: "" },
            Step { program: "begin_kprobe", via: Via::Kprobe(FUNCTION), degrades: "" },
            Step { program: "enter_tp_btf", via: Via::TpBtf("sys_enter"), degrades: SLOW },
            Step { program: "enter_raw_tp", via: Via::RawTp("sys_enter"), degrades: SLOW },
        ],
    },
    Hook {
        name: "opens",
        required: true,
        missing: "nothing is seen",
        steps: &[
            Step { program: "end_fexit", via: Via::Fexit(FUNCTION), degrades: "" },
            Step {
                program: "end_kretprobe",
                via: Via::Kretprobe(FUNCTION),
                degrades: "events have paths only with probes.open.latency",
            },
            Step { program: "exit_tp_btf", via: Via::TpBtf("sys_exit"), degrades: SLOW },
            Step { program: "exit_raw_tp", via: Via::RawTp("sys_exit"), degrades: SLOW },
        ],
    },
    Hook {
        name: URING_BEGUN,
        required: false,
        missing: "io_uring's opens are counted with the result unknown",
        steps: &[
            Step { program: "uring_begin_fentry", via: Via::Fentry(URING_FUNCTION), degrades: "" },
            Step { program: "uring_begin_kprobe", via: Via::Kprobe(URING_FUNCTION), degrades: "" },
        ],
    },
    Hook {
        name: URING,
        required: false,
        missing: "io_uring's opens are not seen",
        steps: &[
            Step { program: "uring_end_fexit", via: Via::Fexit(URING_FUNCTION), degrades: "" },
            Step { program: "uring_end_kretprobe", via: Via::Kretprobe(URING_FUNCTION), degrades: "" },
        ],
    },
];

const SLOW: &str = "makes every system call of the machine a little slower";

#[cfg(target_arch = "aarch64")]
mod calls {
    pub(super) const HERE: [u32; 4] = [u32::MAX, u32::MAX, 56, 437];
    pub(super) const COMPAT: [u32; 4] = [5, 8, 322, 437];
}
#[cfg(not(target_arch = "aarch64"))]
mod calls {
    /// open, creat, openat, openat2
    pub(super) const HERE: [u32; 4] = [2, 85, 257, 437];
    /// The same of 32-bit programs.
    pub(super) const COMPAT: [u32; 4] = [5, 8, 295, 437];
}

/// `metrics.labels` as the kernel side has it.
fn labels(start: &Start) -> u32 {
    let known = [("comm", shared::WITH_COMM), ("pid", shared::WITH_PID), ("cgroup", shared::WITH_CGROUP)];
    let wanted = known.iter().filter(|(name, _)| start.labels.iter().any(|label| label == name));
    wanted.fold(0, |bits, (_, bit)| bits | bit)
}

/// The prefixes as the kernel side compares them, and how many there are.
fn prefixes(paths: &[String]) -> ([shared::Prefix; shared::MAX_PREFIXES], u32) {
    let mut table = [shared::Prefix::NONE; shared::MAX_PREFIXES];
    let mut used = 0;
    for (prefix, path) in table.iter_mut().zip(paths) {
        for (at, byte) in path.bytes().take(shared::PREFIX_WORDS * 8).enumerate() {
            let mut bytes = [0; 8];
            bytes[at % 8] = byte;
            prefix.words[at / 8] |= u64::from_ne_bytes(bytes);
            bytes[at % 8] = 0xff;
            prefix.masks[at / 8] |= u64::from_ne_bytes(bytes);
        }
        used += 1;
    }
    (table, used)
}

fn plan(start: &Start, facts: &dyn KernelFacts) -> Plan {
    let latency = start.options.bool(LATENCY);
    let (prefixes, used) = prefixes(start.options.texts(PATHS));
    let constants = shared::Constants {
        labels: labels(start),
        latency: u32::from(latency),
        prefixes: used,
        result_if_deferred: u32::from(!facts.has_member("io_kiocb.cqe")),
        calls: calls::HERE,
        compat_calls: calls::COMPAT,
    };
    let mut without = Vec::new();
    // Kretprobes know of paths only by the beginnings.
    if !latency && used == 0 {
        without.push(BEGUN);
    }
    if !facts.has_member("io_open.how") {
        // A kernel without io_uring.
        without.extend([URING_BEGUN, URING]);
    }
    Plan {
        map_sizes: vec![("COUNTS", u32::try_from(start.max_series).unwrap_or(u32::MAX))],
        constants: vec![
            Constant { symbol: "CONSTANTS", bytes: as_bytes(&constants).to_vec() },
            Constant { symbol: "PREFIXES", bytes: as_bytes(&prefixes).to_vec() },
        ],
        without,
        ..Plan::default()
    }
}
