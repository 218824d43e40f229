//! The file system a test machine starts from: the agent, the tests, busybox, a few of the host's network tools and
//! the kernel's modules. There is nothing else in the machine.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{cpio::Archive, modules::Module};
use crate::{
    executables::Executables,
    shell::{find_program, output, step},
};

/// Programs tests compare with or shape the network with, taken from this machine if it has them. The shell is one of
/// them because busybox's prefers its own commands to these.
const TOOLS: [&str; 6] =
    ["/bin/sh", "/usr/bin/ip", "/usr/bin/ss", "/usr/bin/tc", "/usr/bin/nft", "/usr/bin/strace"];

/// Files that are the same for every kernel, ready to be written.
pub(crate) struct Common {
    programs: Vec<(PathBuf, Vec<u8>)>,
    links: Vec<(PathBuf, PathBuf)>,
    tests: Vec<String>,
}

impl Common {
    /// Reads everything in; debug information is left out because the machine's memory is small.
    pub(crate) fn new(executables: &Executables, scratch: &Path) -> Result<Self> {
        step("preparing the machines' file system");
        let mut common = Self { programs: Vec::new(), links: Vec::new(), tests: Vec::new() };
        common.programs.push(("/bin/sidecar".into(), stripped(&executables.agent, scratch)?));
        // Tests find the agent where cargo built it.
        common.links.push((executables.agent.clone(), "/bin/sidecar".into()));
        for test in &executables.tests {
            common.programs.push((Path::new("/tests").join(&test.name), stripped(&test.path, scratch)?));
            common.tests.push(test.name.clone());
        }
        let mut libraries = BTreeSet::new();
        let busybox = find_program("busybox").context("there is no busybox: run `cargo xtask setup`")?;
        common.dynamic("/bin/busybox".into(), &busybox, &mut libraries)?;
        for tool in TOOLS {
            let name = Path::new(tool);
            if let Some(path) = name.file_name().and_then(|file| find_program(&file.to_string_lossy())) {
                common.dynamic(name.to_path_buf(), &path, &mut libraries)?;
            }
        }
        for library in libraries {
            let content = fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?;
            common.programs.push((library, content));
        }
        Ok(common)
    }

    fn dynamic(&mut self, name: PathBuf, path: &Path, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.programs.push((name, content));
        libraries.extend(self::libraries(path));
        Ok(())
    }

    /// Writes the archive for one kernel. `filter` chooses test programs by name or, if none has such a name, tests, as
    /// `cargo test` does.
    pub(crate) fn write(&self, to: &Path, modules: &[Module], filter: Option<&str>) -> Result<()> {
        let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        self.fill(&mut archive, modules, filter).with_context(|| format!("cannot write {}", to.display()))?;
        archive.finish()?;
        Ok(())
    }

    fn fill(
        &self,
        archive: &mut Archive<impl io::Write>,
        modules: &[Module],
        filter: Option<&str>,
    ) -> io::Result<()> {
        for directory in ["/proc", "/sys", "/dev", "/tmp", "/etc", "/root", "/run", "/var/tmp"] {
            archive.directory(directory)?;
        }
        archive.program("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")?;
        archive.program(
            "/etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        )?;
        for (path, content) in &self.programs {
            archive.program(path, content)?;
        }
        for (path, to) in &self.links {
            archive.link(path, to)?;
        }
        for (number, module) in modules.iter().enumerate() {
            archive.program(format!("/modules/{number:02}-{}.ko", module.name), &module.content)?;
        }
        archive.program("/init", self.init(filter).as_bytes())
    }

    fn init(&self, filter: Option<&str>) -> String {
        let mut script = include_str!("init.sh").to_owned();
        let is_program = |test: &&String| filter.is_some_and(|filter| test.contains(filter));
        if self.tests.iter().any(|test| is_program(&test)) {
            for test in self.tests.iter().filter(is_program) {
                let _ = writeln!(script, "run {test}");
            }
            return script + "finish\n";
        }
        let filter = filter.map(|filter| format!(" '{}'", filter.replace('\'', ""))).unwrap_or_default();
        for test in &self.tests {
            // Writing to a String cannot fail.
            let _ = writeln!(script, "run {test}{filter}");
        }
        script.push_str("finish\n");
        script
    }
}

/// The shared libraries a program needs, and their loader.
pub(crate) fn libraries(program: &Path) -> Vec<PathBuf> {
    // ldd fails for static programs, which need nothing.
    let listed = output(Command::new("ldd").arg(program)).unwrap_or_default();
    let words = listed.lines().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// A program's bytes without what only debuggers read.
fn stripped(path: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let copy = scratch.join("stripped");
    output(Command::new("strip").arg("-o").arg(&copy).arg(path))?;
    fs::read(&copy).with_context(|| format!("cannot read {}", copy.display()))
}
