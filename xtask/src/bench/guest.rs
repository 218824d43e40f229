//! One machine of the benchmark: what is in it, what it does, and what it said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    shell::find_program,
    vm::{
        cpio::Archive,
        initramfs::libraries,
        kernels::Kernel,
        machine::{self, Clock},
        modules::Module,
    },
};

/// Longest a machine may take, of our time.
const LIMIT: Duration = Duration::from_mins(40);

/// The programs in the machine, and the libraries they need.
#[derive(Debug)]
pub(super) struct Files(BTreeMap<PathBuf, Vec<u8>>);

impl Files {
    /// The agent, the workloads, busybox and `others`.
    pub(super) fn new(agent: &Path, bench: &Path, others: &[PathBuf]) -> Result<Self> {
        let busybox = find_program("busybox").context("there is no busybox: run `cargo xtask setup`")?;
        let mut files = BTreeMap::new();
        let mut needed = BTreeSet::new();
        // Busybox's makes no cables.
        let ip = find_program("ip");
        let programs = others.iter().chain(&ip).map(PathBuf::as_path);
        for program in programs.chain([agent, bench, &busybox]) {
            let name = program.file_name().context("a program without a name")?;
            files.insert(Path::new("/bin").join(name), read(program)?);
            needed.extend(libraries(program));
        }
        for library in needed {
            let content = read(&library)?;
            files.insert(library, content);
        }
        Ok(Self(files))
    }

    /// Kernel modules, for the scripts that load them.
    pub(super) fn add_modules(&mut self, modules: &[Module]) {
        for (number, module) in modules.iter().enumerate() {
            let path = format!("/modules/{number:02}-{}.ko", module.name);
            self.0.insert(path.into(), module.content.clone());
        }
    }

    fn write(&self, to: &Path, script: &str) -> Result<()> {
        let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        let mut add_all = || -> io::Result<()> {
            for directory in ["/proc", "/sys", "/dev", "/tmp", "/root"] {
                archive.directory(directory)?;
            }
            archive.program("/etc/hosts", b"127.0.0.1 localhost\n")?;
            archive.program("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")?;
            for (path, content) in &self.0 {
                archive.program(path, content)?;
            }
            archive.program("/init", script.as_bytes())
        };
        add_all().with_context(|| format!("cannot write {}", to.display()))?;
        archive.finish()?;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What a machine is to do.
#[derive(Debug, Clone)]
pub(super) struct Script(String);

impl Script {
    pub(super) fn new() -> Self {
        Self(include_str!("guest.sh").to_owned())
    }

    /// Adds a command of `guest.sh`.
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{}", line.as_ref());
    }
}

/// What a process has used, at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// Nanoseconds since the machine started.
    pub(super) at: f64,
    /// Nanoseconds the process has run.
    pub(super) run: f64,
    pub(super) resident: f64,
    pub(super) maps: f64,
}

/// What a machine said.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) kernel: String,
    /// Nanoseconds per operation of each block, by variant and workload.
    pub(super) blocks: BTreeMap<(String, String), Vec<f64>>,
    pub(super) usages: BTreeMap<String, Usage>,
    pub(super) problems: Vec<String>,
    variant: String,
    done: bool,
}

impl Said {
    fn line(&mut self, line: &str) -> Option<()> {
        // Firmware leaves control characters before the first line.
        let mut words = line.get(line.find("@@")? + 2..)?.split(' ');
        let word = words.next()?;
        let number = |words: &mut std::str::Split<'_, char>| words.next()?.parse::<f64>().ok();
        match word {
            "kernel" => words.next()?.clone_into(&mut self.kernel),
            "variant" => self.variant = words.collect::<Vec<_>>().join(" "),
            "block" => {
                let workload = words.next()?.to_owned();
                let time = number(&mut words)?;
                self.blocks.entry((self.variant.clone(), workload)).or_default().push(time);
            }
            "usage" => {
                let label = words.next()?.to_owned();
                let mut next = || number(&mut words);
                let usage = Usage { at: next()?, run: next()?, resident: next()?, maps: next()? };
                self.usages.insert(label, usage);
            }
            "problem" => self.problems.push(words.collect::<Vec<_>>().join(" ")),
            "done" => self.done = true,
            _ => {}
        }
        Some(())
    }

    pub(super) fn usage(&self, label: &str) -> Result<Usage> {
        self.usages
            .get(label)
            .copied()
            .with_context(|| format!("the machine did not tell its usage `{label}`"))
    }
}

/// Boots a machine with `files` that follows `script`. `name` tells its files in `work` from those of others.
pub(super) fn boot(kernel: &Kernel, files: &Files, script: &Script, work: &Path, name: &str) -> Result<Said> {
    let archive = work.join(format!("{name}.cpio"));
    let log = work.join(format!("{name}.log"));
    files.write(&archive, &format!("{}finish\n", script.0))?;
    let mut said = Said::default();
    let command = machine::command(kernel, &archive, Clock::Instructions);
    let ended = machine::follow(command, &log, LIMIT, |line| {
        // A line that is none of ours says nothing.
        let _ = said.line(line);
    })?;
    fs::remove_file(&archive)?;
    if !ended {
        bail!(
            "the machine was not done after {} minutes; its console: {}",
            LIMIT.as_secs() / 60,
            log.display()
        );
    }
    if !said.done {
        bail!("the machine ended before its work; its console: {}", log.display());
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_belong_to_the_variant_before_them() {
        let mut said = Said::default();
        for line in [
            "SeaBIOS@@kernel 6.1.0-56-cloud-amd64",
            "@@variant floor tp_btf x",
            "@@block udp 8800.5",
            "@@block udp 8801.5",
            "@@variant work",
            "@@block udp 8790",
            "@@usage idle 5 4 3 2",
            "@@problem tcptop ended early: no",
            "something else",
            "@@done",
        ] {
            let _ = said.line(line);
        }
        let times = |variant: &str| &said.blocks[&(variant.to_owned(), "udp".to_owned())];
        assert_eq!(times("floor tp_btf x"), &[8800.5, 8801.5]);
        assert_eq!(times("work"), &[8790.0]);
        assert_eq!(said.kernel, "6.1.0-56-cloud-amd64");
        assert_eq!(said.usage("idle").unwrap(), Usage { at: 5.0, run: 4.0, resident: 3.0, maps: 2.0 });
        assert_eq!(said.problems, ["tcptop ended early: no"]);
        assert!(said.done);
    }
}
