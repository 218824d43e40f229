//! Programs of a test's own, under names of their own, so that what else the machine starts is not in the way.

use std::{
    fs, io,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::Scratch;

/// A name nobody else has, short enough for the kernel to keep it whole.
pub(crate) fn own_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A program of this machine under another name.
pub(crate) struct Renamed {
    _place: Scratch,
    /// The new name, which is its processes'.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The name it goes by itself: some programs are several in one.
    original: String,
}

impl Renamed {
    /// Of a program in the usual places.
    pub(crate) fn new(program: &str) -> Self {
        let found = super::program(program).unwrap_or_else(|| panic!("this machine has no {program}"));
        Self::of(&found)
    }

    /// Of any file.
    pub(crate) fn of(file: &Path) -> Self {
        let (place, name) = (Scratch::new(), own_name());
        let path = place.0.join(&name);
        symlink(file, &path).unwrap();
        let original = file.file_name().unwrap().to_str().unwrap().to_owned();
        Self { _place: place, name, path, original }
    }

    /// How to start it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg0(&self.original).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// Variable that tells this very test program to be one of the processes a test watches.
const ROLE: &str = "SIDECAR_TEST_ROLE";

/// This test program, under a name of its own, as a process that does what its test `name` does with that role.
pub(crate) fn role(of: &Renamed, name: &str, role: &str) -> Command {
    let mut command = of.command();
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// The role this process was started for, if it is such a one.
pub(crate) fn own_role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// What `execve` fails with for this file.
pub(crate) fn exec_fails(path: &Path) -> io::Error {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let arguments = [c"program".as_ptr(), c"--password".as_ptr(), c"hunter2".as_ptr(), std::ptr::null()];
    // SAFETY: strings and a vector that end as they should.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), [std::ptr::null()].as_ptr()) };
    io::Error::last_os_error()
}

/// A file nobody may execute.
pub(crate) fn not_executable(scratch: &Scratch) -> PathBuf {
    let path = scratch.file("text", "text");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    path
}
