//! Which system calls are made, by whom, how do they fail, and how long do they take?
//!
//! Like `strace -c` for everything at once, without stopping anything: a program at the tracepoint where calls return
//! counts them in a per-CPU table. A second one at their beginning, for latencies, is only attached when asked for.

mod collect;
mod metrics;
mod names;
mod series;
pub mod shared;
mod slots;
mod tables;
#[cfg(test)]
mod test;

use sidecar_core::{
    Column, CountSpec, Hook, OptionKind, OptionSpec, Probe, Start, Step, Unit, Via, View,
    probe::{Constant, KernelFacts, Plan},
};

use crate::plain::{Plain, as_bytes};

// SAFETY: integers only, `#[repr(C)]`, no padding.
unsafe impl Plain for shared::Cell {}
// SAFETY: as above.
unsafe impl Plain for shared::TimedCell {}
// SAFETY: as above.
unsafe impl Plain for shared::Rest {}
// SAFETY: as above.
unsafe impl Plain for shared::Constants {}

/// The probe.
pub static PROBE: Probe = Probe {
    name: "syscall",
    summary: "System calls: how many, by whom, with which errors, and how long they take",
    enabled: false,
    metrics: metrics::ALL,
    counts: &[CountSpec {
        noun: "syscalls",
        all: &metrics::CALLS,
        errors: Some(&metrics::ERRORS),
        seconds: Some(&metrics::SECONDS),
        by: "syscall",
    }],
    view: VIEW,
    events: &[],
    options: &[
        OptionSpec {
            name: LATENCY,
            kind: OptionKind::Bool,
            default: "false",
            help: "Measure how long calls take; costs a second program for every call",
        },
        OptionSpec {
            name: MAX_PROCESSES,
            kind: OptionKind::Integer { min: 1, max: shared::MAX_SLOTS as u64 - shared::FIRST_SLOT as u64 },
            default: "1024",
            help: "Processes, as metrics.labels tells them apart, counted at a time; calls of more go to `other`",
        },
    ],
    hooks: HOOKS,
    fields: shared::Fields::SPECS,
    capabilities: &["CAP_BPF", "CAP_PERFMON"],
    cost: "a program for every call: some 70 instructions above the tracepoint itself; see bench/README.md",
    rings: &[],
    plan,
    start: |start| Box::new(collect::Syscalls::new(start)),
};

const VIEW: View = View {
    columns: &[Column {
        title: "SYSCALL",
        metrics: &[&metrics::CALLS],
        unit: Unit::None,
        help: "System calls that returned",
    }],
    rates: &[],
};

const LATENCY: &str = "latency";
const MAX_PROCESSES: &str = "max_processes";

const COUNTED: &str = "returns of calls";
const TIMED: &str = "returns of calls, timed";
const BEGUN: &str = "beginnings of calls";
/// The same three on kernels where the cheaper hooks can be interrupted by other tasks.
const COUNTED_WHOLE: &str = "returns of calls, uninterrupted";
const TIMED_WHOLE: &str = "returns of calls, timed, uninterrupted";
const BEGUN_WHOLE: &str = "beginnings of calls, uninterrupted";
const LEFT_OUT: &str = "calls made while another task's is being counted are left out; sidecar_bpf_missed_runs_total tells how many";

static HOOKS: &[Hook] = &[
    // Before the calls themselves: nothing may be remembered of a task that had the same id.
    Hook {
        name: "new tasks",
        required: true,
        missing: "calls are counted under other processes' names",
        steps: &[
            Step { program: "fork_tp_btf", via: Via::TpBtf("sched_process_fork"), degrades: "" },
            Step { program: "fork_raw_tp", via: Via::RawTp("sched_process_fork"), degrades: "" },
        ],
    },
    Hook {
        name: "new names",
        required: true,
        missing: "calls are counted under former names",
        steps: &[
            Step { program: "rename_tp_btf", via: Via::TpBtf("task_rename"), degrades: "" },
            Step { program: "rename_raw_tp", via: Via::RawTp("task_rename"), degrades: "" },
        ],
    },
    Hook {
        name: "moves between cgroups",
        required: false,
        missing: "calls are counted under the former cgroup until the next tick",
        steps: &[Step { program: "cgroup_raw_tp", via: Via::RawTp("cgroup_attach_task"), degrades: "" }],
    },
    Hook {
        name: COUNTED,
        required: true,
        missing: "no calls are seen",
        steps: &[
            Step { program: "exit_tp_btf", via: Via::TpBtf("sys_exit"), degrades: "" },
            Step { program: "exit_raw_tp", via: Via::RawTp("sys_exit"), degrades: "" },
        ],
    },
    Hook {
        name: COUNTED_WHOLE,
        required: true,
        missing: "no calls are seen",
        steps: &[
            Step {
                program: "exit_tracepoint",
                via: Via::Tracepoint("raw_syscalls", "sys_exit"),
                degrades: "",
            },
            Step { program: "exit_tp_btf", via: Via::TpBtf("sys_exit"), degrades: LEFT_OUT },
            Step { program: "exit_raw_tp", via: Via::RawTp("sys_exit"), degrades: LEFT_OUT },
        ],
    },
    Hook {
        name: BEGUN_WHOLE,
        required: false,
        missing: "no latencies",
        steps: &[
            Step {
                program: "enter_tracepoint",
                via: Via::Tracepoint("raw_syscalls", "sys_enter"),
                degrades: "",
            },
            Step { program: "enter_tp_btf", via: Via::TpBtf("sys_enter"), degrades: LEFT_OUT },
            Step { program: "enter_raw_tp", via: Via::RawTp("sys_enter"), degrades: LEFT_OUT },
        ],
    },
    Hook {
        name: TIMED_WHOLE,
        required: true,
        missing: "no calls are seen",
        steps: &[
            Step {
                program: "timed_exit_tracepoint",
                via: Via::Tracepoint("raw_syscalls", "sys_exit"),
                degrades: "",
            },
            Step { program: "timed_exit_tp_btf", via: Via::TpBtf("sys_exit"), degrades: LEFT_OUT },
            Step { program: "timed_exit_raw_tp", via: Via::RawTp("sys_exit"), degrades: LEFT_OUT },
        ],
    },
    Hook {
        name: BEGUN,
        required: false,
        missing: "no latencies",
        steps: &[
            Step { program: "enter_tp_btf", via: Via::TpBtf("sys_enter"), degrades: "" },
            Step { program: "enter_raw_tp", via: Via::RawTp("sys_enter"), degrades: "" },
        ],
    },
    Hook {
        name: TIMED,
        required: true,
        missing: "no calls are seen",
        steps: &[
            Step { program: "timed_exit_tp_btf", via: Via::TpBtf("sys_exit"), degrades: "" },
            Step { program: "timed_exit_raw_tp", via: Via::RawTp("sys_exit"), degrades: "" },
        ],
    },
];

/// What a configuration makes of the maps.
struct Sizes {
    timed: bool,
    /// Slots there are, counted from 0.
    slots: u32,
    /// Pages of one of the two tables; a power of two.
    pages: u32,
}

impl Sizes {
    fn of(start: &Start) -> Self {
        let timed = start.options.bool(LATENCY);
        let per_page = if timed { shared::TIMED_CELLS } else { shared::CELLS };
        let cells = start.max_series.clamp(256, 32_768).next_power_of_two();
        let processes = start.options.integer(MAX_PROCESSES) as u32;
        Self {
            timed,
            slots: (shared::FIRST_SLOT + processes).clamp(shared::FIRST_SLOT + 1, shared::MAX_SLOTS),
            pages: (cells / per_page).max(1).min(shared::MAX_PAGES as usize / 2) as u32,
        }
    }

    /// The map of the tables.
    fn map(&self) -> &'static str {
        if self.timed { "TIMED_CALLS" } else { "CALLS" }
    }
}

fn plan(start: &Start, facts: &dyn KernelFacts) -> Plan {
    let sizes = Sizes::of(start);
    let (forks, compat_forks) = names::forks();
    let labels = [("comm", shared::WITH_COMM), ("pid", shared::WITH_PID), ("cgroup", shared::WITH_CGROUP)];
    let wanted = labels.iter().filter(|(name, _)| start.labels.iter().any(|label| label == name));
    let constants =
        shared::Constants { forks, compat_forks, labels: wanted.fold(0, |bits, (_, bit)| bits | bit) };
    let slots = sizes.slots - shared::FIRST_SLOT;
    let mut map_sizes = vec![("SLOTS", slots), ("FREE", slots), (sizes.map(), 2 * sizes.pages)];
    if !sizes.timed {
        map_sizes.push(("ASIDE", 1));
    }
    Plan {
        map_sizes,
        constants: vec![Constant { symbol: "CONSTANTS", bytes: as_bytes(&constants).to_vec() }],
        without: unwanted(sizes.timed, facts.tracepoints_let_tasks_in()),
        ..Plan::default()
    }
}

/// The hooks that are not wanted: of those for counting, for timing, and the same uninterrupted, one kind is.
fn unwanted(timed: bool, interruptible: bool) -> Vec<&'static str> {
    let kinds: [&[&'static str]; 4] =
        [&[COUNTED], &[BEGUN, TIMED], &[COUNTED_WHOLE], &[BEGUN_WHOLE, TIMED_WHOLE]];
    let wanted = usize::from(timed) + 2 * usize::from(interruptible);
    kinds.iter().enumerate().filter(|(at, _)| *at != wanted).flat_map(|(_, names)| *names).copied().collect()
}
