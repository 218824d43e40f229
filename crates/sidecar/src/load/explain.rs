//! Plain words for what the kernel answers when it refuses something, and what the user can do about it.

use std::{error::Error, io};

use aya::programs::ProgramError;
use caps::{CapSet, Capability};
use sidecar_core::{Step, Via};

/// Why one step of a ladder was refused.
pub(super) fn step(step: Step, error: &anyhow::Error) -> String {
    let errno = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    let log = match error.downcast_ref::<ProgramError>() {
        Some(ProgramError::LoadError { verifier_log, .. }) => last_words(&verifier_log.to_string()),
        _ => None,
    };
    let target = step.via.target();
    if error.to_string().contains("tracefs not found") {
        return "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing".to_owned();
    }
    match (errno, step.via) {
        (Some(libc::EPERM | libc::EACCES), _) if log.is_none() => {
            format!("not permitted: missing capabilities, or the kernel's policy refuses {}", step.via.kind())
        }
        (Some(libc::ENOENT), Via::Kprobe(_) | Via::Kretprobe(_)) => {
            format!("this kernel has no kprobes, or no function {target}")
        }
        (Some(libc::ENOENT | libc::ESRCH), _) => format!("this kernel has no {target}"),
        _ => match log {
            Some(log) => format!("the verifier refuses it: {log}"),
            None => error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": "),
        },
    }
}

/// The verifier's last line that is about the program, not about its statistics.
pub(super) fn last_words(log: &str) -> Option<String> {
    let noise = ["processed ", "verification time", "stack depth", "max_states"];
    let line = log
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !noise.iter().any(|noise| line.starts_with(noise)))?;
    Some(line.to_owned())
}

/// An error with all of its causes on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// The next step for a reason.
pub(super) fn advice(reason: &str) -> String {
    let refused =
        reason.contains("not permitted") || reason.contains("EPERM") || reason.contains("os error 1)");
    let text = if refused && caps::has_cap(None, CapSet::Effective, Capability::CAP_BPF).unwrap_or(false) {
        "the capabilities are there; on a kernel before 5.11 raise the limit of locked memory (ulimit -l unlimited, \
             systemd LimitMEMLOCK=infinity, docker run --ulimit memlock=-1), on others a security module or a seccomp \
             filter refuses it; sidecar doctor says which"
    } else if refused {
        "run as root, or give the binary its capabilities: setcap cap_bpf,cap_perfmon+ep PATH_TO_SIDECAR"
    } else if reason.contains("no kprobes") || reason.contains("this kernel has no") {
        "nothing to do: this kernel lacks the hook"
    } else {
        "please report this with the output of: sidecar doctor --format json"
    };
    text.to_owned()
}
