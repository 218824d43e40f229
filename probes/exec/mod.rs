//! Which programs are started, by whom, with what result; and how do processes end?
//!
//! A program at the tracepoint of a successful exec, one where processes end, and one where execve and execveat return
//! with an error. Nothing runs at any other system call.

mod collect;
mod decode;
mod metrics;
mod redact;
pub mod shared;
#[cfg(test)]
mod test;

use sidecar_core::{
    Column, CountSpec, Hook, OptionKind, OptionSpec, Probe, Start, Step, Unit, Via, View,
    probe::{Constant, KernelFacts, Plan},
};

use crate::plain::{Plain, as_bytes};

// SAFETY: integers only, `#[repr(C)]`, no padding.
unsafe impl Plain for shared::Constants {}
// SAFETY: as above.
unsafe impl Plain for shared::Exec {}
// SAFETY: as above.
unsafe impl Plain for shared::Exit {}

/// The probe.
pub static PROBE: Probe = Probe {
    name: "exec",
    summary: "Programs that are started, starts that fail, and processes that end: who, how, after how long",
    enabled: true,
    metrics: &[&metrics::EXECS, &metrics::EXITS, &metrics::LIFETIME],
    counts: &[CountSpec { noun: "execs", all: &metrics::EXECS, errors: None, seconds: None, by: "comm" }],
    view: VIEW,
    events: &[&decode::EXEC, &decode::EXIT],
    options: OPTIONS,
    hooks: HOOKS,
    fields: shared::Fields::SPECS,
    capabilities: &["CAP_BPF", "CAP_PERFMON"],
    cost: "nothing but for programs that start and end; see bench/README.md",
    rings: &[],
    plan,
    start: |start| Box::new(collect::Execs::new(start)),
};

const VIEW: View = View {
    columns: &[Column {
        title: "EXEC",
        metrics: &[&metrics::EXECS],
        unit: Unit::None,
        help: "Programs started, and starts that failed",
    }],
    rates: &[],
};

static OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "redact",
        kind: OptionKind::Bool,
        default: "true",
        help: "In events, hide what looks like a secret among a program's arguments",
    },
    OptionSpec {
        name: "failed",
        kind: OptionKind::Bool,
        default: "true",
        help: "Count starts of programs that fail",
    },
];

#[cfg(target_arch = "aarch64")]
mod calls {
    pub(super) const EXECVE: &str = "__arm64_sys_execve";
    pub(super) const EXECVEAT: &str = "__arm64_sys_execveat";
    pub(super) const COMPAT: &str = "__arm64_compat_sys_execve";
    /// Before 5.15: the size of a kernel stack less that of `struct pt_regs`.
    pub(super) const REGISTERS: u32 = 16 * 1024 - 336;
}
#[cfg(not(target_arch = "aarch64"))]
mod calls {
    pub(super) const EXECVE: &str = "__x64_sys_execve";
    pub(super) const EXECVEAT: &str = "__x64_sys_execveat";
    pub(super) const COMPAT: &str = "__ia32_compat_sys_execve";
    /// Before 5.15: the size of a kernel stack less that of `struct pt_regs`.
    pub(super) const REGISTERS: u32 = 16 * 1024 - 168;
}

const FAILED: &str = "failed execve";
const FAILED_AT: &str = "failed execveat";
const FAILED_COMPAT: &str = "failed execve of 32-bit programs";

static HOOKS: &[Hook] = &[
    Hook {
        name: "starts of programs",
        required: true,
        missing: "nothing is seen",
        steps: &[
            Step { program: "exec_tp_btf", via: Via::TpBtf("sched_process_exec"), degrades: "" },
            Step { program: "exec_raw_tp", via: Via::RawTp("sched_process_exec"), degrades: "" },
        ],
    },
    Hook {
        name: "ends of processes",
        required: true,
        missing: "nothing is seen",
        steps: &[
            Step { program: "exit_tp_btf", via: Via::TpBtf("sched_process_exit"), degrades: "" },
            Step { program: "exit_raw_tp", via: Via::RawTp("sched_process_exit"), degrades: "" },
        ],
    },
    Hook {
        name: FAILED,
        required: false,
        missing: "failed starts of programs are not seen",
        steps: &[
            Step { program: "failed_fexit", via: Via::Fexit(calls::EXECVE), degrades: "" },
            Step { program: "failed_kretprobe", via: Via::Kretprobe(calls::EXECVE), degrades: "" },
            Step {
                program: "failed_tracepoint",
                via: Via::Tracepoint("syscalls", "sys_exit_execve"),
                degrades: "makes every system call of the machine a little slower; probes.exec.failed: false avoids it",
            },
        ],
    },
    Hook {
        name: FAILED_AT,
        required: false,
        missing: "failed starts of programs with execveat are not seen",
        steps: &[
            Step { program: "failed_at_fexit", via: Via::Fexit(calls::EXECVEAT), degrades: "" },
            Step { program: "failed_at_kretprobe", via: Via::Kretprobe(calls::EXECVEAT), degrades: "" },
            Step {
                program: "failed_at_tracepoint",
                via: Via::Tracepoint("syscalls", "sys_exit_execveat"),
                degrades: "as for execve",
            },
        ],
    },
    Hook {
        name: FAILED_COMPAT,
        required: false,
        missing: "failed starts of programs by 32-bit programs are not seen",
        steps: &[
            Step { program: "failed_compat_fexit", via: Via::Fexit(calls::COMPAT), degrades: "" },
            Step { program: "failed_compat_kretprobe", via: Via::Kretprobe(calls::COMPAT), degrades: "" },
        ],
    },
];

fn plan(start: &Start, facts: &dyn KernelFacts) -> Plan {
    let tells_last = facts.parameters("sched_process_exit").is_some_and(|parameters| parameters > 1);
    let constants = shared::Constants {
        labels: collect::labels(start),
        tells_last: u32::from(tells_last),
        registers: if facts.parameters("bpf_task_pt_regs").is_some() { 0 } else { calls::REGISTERS },
        execve: libc::SYS_execve as u32,
        execveat: libc::SYS_execveat as u32,
    };
    let mut without = Vec::new();
    if !start.options.bool("failed") {
        without.extend([FAILED, FAILED_AT, FAILED_COMPAT]);
    } else if facts.parameters(calls::COMPAT).is_none() {
        // A kernel that runs no 32-bit programs.
        without.push(FAILED_COMPAT);
    }
    Plan {
        map_sizes: vec![
            ("COUNTS", u32::try_from(start.max_series).unwrap_or(u32::MAX)),
            // Without need for it, as small as can be.
            ("ENDED", if tells_last { 1 } else { shared::ENDED_ENTRIES }),
        ],
        constants: vec![Constant { symbol: "CONSTANTS", bytes: as_bytes(&constants).to_vec() }],
        without,
        ..Plan::default()
    }
}
