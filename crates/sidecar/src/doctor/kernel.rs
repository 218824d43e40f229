//! What the kernel offers: version, type information, cgroups, and the settings that restrict BPF.

use std::{fs::File, io};

use serde_json::json;

use super::{
    check::{
        Check,
        Level::{Fail, Ok, Unknown, Warn},
    },
    host::Host,
};
use crate::config::target;

/// The oldest kernel the tests run on.
const OLDEST: (u32, u32) = (5, 10);
/// The architectures the tests run on.
const MACHINES: [&str; 2] = ["x86_64", "aarch64"];
const BTF: &str = "sys/kernel/btf/vmlinux";
const SECURITY: &str = "sys/kernel/security";

pub(super) fn checks(host: &Host) -> Vec<Check> {
    vec![kernel(host), btf(host), cgroups(host), lockdown(host), jit(host), unprivileged(host)]
}

fn kernel(host: &Host) -> Check {
    let Host { release, machine, .. } = host;
    let facts = json!({ "release": release, "machine": machine });
    let check = |level, found| Check::new("kernel", level, format!("{release}, {machine}{found}"), facts);
    if !MACHINES.contains(&machine.as_str()) {
        return check(Warn, format!(": tested on {} only", MACHINES.join(" and ")));
    }
    match host.version() {
        Some(version) if version >= OLDEST => check(Ok, String::new()),
        Some(_) => check(Warn, format!(": older than {}.{}, the oldest tested", OLDEST.0, OLDEST.1))
            .advise("see below what works; a newer kernel has more hooks"),
        None => check(Unknown, ": a release without a version".to_owned()),
    }
}

fn btf(host: &Host) -> Check {
    let path = format!("/{BTF}");
    let check = |level, found: String, bytes: Option<u64>| {
        Check::new("btf", level, found, json!({ "path": path, "bytes": bytes }))
    };
    match File::open(host.path(BTF)).and_then(|file| file.metadata()) {
        io::Result::Ok(meta) => {
            check(Ok, format!("{path}, {:.1} MB", meta.len() as f64 / 1e6), Some(meta.len()))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            check(Fail, format!("{path}: {error}"), None).advise("make the file readable for this user")
        }
        Err(_) if !host.path("sys/kernel").exists() => check(Fail, format!("no {path}: no sysfs at /sys"), None)
            .advise("mount -t sysfs none /sys; in a container, mount the host's /sys read-only"),
        Err(_) => check(Fail, format!("no {path}: this kernel was built without its type information"), None)
            .advise(
                "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as Debian 11, Ubuntu 20.10, RHEL 8.2 and all \
                 newer ones are",
            ),
    }
}

fn cgroups(host: &Host) -> Check {
    let mounts = std::fs::read(host.path("proc/self/mountinfo")).unwrap_or_default();
    let mounts = String::from_utf8_lossy(&mounts);
    let has = |kind: &str| mounts.lines().any(|line| line.contains(&format!(" - {kind} ")));
    let version = match (has("cgroup2"), has("cgroup")) {
        (true, false) => Some("v2"),
        (true, true) => Some("v1 and v2"),
        (false, true) => Some("v1"),
        (false, false) => None,
    };
    let tree = target::cgroup_tree(&host.target());
    let facts = json!({ "version": version, "mount": tree.as_deref().ok() });
    match tree {
        Result::Ok(mount) => {
            let beside = if has("cgroup") { ", with v1 beside it" } else { "" };
            Check::new("cgroups", Ok, format!("v2 at {}{beside}", mount.display()), facts)
        }
        Err(why) => {
            let (why, advice) = why.split_once("; ").unwrap_or((&why, ""));
            let found = format!("{why}; the label cgroup shows numbers instead of paths");
            Check::new("cgroups", Warn, found, facts).advise(advice)
        }
    }
}

fn lockdown(host: &Host) -> Check {
    let check = |level, found: &str, mode: Option<&str>| {
        Check::new("lockdown", level, found.to_owned(), json!({ "mode": mode }))
    };
    let file = format!("{SECURITY}/lockdown");
    let text = match host.read(&file) {
        io::Result::Ok(text) => text,
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return check(Unknown, &format!("unknown: /{file}: {error}"), None);
        }
        // Every kernel that has securityfs lists its security modules there.
        Err(_) if host.path(SECURITY).join("lsm").exists() => {
            return check(Ok, "this kernel has none", Some("none"));
        }
        Err(_) => {
            return check(Unknown, &format!("unknown: no securityfs at /{SECURITY}"), None)
                .advise("mount -t securityfs none /sys/kernel/security shows it");
        }
    };
    // As in `none [integrity] confidentiality`.
    let mode = text.split(['[', ']']).nth(1).unwrap_or_default();
    match mode {
        "none" => check(Ok, "none", Some(mode)),
        "integrity" => check(Ok, "integrity, which leaves reading to BPF programs", Some(mode)),
        "confidentiality" => check(
            Fail,
            "confidentiality: BPF programs may not read kernel memory, kprobes are refused",
            Some(mode),
        )
        .advise("boot with lockdown=integrity on the kernel command line"),
        _ => check(Unknown, &format!("unknown: /{file} says {text:?}"), None),
    }
}

fn jit(host: &Host) -> Check {
    const NAME: &str = "net.core.bpf_jit_enable";
    let mode = host.setting(NAME);
    let check = |level, found: String| Check::new("jit", level, found, json!({ "bpf_jit_enable": mode }));
    match mode {
        Some(1) => check(Ok, "on".to_owned()),
        Some(0) => {
            check(Warn, "off: programs are interpreted, which is slow; no fentry and fexit".to_owned())
                .advise(format!("sysctl -w {NAME}=1"))
        }
        Some(2) => check(Warn, "on, and writes every program to the kernel log".to_owned())
            .advise(format!("sysctl -w {NAME}=1")),
        Some(other) => check(Unknown, format!("unknown: {NAME} is {other}")),
        // The kernel shows the setting in the initial network namespace only.
        None => {
            check(Unknown, format!("unknown: {NAME} cannot be seen, as in a network namespace of its own"))
        }
    }
}

fn unprivileged(host: &Host) -> Check {
    const NAME: &str = "kernel.unprivileged_bpf_disabled";
    let mode = host.setting(NAME);
    let found = match mode {
        Some(0) => "every user may use some of BPF; the agent does not need that".to_owned(),
        Some(_) => "BPF is for users with capabilities, as usual".to_owned(),
        None => format!("unknown: {NAME} cannot be seen"),
    };
    let level = if mode.is_some() { Ok } else { Unknown };
    Check::new("unprivileged_bpf", level, found, json!({ "unprivileged_bpf_disabled": mode }))
}
