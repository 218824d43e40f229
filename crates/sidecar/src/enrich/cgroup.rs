//! cgroup ids to paths. An id is the inode number of the cgroup's directory, and the kernel has no way back from it
//! without privileges we give up; so the tree is walked, at most once in a while, and what is found is kept.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sidecar_core::probe::Names;

/// Unknown ids do not make us walk the tree more often than this.
const PAUSE: Duration = Duration::from_secs(2);
/// Directories remembered; a machine with more cgroups shows the ids of the rest.
const MAX_KNOWN: usize = 65_536;

struct Known {
    paths: HashMap<u64, Box<str>>,
    walked: Option<Instant>,
}

/// Paths of the cgroups below one mount.
pub(crate) struct CgroupNames {
    mount: Option<PathBuf>,
    known: Mutex<Known>,
}

impl CgroupNames {
    /// For the v2 hierarchy mounted at `mount`; without one, ids stay numbers.
    pub(crate) fn new(mount: Option<PathBuf>) -> Self {
        Self { mount, known: Mutex::new(Known { paths: HashMap::new(), walked: None }) }
    }
}

impl Names for CgroupNames {
    fn cgroup(&self, id: u64) -> String {
        let Some(mount) = &self.mount else { return id.to_string() };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.paths.contains_key(&id) && known.walked.is_none_or(|walked| walked.elapsed() > PAUSE) {
            known.walked = Some(Instant::now());
            known.paths.clear();
            walk(mount, mount, &mut known.paths);
        }
        known.paths.get(&id).map_or_else(|| id.to_string(), ToString::to_string)
    }
}

fn walk(mount: &Path, directory: &Path, paths: &mut HashMap<u64, Box<str>>) {
    let Ok(inode) = fs::metadata(directory).map(|meta| meta.ino()) else { return };
    if paths.len() >= MAX_KNOWN {
        return;
    }
    let relative = directory.strip_prefix(mount).unwrap_or(directory).to_string_lossy();
    paths.insert(inode, format!("/{relative}").into());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(mount, &entry.path(), paths);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_found_by_its_inode_and_named_from_the_mount() {
        let mount = std::env::temp_dir().join(format!("sidecar-cgroups-{}", std::process::id()));
        let inner = mount.join("system.slice/nginx.service");
        fs::create_dir_all(&inner).unwrap();
        let names = CgroupNames::new(Some(mount.clone()));
        assert_eq!(names.cgroup(fs::metadata(&inner).unwrap().ino()), "/system.slice/nginx.service");
        assert_eq!(names.cgroup(fs::metadata(&mount).unwrap().ino()), "/");
        fs::remove_dir_all(&mount).unwrap();
    }

    #[test]
    fn an_unknown_id_stays_a_number() {
        assert_eq!(CgroupNames::new(None).cgroup(4711), "4711");
    }
}
