//! The doctor on machines nobody has at hand: each is a directory with the few files such a machine would show.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use caps::{Capability, CapsHashSet};
use serde_json::{Value, json};
use sidecar_core::{ProbeReport, ProbeState};

use super::{check::Level, *};
use crate::cli::CommonArgs;

/// A made-up machine; gone at the end of the test.
struct Fake(Host);

impl Fake {
    /// A good one: everything there, everything permitted.
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("sidecar-doctor-{name}-{}", std::process::id()));
        let fake = Self(Host {
            root,
            release: "6.1.0-30-amd64".to_owned(),
            machine: "x86_64".to_owned(),
            capabilities: caps::all(),
            locked_memory: Some(65_536),
            cgroup_root: 0,
        });
        fake.write("sys/kernel/btf/vmlinux", "0123456789");
        fake.write("sys/kernel/security/lsm", "lockdown,capability");
        fake.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
        fake.write("proc/sys/net/core/bpf_jit_enable", "1\n");
        fake.write("proc/sys/kernel/unprivileged_bpf_disabled", "2\n");
        fake.write("proc/self/status", "Name:\tsidecar\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n");
        fake.write("proc/self/mountinfo", "41 31 0:38 / /cg2 rw,relatime shared:4 - cgroup2 cgroup2 rw\n");
        fake.link("proc/self/ns/user", "user:[4026531837]");
        fake.link("proc/self/ns/cgroup", "cgroup:[4026531835]");
        fake
    }

    fn path(&self, file: &str) -> PathBuf {
        let path = self.0.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    fn link(&self, file: &str, target: &str) {
        let path = self.path(file);
        if path.is_symlink() {
            fs::remove_file(&path).unwrap();
        }
        symlink(target, path).unwrap();
    }

    fn remove(&self, file: &str) {
        let path = self.0.path(file);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    fn only(mut self, capabilities: &[Capability]) -> Self {
        self.0.capabilities = capabilities.iter().copied().collect::<CapsHashSet>();
        self
    }

    fn privileges(&self) -> Privileges {
        Privileges::of(&self.0, &by_default())
    }

    /// The check of this name.
    fn check(&self, name: &str) -> Check {
        let mut checks = kernel::checks(&self.0);
        checks.extend(self.privileges().checks(&by_default(), &config(&[])));
        checks.into_iter().find(|check| check.name == name).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0.root).unwrap();
    }
}

/// The probes that run unless switched off.
fn by_default() -> Vec<&'static Probe> {
    PROBES.iter().copied().filter(|probe| probe.enabled).collect()
}

fn config(switches: &[(&str, bool)]) -> Config {
    let probes = switches.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect();
    // A file that sets nothing, so that none lying about is read.
    let args = CommonArgs { config: Some("/dev/null".into()), probes, ..CommonArgs::default() };
    crate::config::load(&args, std::iter::empty(), PROBES).unwrap()
}

#[test]
fn on_a_good_machine_every_check_is_ok_and_asks_for_nothing() {
    let fake = Fake::new("good");
    let mut checks = kernel::checks(&fake.0);
    checks.extend(fake.privileges().checks(&by_default(), &config(&[])));
    for check in checks {
        assert_eq!((check.level, check.advice.as_str()), (Level::Ok, ""), "{check:?}");
    }
}

#[test]
fn a_kernel_without_btf_fails_and_names_the_option() {
    let fake = Fake::new("no-btf");
    fake.remove("sys/kernel/btf");
    let check = fake.check("btf");
    assert_eq!((check.level, &check.facts["bytes"]), (Level::Fail, &Value::Null));
    assert!(check.advice.contains("CONFIG_DEBUG_INFO_BTF=y"), "{check:?}");
    fake.remove("sys");
    let check = fake.check("btf");
    assert_eq!(check.level, Level::Fail);
    assert!(check.advice.contains("mount -t sysfs"), "{check:?}");
}

#[test]
fn cgroups_are_told_apart_by_version() {
    let fake = Fake::new("cgroups");
    let v2 = "41 31 0:38 / /cg2 rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
    let v1 = "32 31 0:29 / /cg1/cpu rw,relatime - cgroup cgroup rw,cpu\n";
    for (mounts, level, version, mount) in [
        (v2.to_owned(), Level::Ok, json!("v2"), json!("/cg2")),
        (format!("{v1}{v2}"), Level::Ok, json!("v1 and v2"), json!("/cg2")),
        (v1.to_owned(), Level::Warn, json!("v1"), Value::Null),
        ("1 1 0:1 / / rw - ext4 /dev/sda rw\n".to_owned(), Level::Warn, Value::Null, Value::Null),
    ] {
        fake.write("proc/self/mountinfo", &mounts);
        let check = fake.check("cgroups");
        assert_eq!(check.level, level, "{check:?}");
        assert_eq!(check.facts, json!({ "version": version, "mount": mount }));
    }
    fake.write("proc/self/mountinfo", v1);
    let check = fake.check("cgroups");
    assert!(check.found.starts_with("this host has cgroup v1 only, filtering needs v2"), "{check:?}");
    assert!(check.found.contains("label cgroup"), "{check:?}");
    assert_eq!(check.advice, "filter by pid or comm instead");
}

#[test]
fn lockdown_is_read_from_the_brackets() {
    let fake = Fake::new("lockdown");
    let file = "sys/kernel/security/lockdown";
    for (text, level, mode) in [
        ("[none] integrity confidentiality\n", Level::Ok, json!("none")),
        ("none [integrity] confidentiality\n", Level::Ok, json!("integrity")),
        ("none integrity [confidentiality]\n", Level::Fail, json!("confidentiality")),
        ("something new", Level::Unknown, Value::Null),
    ] {
        fake.write(file, text);
        let check = fake.check("lockdown");
        assert_eq!((check.level, &check.facts["mode"]), (level, &mode), "{check:?}");
    }
    fake.remove(file);
    assert_eq!(fake.check("lockdown").level, Level::Ok);
    fake.remove("sys/kernel/security");
    let check = fake.check("lockdown");
    assert_eq!(check.level, Level::Unknown);
    assert!(check.advice.contains("mount -t securityfs"), "{check:?}");
}

#[test]
fn settings_that_cannot_be_read_are_unknown_and_nothing_worse() {
    let fake = Fake::new("settings");
    fake.remove("proc/sys");
    for name in ["jit", "unprivileged_bpf"] {
        assert_eq!(fake.check(name).level, Level::Unknown);
    }
    for (mode, level) in [("0", Level::Warn), ("1", Level::Ok), ("2", Level::Warn), ("x", Level::Unknown)] {
        fake.write("proc/sys/net/core/bpf_jit_enable", mode);
        assert_eq!(fake.check("jit").level, level, "{mode}");
    }
    fake.remove("proc");
    assert_eq!(fake.check("seccomp").level, Level::Unknown);
    assert_eq!(fake.check("cgroups").level, Level::Warn);
    assert_eq!(fake.check("capabilities").level, Level::Ok);
}

#[test]
fn old_and_foreign_kernels_are_pointed_out() {
    let mut fake = Fake::new("kernel");
    for (release, level) in [
        ("5.10.0-32-amd64", Level::Ok),
        ("7.2-rc1", Level::Ok),
        ("5.4.0-200-generic", Level::Warn),
        ("4.18.0-553.el8.x86_64", Level::Warn),
        ("next-20260101", Level::Unknown),
    ] {
        fake.0.release = release.to_owned();
        assert_eq!(fake.check("kernel").level, level, "{release}");
    }
    fake.0.machine = "riscv64".to_owned();
    assert_eq!(fake.check("kernel").level, Level::Warn);
}

#[test]
fn missing_capabilities_are_named_with_all_that_setcap_must_be_given() {
    let needed: Vec<_> = by_default().iter().flat_map(|probe| probe.capabilities).copied().collect();
    assert!(needed.contains(&"CAP_PERFMON") && needed.contains(&"CAP_BPF"), "{needed:?}");
    let fake = Fake::new("caps").only(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN]);
    let check = fake.check("capabilities");
    assert_eq!(check.level, Level::Fail);
    assert_eq!(check.facts["missing"], json!(["CAP_PERFMON"]));
    assert_eq!(check.facts["effective"]["CAP_BPF"], true);
    assert_eq!(check.facts["effective"]["CAP_SYS_ADMIN"], false);
    assert!(check.advice.contains("setcap cap_bpf,cap_perfmon+ep /"), "{check:?}");
}

#[test]
fn sys_admin_stands_for_the_capabilities_split_off_it() {
    let fake = Fake::new("admin").only(&[Capability::CAP_SYS_ADMIN]);
    assert_eq!(fake.check("capabilities").level, Level::Ok);
    let check = fake.check("network_namespaces");
    assert_eq!((check.level, &check.facts["missing"]), (Level::Warn, &json!(["CAP_SYS_PTRACE"])));
}

#[test]
fn what_bpf_alone_cannot_see_is_said() {
    let fake = Fake::new("few").only(&[Capability::CAP_BPF, Capability::CAP_PERFMON]);
    assert_eq!(fake.check("capabilities").level, Level::Ok);
    assert_eq!(fake.check("run_times").level, Level::Warn);
    let check = fake.check("network_namespaces");
    assert_eq!(check.level, Level::Warn);
    assert!(check.advice.contains("CAP_SYS_ADMIN and CAP_SYS_PTRACE"), "{check:?}");
}

#[test]
fn all_capabilities_of_a_user_namespace_are_none() {
    let fake = Fake::new("userns");
    fake.link("proc/self/ns/user", "user:[4026532799]");
    let check = fake.check("capabilities");
    assert_eq!(check.level, Level::Fail);
    assert!(check.found.contains("user namespace"), "{check:?}");
    assert!(!check.advice.contains("setcap"), "{check:?}");
}

#[test]
fn setcap_is_not_recommended_where_it_has_no_effect() {
    let fake = Fake::new("nnp").only(&[]);
    fake.write("proc/self/status", "NoNewPrivs:\t1\nSeccomp:\t2\n");
    let check = fake.check("capabilities");
    assert!(check.advice.contains("setcap has no effect"), "{check:?}");
    assert_eq!(fake.check("seccomp").facts, json!({ "filter": true }));
}

#[test]
fn locked_memory_limits_only_old_kernels_and_only_without_the_capability_to_raise_it() {
    let mut fake = Fake::new("memlock").only(&[Capability::CAP_BPF, Capability::CAP_PERFMON]);
    assert_eq!(fake.check("locked_memory").level, Level::Ok);
    fake.0.release = "5.10.0-32-amd64".to_owned();
    let check = fake.check("locked_memory");
    assert_eq!((check.level, check.facts), (Level::Warn, json!({ "limit": 65_536 })));
    let refused = report(ProbeState::Failed, "map X: Operation not permitted (os error 1)");
    let advice = trial::advised(refused, &[], &fake.privileges(), "").advice;
    assert!(advice.contains("ulimit -l"), "{advice}");
    let fake = fake.only(&[Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYS_RESOURCE]);
    assert_eq!(fake.check("locked_memory").level, Level::Ok);
}

fn report(state: ProbeState, reason: &str) -> ProbeReport {
    ProbeReport {
        probe: PROBES[0].name,
        state,
        reason: reason.to_owned(),
        advice: "general".to_owned(),
        hooks: Vec::new(),
    }
}

#[test]
fn advice_follows_from_what_the_process_lacks() {
    let fake = Fake::new("advice");
    let refused = || report(ProbeState::Failed, "map X: Operation not permitted (os error 1)");
    let advice = |report, missing: &[&str], fake: &Fake| {
        trial::advised(report, missing, &fake.privileges(), "").advice
    };
    assert!(advice(refused(), &["CAP_BPF"], &fake).contains("setcap"));
    assert!(advice(refused(), &[], &fake).contains("security module"));
    fake.write("proc/self/status", "Seccomp:\t2\n");
    assert!(advice(refused(), &[], &fake).contains("seccomp profile"));
    assert_eq!(advice(report(ProbeState::Unsupported, "no such field"), &[], &fake), "general");
    assert_eq!(advice(report(ProbeState::Active, ""), &["CAP_BPF"], &fake), "general");
    let refused = report(ProbeState::Unsupported, "unknown func bpf_probe_read#4");
    assert_eq!(trial::advised(refused, &[], &fake.privileges(), "boot otherwise").advice, "boot otherwise");
}

fn trial(state: ProbeState, missing: &[&'static str]) -> Trial {
    Trial { probe: PROBES[0], report: report(state, "why"), missing: missing.to_vec() }
}

#[test]
fn the_exit_code_says_what_stands_in_the_way() {
    use ProbeState::{Active, Degraded, Failed, Off, Unsupported};
    const LACKS: &[&str] = &["CAP_BPF"];
    for (trials, readable, exit) in [
        (vec![trial(Active, &[])], true, Exit::Ok),
        (vec![trial(Active, &[]), trial(Off, LACKS)], true, Exit::Ok),
        (vec![trial(Off, &[])], true, Exit::Ok),
        (vec![trial(Active, LACKS)], true, Exit::Ok),
        (vec![trial(Failed, LACKS)], true, Exit::Privilege),
        (vec![trial(Active, &[]), trial(Degraded, LACKS)], true, Exit::Privilege),
        // Capabilities do not help where there is no type information.
        (vec![trial(Unsupported, LACKS)], false, Exit::Kernel),
        (vec![trial(Unsupported, &[]), trial(Failed, &[])], true, Exit::Kernel),
        (vec![trial(Active, &[]), trial(Failed, &[])], true, Exit::Failure),
        (vec![trial(Degraded, &[])], true, Exit::Failure),
    ] {
        let states: Vec<_> = trials.iter().map(|trial| (trial.report.state, trial.missing.clone())).collect();
        assert_eq!(trial::verdict(&trials, readable).0, exit, "{states:?}");
    }
}

fn findings(fake: &Fake, trials: Vec<Trial>) -> Findings {
    let mut checks = kernel::checks(&fake.0);
    checks.extend(fake.privileges().checks(&by_default(), &config(&[])));
    let (exit, summary) = trial::verdict(&trials, true);
    Findings { checks, trials, exit, summary }
}

#[test]
fn the_text_fits_the_terminal_and_is_coloured_only_when_asked() {
    let fake = Fake::new("text").only(&[]);
    fake.remove("sys");
    fake.write("proc/self/mountinfo", "32 31 0:29 / /cg1 rw - cgroup cgroup rw,cpu\n");
    let findings = findings(&fake, vec![trial(ProbeState::Failed, &["CAP_BPF"])]);
    let text = show::text(&findings, false);
    // Paths are never broken; the test's own executable is one.
    let own = |line: &str| line.contains("/deps/");
    assert!(text.lines().all(|line| line.chars().count() <= 90 || own(line)), "{text}");
    assert!(!text.contains('\x1b') && show::text(&findings, true).contains("\x1b[31mFAIL"), "{text}");
    let result = format!("Result: capabilities are missing: {} (failed)\n", PROBES[0].name);
    assert!(text.ends_with(&result), "{text}");
}

#[test]
fn the_document_has_the_members_the_manual_page_lists() {
    let fake = Fake::new("json");
    let text = show::json(&findings(&fake, vec![trial(ProbeState::Degraded, &[])]));
    let document: Value = serde_json::from_str(&text).unwrap();
    let manual = include_str!("../../../../docs/doctor.md");
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut all = members(&document);
    all.extend(members(&document["probes"][0]));
    for check in document["checks"].as_array().unwrap() {
        all.extend(members(check));
        all.push(check["check"].as_str().unwrap().to_owned());
        all.extend(members(&check["facts"]));
    }
    for member in all {
        assert!(manual.contains(&format!("`{member}`")), "docs/doctor.md does not mention `{member}`");
    }
    assert_eq!(document["exit_code"], 1);
    assert_eq!(document["probes"][0]["state"], "degraded");
}

#[test]
fn a_filter_that_names_nothing_there_fails() {
    let fake = Fake::new("filter");
    let look = |yaml: &str| {
        fake.write("config.yaml", yaml);
        let args = CommonArgs { config: Some(fake.path("config.yaml")), ..CommonArgs::default() };
        let config = crate::config::load(&args, std::iter::empty(), PROBES).unwrap();
        filter(&config, &fake.0)
    };
    assert_eq!(look(""), None);
    assert_eq!(look("target: {ports: [80]}").unwrap().level, Level::Ok);
    assert_eq!(look("target: {comms: [a-name-of-more-than-15-bytes]}").unwrap().level, Level::Warn);
    let check = look("target: {pids: [77]}").unwrap();
    assert_eq!(check.level, Level::Fail);
    assert!(check.found.contains("no process 77"), "{check:?}");
}

#[test]
fn this_machine_is_described_as_uname_does() {
    let host = Host::this();
    let output = std::process::Command::new("uname").args(["-r", "-m"]).output().unwrap();
    let expected = format!("{} {}", host.release, host.machine);
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected);
}
