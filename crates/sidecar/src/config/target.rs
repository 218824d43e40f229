//! From what the user named to what the kernel can compare: processes with their start times, cgroups by id and level,
//! names cut as the kernel cuts them. Done at start, on reload and when the API changes the filter.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sidecar_common::{
    owner::COMM_LEN,
    scope::{
        BY_CGROUP, BY_CHILDREN, BY_COMM, BY_PID, BY_PORT, MAX_CGROUPS, MAX_COMMS, MAX_LISTED, Scope,
        comm_words,
    },
};

use super::{
    Config,
    cgroup::Hierarchy,
    error::{ConfigErrors, Problem, quote},
};

/// `/proc/self/ns/pid` in the initial namespace (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A target the kernel side can work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// For the `SCOPE` map.
    pub(crate) scope: Scope,
    /// Process ids with their start times in clock ticks since boot, so that a reused id can be told apart.
    pub(crate) pids: Vec<(u32, u64)>,
    /// For the `SCOPE_PORTS` map.
    pub(crate) ports: Vec<u16>,
    /// What the user should know, for the log.
    pub(crate) notes: Vec<String>,
}

/// Where the host is looked at; tests point it at a directory of their own.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// `/proc`.
    pub(crate) proc: PathBuf,
    /// Inode number of the root of the cgroup v2 hierarchy: 1, since kernfs counts from its root.
    pub(crate) cgroup_root: u64,
}

impl Default for Host {
    fn default() -> Self {
        Self { proc: PathBuf::from("/proc"), cgroup_root: 1 }
    }
}

/// Looks everything up on this host. `version` goes into the scope as it is. All problems are reported at once.
pub(crate) fn resolve(config: &Config, host: &Host, version: u32) -> Result<Resolved, ConfigErrors> {
    let target = &config.target;
    let mut out = Resolved {
        scope: Scope { version, ..Scope::ALL },
        pids: Vec::with_capacity(target.pids.len()),
        ports: target.ports.clone(),
        notes: Vec::new(),
    };
    let mut problems = Vec::new();
    let mut refuse = |key: &str, text: String| {
        problems.push(Problem { source: config.source(key).clone(), text: format!("{key}: {text}") });
    };
    for pid in &target.pids {
        match start_ticks(&host.proc, *pid) {
            Ok(ticks) => out.pids.push((*pid, ticks)),
            Err(text) => refuse("target.pids", text),
        }
    }
    for (key, count, most) in [
        ("target.pids", target.pids.len(), MAX_LISTED as usize),
        ("target.ports", target.ports.len(), MAX_LISTED as usize),
        ("target.cgroup", target.cgroups.len(), MAX_CGROUPS),
        ("target.comms", target.comms.len(), MAX_COMMS),
    ] {
        if count > most {
            refuse(key, format!("{count} entries, at most {most} fit"));
        }
    }
    if !target.cgroups.is_empty() {
        match Hierarchy::find(host) {
            Err(text) => refuse("target.cgroup", text),
            Ok(hierarchy) => cgroups(&mut out.scope, &target.cgroups, &hierarchy, &mut refuse),
        }
    }
    comms(&mut out, &target.comms);
    if !problems.is_empty() {
        return Err(ConfigErrors { problems, note: None });
    }
    for (flag, on) in [
        (BY_PID, !target.pids.is_empty()),
        (BY_CHILDREN, !target.pids.is_empty() && target.children),
        (BY_PORT, !target.ports.is_empty()),
        (BY_CGROUP, !target.cgroups.is_empty()),
        (BY_COMM, !target.comms.is_empty()),
    ] {
        out.scope.flags |= if on { flag } else { 0 };
    }
    if !out.pids.is_empty() && in_pid_namespace(&host.proc) {
        out.notes.push(
            "target.pids: the agent runs in a pid namespace of its own, the kernel filters by the host's ids; run it \
             with the host's pid namespace"
                .to_owned(),
        );
    }
    Ok(out)
}

fn cgroups(
    scope: &mut Scope,
    names: &[String],
    hierarchy: &Hierarchy,
    refuse: &mut impl FnMut(&str, String),
) {
    for name in names {
        match hierarchy.resolve(name) {
            Err(text) => refuse("target.cgroup", text),
            Ok(cgroup) => {
                let used = scope.cgroup_count as usize;
                let known = scope.cgroups.iter().take(used).any(|known| known.id == cgroup.id);
                if let Some(slot) = scope.cgroups.get_mut(used).filter(|_| !known) {
                    *slot = cgroup;
                    scope.cgroup_count += 1;
                }
            }
        }
    }
}

/// The kernel keeps 15 bytes of a name, so more cannot be compared.
fn comms(out: &mut Resolved, names: &[String]) {
    for name in names {
        let kept = name.len().min(COMM_LEN - 1);
        let mut comm = [0; COMM_LEN];
        comm[..kept].copy_from_slice(&name.as_bytes()[..kept]);
        if kept < name.len() {
            let shown = quote(&String::from_utf8_lossy(&comm[..kept]));
            out.notes.push(format!(
                "target.comms: the kernel keeps 15 bytes of a name; {} is compared as {shown}",
                quote(name)
            ));
        }
        let used = out.scope.comm_count as usize;
        let comm = comm_words(&comm);
        let known = out.scope.comms.iter().take(used).any(|known| *known == comm);
        if let Some(slot) = out.scope.comms.get_mut(used).filter(|_| !known) {
            *slot = comm;
            out.scope.comm_count += 1;
        }
    }
}

/// Where the cgroup v2 tree is mounted, if it is.
pub(crate) fn cgroup_mount(host: &Host) -> Option<PathBuf> {
    cgroup_tree(host).ok()
}

/// The same, or why there is none to filter by and, behind a semicolon, what to do.
pub(crate) fn cgroup_tree(host: &Host) -> Result<PathBuf, String> {
    Hierarchy::find(host).map(Hierarchy::into_mount)
}

/// Start time of a process in clock ticks since boot.
pub(crate) fn start_ticks(proc: &Path, pid: u32) -> Result<u64, String> {
    let dir = proc.join(pid.to_string());
    let stat = fs::read(dir.join("stat")).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("no process {pid} (it has ended, or this user may not see it)")
        }
        _ => format!("process {pid}: cannot read {}: {error}", dir.join("stat").display()),
    })?;
    // A thread's id opens the same files as its process's, but the kernel side compares process ids.
    let status = fs::read(dir.join("status")).unwrap_or_default();
    let leader = String::from_utf8_lossy(&status)
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse::<u32>().ok());
    match leader {
        Some(leader) if leader != pid => {
            Err(format!("{pid} is a thread of process {leader}; name the process"))
        }
        _ => parse_start_ticks(&stat)
            .ok_or_else(|| format!("process {pid}: cannot make sense of its stat file")),
    }
}

/// Field 22 of `/proc/PID/stat`. The second field, the name in parentheses, may hold spaces and parentheses itself and
/// need not be UTF-8, so the fields are counted from the last closing one.
fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

fn in_pid_namespace(proc: &Path) -> bool {
    fs::read_link(proc.join("self/ns/pid")).is_ok_and(|link| link != Path::new(INITIAL_PID_NAMESPACE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21";
        for name in ["nginx", "a b", "(sd-pam)", "x) R 1 2 3", ") ) )", ""] {
            let stat = format!("77 ({name}) {tail}\n");
            assert_eq!(parse_start_ticks(stat.as_bytes()), Some(424_242), "{name:?}");
        }
        let mut stat = b"77 (\xff\xfe) ".to_vec();
        stat.extend_from_slice(tail.as_bytes());
        assert_eq!(parse_start_ticks(&stat), Some(424_242));
    }

    #[test]
    fn a_cut_or_odd_stat_file_is_no_start_time() {
        for stat in [
            "",
            "77",
            "77 (a",
            "77 (a)",
            "77 (a) S 1 2",
            "77 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x",
        ] {
            assert_eq!(parse_start_ticks(stat.as_bytes()), None, "{stat:?}");
        }
    }

    #[test]
    fn the_start_time_of_this_process_is_between_boot_and_now() {
        let ticks = start_ticks(Path::new("/proc"), std::process::id()).unwrap();
        let uptime: f64 =
            fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
        // 100 ticks a second on every architecture Linux shows to user space.
        let age = uptime - ticks as f64 / 100.0;
        assert!((0.0..3_600.0).contains(&age), "{age}");
    }

    #[test]
    fn a_process_that_does_not_exist_and_a_thread_are_refused() {
        let text = start_ticks(Path::new("/proc"), 4_194_304).unwrap_err();
        assert_eq!(text, "no process 4194304 (it has ended, or this user may not see it)");
        let (send, receive) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let id = fs::read_link("/proc/thread-self").unwrap();
            send.send(id.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap()).unwrap();
            stopped.recv().unwrap_err();
        });
        let id = receive.recv().unwrap();
        let text = start_ticks(Path::new("/proc"), id).unwrap_err();
        assert_eq!(text, format!("{id} is a thread of process {}; name the process", std::process::id()));
        drop(stop);
        thread.join().unwrap();
    }
}
