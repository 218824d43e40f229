//! What this process may do, what the enabled probes need, and what is not seen without the rest.

use std::path::Path;

use caps::{Capability, CapsHashSet};
use serde_json::{Map, Value, json};
use sidecar_core::{Probe, Via};

use super::{
    check::{
        Check,
        Level::{Fail, Ok, Unknown, Warn},
    },
    host::Host,
};
use crate::config::Config;

/// The capabilities the agent has a use for.
const SHOWN: [Capability; 6] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
];
/// `/proc/self/ns/user` in the initial namespace (`PROC_USER_INIT_INO` in `include/linux/proc_ns.h`).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";
/// Since this version BPF maps count as memory of the cgroup, not as locked memory.
const MEMORY_OF_CGROUP: (u32, u32) = (5, 11);
pub(super) const RAISE_LIMIT: &str = "give it CAP_SYS_RESOURCE, or raise the limit: ulimit -l unlimited, systemd \
                                      LimitMEMLOCK=infinity, docker run --ulimit memlock=-1";
const LEAVE_USER_NAMESPACE: &str =
    "start it in the host's user namespace: no rootless container, in Kubernetes hostUsers: true";

/// What this process may do.
pub(super) struct Privileges {
    /// What the enabled probes need, without repetition.
    needed: Vec<&'static str>,
    effective: CapsHashSet,
    /// It lives in a user namespace of its own, whose capabilities count for nothing here.
    pub(super) own_user_namespace: bool,
    /// Nothing it executes gains privileges, so capabilities of files have no effect.
    setcap_is_moot: bool,
    /// Bytes of locked memory it may have, where BPF maps count as such; none if it may have as much as it likes.
    pub(super) locked_memory: Option<u64>,
    /// Whether a seccomp filter is on; none if that cannot be seen.
    pub(super) seccomp: Option<bool>,
}

impl Privileges {
    /// Those of this process, for these enabled probes.
    pub(super) fn of(host: &Host, enabled: &[&Probe]) -> Self {
        let status = host.read("proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<u32>().ok())
        };
        let namespace = std::fs::read_link(host.path("proc/self/ns/user"));
        let mut needed: Vec<&'static str> = Vec::new();
        for name in enabled.iter().flat_map(|probe| probe.capabilities) {
            if !needed.contains(name) {
                needed.push(name);
            }
        }
        let unlimited = host.version().is_some_and(|version| version >= MEMORY_OF_CGROUP)
            || host.capabilities.contains(&Capability::CAP_SYS_RESOURCE);
        Self {
            needed,
            locked_memory: host.locked_memory.filter(|_| !unlimited),
            effective: host.capabilities.clone(),
            own_user_namespace: namespace.is_ok_and(|link| link != Path::new(INITIAL_USER_NAMESPACE)),
            setcap_is_moot: field("NoNewPrivs") == Some(1),
            // `SECCOMP_MODE_FILTER`
            seccomp: field("Seccomp").map(|mode| mode == 2),
        }
    }

    /// Whether it counts here. `CAP_SYS_ADMIN` includes the two that were split off it in Linux 5.8.
    fn has(&self, capability: Capability) -> bool {
        let split_off = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
        !self.own_user_namespace
            && (self.effective.contains(&capability)
                || split_off && self.effective.contains(&Capability::CAP_SYS_ADMIN))
    }

    /// Those of the named capabilities that this process lacks.
    pub(super) fn missing(&self, needed: &[&'static str]) -> Vec<&'static str> {
        // An unknown name would be a mistake in a probe's declaration; it must not look satisfied.
        let lacks = |name: &&str| !name.parse().is_ok_and(|capability| self.has(capability));
        needed.iter().copied().filter(lacks).collect()
    }

    /// How to get what is missing.
    pub(super) fn advice(&self) -> String {
        if self.own_user_namespace {
            return LEAVE_USER_NAMESPACE.to_owned();
        }
        let short: Vec<&str> =
            self.needed.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name)).collect();
        let container = format!(
            "in a container, add {} (docker run --cap-add, Kubernetes securityContext.capabilities.add)",
            short.join(" and ")
        );
        if self.setcap_is_moot {
            return format!(
                "run as root or with ambient capabilities; setcap has no effect here, because no_new_privs is set \
                 (systemd: NoNewPrivileges=, Kubernetes: allowPrivilegeEscalation: false); {container}"
            );
        }
        let binary = std::env::current_exe().unwrap_or_else(|_| "sidecar".into());
        // All of them: setcap replaces what the file had.
        let list = self.needed.join(",").to_lowercase();
        format!("run as root, or: setcap {list}+ep {}; {container}", binary.display())
    }

    /// The rows about them, for these enabled probes.
    pub(super) fn checks(&self, enabled: &[&Probe], config: &Config) -> Vec<Check> {
        let mut checks = vec![self.capabilities(), self.locked_memory(), self.seccomp()];
        let apart: Vec<&str> = enabled
            .iter()
            .flat_map(|probe| probe.hooks)
            .filter(|hook| hook.steps.iter().any(|step| matches!(step.via, Via::NetIterator(_))))
            .map(|hook| hook.name)
            .collect();
        if !apart.is_empty() {
            checks.push(self.namespaces(&apart));
        }
        checks.push(self.run_times(&config.metrics.program_stats));
        checks
    }

    fn capabilities(&self) -> Check {
        let (there, absent): (Vec<_>, Vec<_>) =
            SHOWN.into_iter().partition(|one| self.effective.contains(one));
        let list = |capabilities: &[Capability]| {
            let names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        let missing = self.missing(&self.needed);
        let effective: Map<String, Value> =
            SHOWN.into_iter().map(|one| (one.to_string(), json!(self.effective.contains(&one)))).collect();
        let facts = json!({
            "effective": effective,
            "missing": missing,
            "own_user_namespace": self.own_user_namespace,
            "no_new_privs": self.setcap_is_moot,
        });
        let found = match (there.as_slice(), absent.as_slice()) {
            (_, []) => list(&there),
            ([], _) => format!("none of {}", list(&absent)),
            (_, _) => format!("{}; not {}", list(&there), list(&absent)),
        };
        let check = |level, found| Check::new("capabilities", level, found, facts);
        if missing.is_empty() {
            return check(Ok, found);
        }
        let found = if self.own_user_namespace {
            format!("{found}; but in a user namespace of its own, where they do not count for BPF")
        } else {
            format!("the enabled probes lack {}; there: {found}", missing.join(" and "))
        };
        check(Fail, found).advise(self.advice())
    }

    fn locked_memory(&self) -> Check {
        let facts = json!({ "limit": self.locked_memory });
        match self.locked_memory {
            None => Check::new("locked_memory", Ok, "no limit for BPF", facts),
            Some(limit) => {
                let found = format!("at most {limit} bytes, which on this kernel BPF maps count against");
                Check::new("locked_memory", Warn, found, facts).advise(RAISE_LIMIT)
            }
        }
    }

    fn seccomp(&self) -> Check {
        let (level, found) = match self.seccomp {
            Some(false) => (Ok, "no filter"),
            Some(true) => (Ok, "a filter is on; it must allow bpf and perf_event_open"),
            None => (Unknown, "unknown: /proc/self/status does not say"),
        };
        Check::new("seccomp", level, found, json!({ "filter": self.seccomp }))
    }

    /// Entering another network namespace takes one capability, getting hold of somebody else's another.
    fn namespaces(&self, apart: &[&str]) -> Check {
        let missing: Vec<&str> =
            [(Capability::CAP_SYS_ADMIN, "CAP_SYS_ADMIN"), (Capability::CAP_SYS_PTRACE, "CAP_SYS_PTRACE")]
                .into_iter()
                .filter(|(capability, _)| !self.has(*capability))
                .map(|(_, name)| name)
                .collect();
        let facts = json!({ "missing": missing });
        if missing.is_empty() {
            return Check::new("network_namespaces", Ok, "all that /proc shows can be entered", facts);
        }
        let found = format!("only the agent's own is looked into for: {}", apart.join(", "));
        Check::new("network_namespaces", Warn, found, facts)
            .advise(self.unless_moot(format!("give it {} to look into the others", missing.join(" and "))))
    }

    fn run_times(&self, wanted: &str) -> Check {
        let may = self.has(Capability::CAP_SYS_ADMIN);
        let facts = json!({ "program_stats": wanted, "permitted": may });
        if wanted == "never" {
            return Check::new("run_times", Ok, "not measured: metrics.program_stats is never", facts);
        }
        if may {
            return Check::new(
                "run_times",
                Ok,
                "the kernel measures what its programs cost when asked",
                facts,
            );
        }
        Check::new("run_times", Warn, "what the kernel programs cost is not measured", facts)
            .advise(self.unless_moot("give it CAP_SYS_ADMIN, or set metrics.program_stats: never".to_owned()))
    }

    /// Giving capabilities is no use where they do not count.
    fn unless_moot(&self, advice: String) -> String {
        if self.own_user_namespace { LEAVE_USER_NAMESPACE.to_owned() } else { advice }
    }
}
