//! cgroup v2 names to what the kernel compares: the id of the directory and its level below the root.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use sidecar_common::scope::ScopeCgroup;

use super::{error::quote, target::Host};

/// `/proc/self/ns/cgroup` in the initial namespace (`PROC_CGROUP_INIT_INO` in `include/linux/proc_ns.h`).
const INITIAL_CGROUP_NAMESPACE: &str = "cgroup:[4026531835]";
const V1_ONLY: &str = "this host has cgroup v1 only, filtering needs v2 (kernel command line \
                       systemd.unified_cgroup_hierarchy=1); filter by pid or comm instead";
const NOT_MOUNTED: &str = "no cgroup v2 tree is mounted; mount -t cgroup2 none /sys/fs/cgroup";
const OWN_NAMESPACE: &str = "the agent runs in a cgroup namespace of its own and cannot tell where that lies; start \
                             it in the host's (docker run --cgroupns=host), or filter by pid or comm instead";
/// Directories looked at for a name to propose.
const SEARCHED: usize = 4_096;
/// Names proposed.
const PROPOSED: usize = 3;
/// Least likeness of a proposed name.
const LIKE: f64 = 0.8;

/// The mounted cgroup v2 tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    mount: PathBuf,
    /// Which of its directories is mounted there, as `/proc/PID/cgroup` names it.
    root: PathBuf,
    /// Level of that directory.
    level: u32,
}

struct Mount {
    root: PathBuf,
    point: PathBuf,
    kind: String,
}

impl Hierarchy {
    /// Finds it, or says why there is none to filter by.
    pub(super) fn find(host: &Host) -> Result<Self, String> {
        let path = host.proc.join("self/mountinfo");
        let text = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mounts: Vec<Mount> = String::from_utf8_lossy(&text).lines().filter_map(mount).collect();
        let v2: Vec<&Mount> = mounts.iter().filter(|mount| mount.kind == "cgroup2").collect();
        let is_top = |mount: &Mount| mount.point.metadata().is_ok_and(|dir| dir.ino() == host.cgroup_root);
        if let Some(top) = v2.iter().find(|mount| is_top(mount)) {
            return Ok(Self { mount: top.point.clone(), root: PathBuf::from("/"), level: 0 });
        }
        let Some(part) = v2.first() else {
            let v1 = mounts.iter().any(|mount| mount.kind == "cgroup");
            return Err(if v1 { V1_ONLY } else { NOT_MOUNTED }.to_owned());
        };
        let link = fs::read_link(host.proc.join("self/ns/cgroup")).unwrap_or_default();
        if link != Path::new(INITIAL_CGROUP_NAMESPACE) {
            return Err(OWN_NAMESPACE.to_owned());
        }
        Ok(Self { mount: part.point.clone(), root: part.root.clone(), level: depth(&part.root) })
    }

    /// Where it is mounted.
    pub(super) fn into_mount(self) -> PathBuf {
        self.mount
    }

    /// Id and level of the cgroup with this name (`/system.slice/nginx.service`) or at this path.
    pub(super) fn resolve(&self, name: &str) -> Result<ScopeCgroup, String> {
        let path = Path::new(name);
        if !path.is_absolute() {
            return Err(format!(
                "a cgroup starts with a slash, as in /proc/PID/cgroup; write {}",
                quote(&format!("/{name}"))
            ));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(format!("{}: leave the .. out", quote(name)));
        }
        let below = match path.strip_prefix(&self.mount) {
            Ok(below) => below,
            Err(_) => path.strip_prefix(&self.root).map_err(|_| {
                format!("{} is not visible here, only {} and below", quote(name), self.root.display())
            })?,
        };
        let mounted = self.mount.metadata().map_err(|error| format!("{}: {error}", self.mount.display()))?;
        match self.mount.join(below).metadata() {
            Ok(dir) if dir.is_dir() && dir.dev() == mounted.dev() => {
                Ok(ScopeCgroup { id: dir.ino(), level: self.level + depth(below), reserved: 0 })
            }
            Ok(_) => Err(format!("{} is no cgroup", quote(name))),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(format!("{}: {error}", quote(name)))
            }
            Err(_) => Err(self.unknown(name, &Path::new("/").join(below))),
        }
    }

    fn unknown(&self, name: &str, wanted: &Path) -> String {
        let near = self.near(wanted);
        let hint = match (near.is_empty(), Path::new(name).is_dir()) {
            (false, _) => format!("did you mean {}?", near.join(" or ")),
            (true, true) => {
                format!("the directory exists, but cgroup v2 is mounted at {}", self.mount.display())
            }
            (true, false) => format!("ls {} shows what there is", self.mount.display()),
        };
        format!("no cgroup {}; {hint}", quote(name))
    }

    /// Existing names most like `wanted`: the same last part elsewhere, one that it begins (a short container id), or
    /// similar spelling.
    fn near(&self, wanted: &Path) -> Vec<String> {
        let leaf = last_part(wanted);
        let likeness = |path: &Path| match last_part(path) {
            name if name == leaf => 1.0,
            name if leaf.len() >= 4 && name.contains(&leaf) => 0.99,
            name => 0.98 * strsim::jaro_winkler(&leaf, &name),
        };
        let mut like: Vec<(f64, PathBuf)> = self
            .names()
            .into_iter()
            .map(|path| (likeness(&path), path))
            .filter(|(likeness, _)| *likeness >= LIKE)
            .collect();
        like.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let best = like.first().map_or(0.0, |(likeness, _)| *likeness);
        let close = like.into_iter().filter(|(likeness, _)| best - likeness < 0.05).take(PROPOSED);
        close
            .map(|(_, path)| self.root.join(path.strip_prefix("/").unwrap_or(&path)).display().to_string())
            .collect()
    }

    /// Names below the mount, breadth first, as far as looking costs little.
    fn names(&self) -> Vec<PathBuf> {
        let mut names = Vec::new();
        let mut queue = VecDeque::from([PathBuf::new()]);
        while let Some(below) = queue.pop_front() {
            let children = fs::read_dir(self.mount.join(&below)).into_iter().flatten().flatten();
            for child in children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
                if names.len() == SEARCHED {
                    return names;
                }
                let path = below.join(child.file_name());
                names.push(Path::new("/").join(&path));
                queue.push_back(path);
            }
        }
        names
    }
}

fn last_part(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn depth(path: &Path) -> u32 {
    path.components().filter(|part| matches!(part, Component::Normal(_))).count() as u32
}

/// One line of mountinfo: `id parent major:minor root point options… - kind source options` (proc(5)).
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let kind = right.split(' ').next()?.to_owned();
    Some(Mount { root: unescape(root), point: unescape(point), kind })
}

/// Undoes the kernel's `\040` for the bytes that would break a line of mountinfo.
fn unescape(text: &str) -> PathBuf {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('\\');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let byte = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(byte.map_or('\\', char::from));
        out.push_str(if byte.is_some() { &part[3..] } else { part });
    }
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of directories standing for a host; removed at the end of the test.
    struct Fake {
        dir: PathBuf,
    }

    impl Fake {
        fn new(name: &str, mountinfo: &str, cgroups: &[&str]) -> Self {
            let dir = std::env::temp_dir().join(format!("sidecar-cgroup-{name}-{}", std::process::id()));
            for cgroup in cgroups {
                fs::create_dir_all(dir.join("cg").join(cgroup)).unwrap();
            }
            fs::create_dir_all(dir.join("cg")).unwrap();
            fs::create_dir_all(dir.join("proc/self/ns")).unwrap();
            let mountinfo = mountinfo.replace('@', dir.join("cg").to_str().unwrap());
            fs::write(dir.join("proc/self/mountinfo"), mountinfo).unwrap();
            std::os::unix::fs::symlink(INITIAL_CGROUP_NAMESPACE, dir.join("proc/self/ns/cgroup")).unwrap();
            Self { dir }
        }

        fn host(&self) -> Host {
            Host { proc: self.dir.join("proc"), cgroup_root: self.inode("") }
        }

        fn inode(&self, cgroup: &str) -> u64 {
            self.dir.join("cg").join(cgroup).metadata().unwrap().ino()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.dir).unwrap();
        }
    }

    const V2: &str = "41 31 0:38 / @ rw,relatime shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_cgroup_is_found_by_name_and_by_path() {
        let fake = Fake::new("found", V2, &["system.slice/nginx.service/sub"]);
        let tree = Hierarchy::find(&fake.host()).unwrap();
        let service = ScopeCgroup { id: fake.inode("system.slice/nginx.service"), level: 2, reserved: 0 };
        assert_eq!(tree.resolve("/system.slice/nginx.service"), Ok(service));
        assert_eq!(tree.resolve("/system.slice//nginx.service/"), Ok(service));
        let path = fake.dir.join("cg/system.slice/nginx.service");
        assert_eq!(tree.resolve(path.to_str().unwrap()), Ok(service));
        assert_eq!(tree.resolve("/"), Ok(ScopeCgroup { id: fake.inode(""), level: 0, reserved: 0 }));
        assert_eq!(tree.resolve(fake.dir.join("cg").to_str().unwrap()).unwrap().level, 0);
    }

    #[test]
    fn a_mounted_part_of_the_tree_keeps_the_names_and_levels_of_the_whole() {
        let line = "41 31 0:38 /docker/abc @ rw - cgroup2 cgroup2 rw\n";
        let fake = Fake::new("part", line, &["inner"]);
        let tree = Hierarchy::find(&Host { cgroup_root: 0, ..fake.host() }).unwrap();
        let inner = ScopeCgroup { id: fake.inode("inner"), level: 3, reserved: 0 };
        assert_eq!(tree.resolve("/docker/abc/inner"), Ok(inner));
        let text = tree.resolve("/docker/def").unwrap_err();
        assert_eq!(text, "\"/docker/def\" is not visible here, only /docker/abc and below");
        assert_eq!(
            tree.resolve("/docker/abc/iner").unwrap_err(),
            "no cgroup \"/docker/abc/iner\"; did you mean /docker/abc/inner?"
        );
    }

    #[test]
    fn unknown_names_come_with_the_nearest_existing_ones() {
        let long = "docker/5cda2a1464ee1391b61a8dada40c8f86";
        let fake = Fake::new("near", V2, &["system.slice/nginx.service", "user.slice", long]);
        let tree = Hierarchy::find(&fake.host()).unwrap();
        for (name, expected) in [
            ("/system.slice/ngnix.service", "did you mean /system.slice/nginx.service?"),
            ("/nginx.service", "did you mean /system.slice/nginx.service?"),
            ("/docker/5cda2a1464ee", "did you mean /docker/5cda2a1464ee1391b61a8dada40c8f86?"),
            ("/user.slic", "did you mean /user.slice?"),
        ] {
            assert_eq!(tree.resolve(name).unwrap_err(), format!("no cgroup \"{name}\"; {expected}"));
        }
        let text = tree.resolve("/zzz").unwrap_err();
        assert_eq!(text, format!("no cgroup \"/zzz\"; ls {} shows what there is", tree.mount.display()));
        let text = tree.resolve("/usr/lib").unwrap_err();
        assert!(text.contains("the directory exists, but cgroup v2 is mounted at"), "{text}");
    }

    #[test]
    fn names_that_are_no_names_are_refused() {
        let fake = Fake::new("odd", V2, &["a"]);
        fs::write(fake.dir.join("cg/cgroup.procs"), "").unwrap();
        let tree = Hierarchy::find(&fake.host()).unwrap();
        for (name, expected) in [
            ("docker/a", "a cgroup starts with a slash, as in /proc/PID/cgroup; write \"/docker/a\""),
            ("/a/../b", "\"/a/../b\": leave the .. out"),
            ("/cgroup.procs", "\"/cgroup.procs\" is no cgroup"),
        ] {
            assert_eq!(tree.resolve(name).unwrap_err(), expected);
        }
    }

    #[test]
    fn hosts_without_a_usable_v2_tree_get_a_clear_word() {
        let v1 = "32 31 0:29 / @ rw,relatime - cgroup cgroup rw,cpu\n";
        let fake = Fake::new("v1", v1, &[]);
        let text = Hierarchy::find(&fake.host()).unwrap_err();
        assert!(text.starts_with("this host has cgroup v1 only"), "{text}");
        let fake = Fake::new("none", "1 1 0:1 / / rw - ext4 /dev/sda rw\n", &[]);
        let text = Hierarchy::find(&fake.host()).unwrap_err();
        assert!(text.starts_with("no cgroup v2 tree is mounted"), "{text}");
        let fake = Fake::new("ns", V2, &[]);
        let link = fake.dir.join("proc/self/ns/cgroup");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("cgroup:[4026532500]", link).unwrap();
        let text = Hierarchy::find(&Host { cgroup_root: 0, ..fake.host() }).unwrap_err();
        assert!(text.starts_with("the agent runs in a cgroup namespace of its own"), "{text}");
    }

    #[test]
    fn the_top_of_the_tree_is_preferred_to_a_part_and_escapes_are_undone() {
        let lines = format!("40 31 0:38 /docker/abc /some\\040where rw - cgroup2 cgroup2 rw\n{V2}");
        let fake = Fake::new("top", &lines, &[]);
        let tree = Hierarchy::find(&fake.host()).unwrap();
        assert_eq!((tree.mount, tree.level), (fake.dir.join("cg"), 0));
        assert_eq!(unescape("/some\\040where\\134x"), Path::new("/some where\\x"));
        assert_eq!(unescape("/odd\\9"), Path::new("/odd\\9"));
        assert!(mount("41 31 0:38 / /x rw").is_none());
    }

    #[test]
    fn ids_on_this_host_are_those_of_stat() {
        let host = Host::default();
        let Ok(tree) = Hierarchy::find(&host) else {
            println!("skipped: no cgroup v2 tree here");
            return;
        };
        let root = tree.resolve("/").unwrap();
        let output = std::process::Command::new("stat").args(["-c", "%i"]).arg(&tree.mount).output().unwrap();
        assert_eq!(root.id.to_string(), String::from_utf8(output.stdout).unwrap().trim());
    }
}
