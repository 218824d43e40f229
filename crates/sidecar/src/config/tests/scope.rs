//! From a configured target to what the kernel side compares.

use std::{fs, path::Path, process::Command};

use sidecar_common::scope::{
    BY_CGROUP, BY_CHILDREN, BY_COMM, BY_PID, BY_PORT, CommWords, MAX_COMMS, Scope, comm_words,
};

use super::{
    super::target::{Host, resolve},
    File, all, yaml,
};

fn name(text: &str) -> CommWords {
    let mut name = [0; 16];
    name[..text.len()].copy_from_slice(text.as_bytes());
    comm_words(&name)
}

#[test]
fn an_empty_target_passes_everything() {
    let resolved = resolve(&yaml("").unwrap(), &Host::default(), 7).unwrap();
    assert_eq!(resolved.scope, Scope { version: 7, ..Scope::ALL });
    assert!(resolved.pids.is_empty() && resolved.ports.is_empty() && resolved.notes.is_empty());
}

#[test]
fn each_kind_sets_its_flag_and_its_entries() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = child.id();
    let text = format!("target: {{pids: {pid}, children: true, ports: [443, 80], comms: [nginx, curl]}}");
    let resolved = resolve(&yaml(&text).unwrap(), &Host::default(), 1).unwrap();
    // The time ps gives for the child, in seconds since boot, is the same moment.
    let ticks = resolved.pids[0].1;
    let output = Command::new("ps").args(["-o", "etimes=", "-p", &pid.to_string()]).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let age: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let uptime: f64 = fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((uptime - ticks as f64 / 100.0 - age).abs() < 5.0, "{uptime} {ticks} {age}");
    assert_eq!(resolved.pids.len(), 1);
    assert_eq!(resolved.pids[0].0, pid);
    assert_eq!(resolved.ports, [443, 80]);
    assert_eq!(resolved.scope.flags, BY_PID | BY_CHILDREN | BY_PORT | BY_COMM);
    assert_eq!(resolved.scope.comm_count, 2);
    assert_eq!(resolved.scope.comms[..3], [name("nginx"), name("curl"), [0; 2]]);
    assert_eq!(resolved.scope.cgroup_count, 0);
}

#[test]
fn long_names_are_cut_as_the_kernel_cuts_them_and_the_user_is_told() {
    let config = yaml("target: {comms: [exactly-fifteen, very-long-name-one, very-long-name-two]}").unwrap();
    let resolved = resolve(&config, &Host::default(), 0).unwrap();
    assert_eq!(resolved.scope.comm_count, 2);
    assert_eq!(resolved.scope.comms[..2], [name("exactly-fifteen"), name("very-long-name-")]);
    assert_eq!(
        resolved.notes,
        [
            "target.comms: the kernel keeps 15 bytes of a name; \"very-long-name-one\" is compared as \"very-long-name-\"",
            "target.comms: the kernel keeps 15 bytes of a name; \"very-long-name-two\" is compared as \"very-long-name-\"",
        ]
    );
    // The kernel cuts at bytes, also within a character.
    let config = yaml("target: {comms: äöüäöüäöü}").unwrap();
    let mut expected = [0; 16];
    expected[..15].copy_from_slice(&"äöüäöüäöü".as_bytes()[..15]);
    let script = "printf äöüäöüäöü > /proc/$$/comm; cat /proc/$$/comm";
    let kernel = Command::new("sh").args(["-c", script]).output().unwrap().stdout;
    assert_eq!(kernel.strip_suffix(b"\n").unwrap(), &expected[..15]);
    assert_eq!(resolve(&config, &Host::default(), 0).unwrap().scope.comms[0], comm_words(&expected));
}

#[test]
fn as_many_names_as_fit_are_taken() {
    let names: Vec<String> = (0..MAX_COMMS).map(|number| format!("n{number}")).collect();
    let config = all(b"", &[], &["--comm", &names.join(",")]).unwrap();
    let resolved = resolve(&config, &Host::default(), 0).unwrap();
    assert_eq!(resolved.scope.comm_count as usize, MAX_COMMS);
    assert_eq!(resolved.scope.comms[MAX_COMMS - 1], name(names.last().unwrap()));
}

#[test]
fn what_does_not_exist_is_named_with_the_flag_it_came_from() {
    let config = all(b"", &[], &["--pid", "4194304", "--cgroup", "/zzz-none"]).unwrap();
    let file = File::new(b"");
    let host = Host { proc: file.0.with_extension("none"), ..Host::default() };
    let text = resolve(&config, &host, 0).unwrap_err().to_string();
    let mountinfo = host.proc.join("self/mountinfo");
    assert_eq!(
        text,
        format!(
            "--pid: target.pids: no process 4194304 (it has ended, or this user may not see it)\n--cgroup: \
             target.cgroup: cannot read {}: No such file or directory (os error 2)",
            mountinfo.display()
        )
    );
}

#[test]
fn a_cgroup_of_this_host_is_found_with_the_id_and_level_the_kernel_gives_it() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount =
        mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let Some(mount) = mount.map(Path::new).filter(|mount| mount.join("cgroup.procs").exists()) else {
        println!("skipped: no cgroup v2 tree here");
        return;
    };
    let parent = mount.join(format!("sidecar-test-{}", std::process::id()));
    if let Err(error) = fs::create_dir_all(parent.join("inner")) {
        println!("skipped: cannot make a cgroup: {error}");
        return;
    }
    let named = format!("/{}/inner", parent.file_name().unwrap().to_str().unwrap());
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let moved = fs::write(parent.join("inner/cgroup.procs"), child.id().to_string());
    let seen = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let stat = Command::new("stat").args(["-c", "%i"]).arg(parent.join("inner")).output().unwrap().stdout;
    let config =
        all(b"", &[], &["--cgroup", &named, "--cgroup", parent.join("inner").to_str().unwrap()]).unwrap();
    let resolved = resolve(&config, &Host::default(), 0);
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_dir(parent.join("inner")).unwrap();
    fs::remove_dir(&parent).unwrap();
    moved.unwrap();
    assert!(seen.lines().any(|line| line == format!("0::{named}")), "{seen}");
    let scope = resolved.unwrap().scope;
    assert_eq!((scope.flags, scope.cgroup_count), (BY_CGROUP, 1));
    assert_eq!(scope.cgroups[0].id.to_string(), String::from_utf8(stat).unwrap().trim());
    assert_eq!(scope.cgroups[0].level, 2);
}

#[test]
fn a_pid_namespace_of_the_agents_own_is_pointed_out() {
    let file = File::new(b"");
    let proc = file.0.with_extension("proc");
    let process = proc.join("5");
    fs::create_dir_all(&process).unwrap();
    fs::create_dir_all(proc.join("self/ns")).unwrap();
    fs::write(process.join("stat"), "5 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99 20").unwrap();
    fs::write(process.join("status"), "Name:\ta\nTgid:\t5\n").unwrap();
    let config = yaml("target: {pids: 5}").unwrap();
    let host = Host { proc: proc.clone(), ..Host::default() };
    let notes = |link: &str| {
        let path = proc.join("self/ns/pid");
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(link, &path).unwrap();
        let resolved = resolve(&config, &host, 0).unwrap();
        assert_eq!(resolved.pids, [(5, 99)]);
        resolved.notes
    };
    assert!(notes("pid:[4026531836]").is_empty());
    assert_eq!(notes("pid:[4026532999]").len(), 1);
    fs::remove_dir_all(proc).unwrap();
}
