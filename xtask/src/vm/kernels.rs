//! Gets Debian's kernels through apt, into a directory of our own: the machine's package lists, packages and sources
//! stay as they are. Each kernel is fetched once; delete `.cache/kernels` to get newer ones.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{find_program, output, relative, root, step};

/// A kernel we test on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Release {
    /// What users call it.
    pub(crate) name: &'static str,
    suite: &'static str,
    /// How the package's version begins.
    version: &'static str,
}

/// Oldest supported to newest.
pub(crate) const RELEASES: [Release; 4] = [
    Release { name: "5.10", suite: "bullseye", version: "5.10." },
    Release { name: "6.1", suite: "bookworm", version: "6.1." },
    Release { name: "6.12", suite: "trixie", version: "6.12." },
    Release { name: "newest", suite: "sid", version: "" },
];

/// A kernel on disk.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) image: PathBuf,
    /// Holds the modules, somewhere below.
    pub(crate) tree: PathBuf,
}

/// The kernels with these names, or all.
pub(crate) fn select(names: &[String]) -> Result<Vec<Release>> {
    if names.is_empty() {
        return Ok(RELEASES.to_vec());
    }
    names
        .iter()
        .map(|name| {
            let known =
                RELEASES.iter().find(|release| [release.name, release.suite].contains(&name.as_str()));
            let all = RELEASES.map(|release| release.name).join(", ");
            known.copied().with_context(|| format!("no kernel is called {name}; there are {all}"))
        })
        .collect()
}

/// The kernel, fetched if it is not there yet.
pub(crate) fn fetch(release: Release) -> Result<Kernel> {
    let tree = root().join(".cache/kernels").join(release.name);
    if find(&tree, "vmlinuz").is_none() {
        download(release, &tree).with_context(|| format!("cannot get the kernel {}", release.name))?;
    }
    let image = find(&tree, "vmlinuz").with_context(|| format!("no kernel image in {}", relative(&tree)))?;
    Ok(Kernel { name: release.name, image, tree })
}

fn download(release: Release, tree: &Path) -> Result<()> {
    step(&format!("fetching the kernel {} of Debian {}", release.name, release.suite));
    unpack(release.suite, tree, |apt| apt.kernel_packages(release))
}

/// Unpacks packages of a suite into `tree`, replacing what is there.
pub(crate) fn unpack(
    suite: &str,
    tree: &Path,
    choose: impl FnOnce(&Apt) -> Result<Vec<String>>,
) -> Result<()> {
    let work = tree.with_extension("partial");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let apt = Apt::new(&work, suite)?;
    let packages = choose(&apt)?;
    println!("  {}", packages.join(", "));
    let unpacked = work.join("tree");
    fs::create_dir_all(&unpacked)?;
    output(apt.command("apt-get").current_dir(&work).arg("download").args(&packages))?;
    for file in fs::read_dir(&work)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(&unpacked))?;
        }
    }
    // Only what is complete gets the name that later runs look for.
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    fs::rename(&unpacked, tree)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// apt with its own sources, lists and cache.
pub(crate) struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(work: &Path, suite: &str) -> Result<Self> {
        if find_program("apt-get").is_none() {
            bail!("kernels come from Debian's archive through apt, which this machine does not have");
        }
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(work.join(directory))?;
        }
        let sources = work.join("sources.list");
        fs::write(&sources, sources_list(suite)?)?;
        let mut settings =
            vec!["Dir::Etc::sourceparts=/dev/null".to_owned(), "APT::Sandbox::User=root".to_owned()];
        settings.push("Acquire::Languages=none".to_owned());
        for (key, path) in
            [("Etc::sourcelist", "sources.list"), ("State::lists", "lists"), ("Cache", "cache")]
        {
            settings.push(format!("Dir::{key}={}", work.join(path).display()));
        }
        let apt =
            Self { options: settings.into_iter().flat_map(|setting| ["-o".to_owned(), setting]).collect() };
        output(apt.command("apt-get").args(["update", "-qq"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// The newest cloud kernel: one package, or image and modules apart as in newer releases.
    fn kernel_packages(&self, release: Release) -> Result<Vec<String>> {
        let version = release.version.replace('.', "\\.");
        let pattern = format!("^linux-(image|binary|modules)-{version}[0-9][^ ]*-cloud-amd64$");
        let found = output(self.command("apt-cache").args(["search", "--names-only", &pattern]))?;
        let names: Vec<&str> = found.lines().filter_map(|line| line.split_whitespace().next()).collect();
        // `-unsigned-` builds are the same kernels without a signature.
        let numbered = |name: &&&str| {
            name.split('-').nth(2).is_some_and(|part| part.starts_with(|c: char| c.is_ascii_digit()))
        };
        let newest = names.iter().filter(numbered).max_by_key(|name| numbers(name));
        let newest = newest.with_context(|| format!("{} offers no package {pattern}", release.suite))?;
        let kernel = newest.splitn(3, '-').nth(2).unwrap_or_default();
        let apart = ["binary", "modules"].map(|part| format!("linux-{part}-{kernel}"));
        if apart.iter().all(|package| names.contains(&package.as_str())) {
            return Ok(apart.to_vec());
        }
        Ok(vec![format!("linux-image-{kernel}")])
    }
}

/// Versions compare by their numbers: 5.10.0-9 is older than 5.10.0-46.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Sources for another suite from the mirrors this machine uses, else Debian's own.
fn sources_list(suite: &str) -> Result<String> {
    let used = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(LABEL)|$(SITE)",
        "Created-By: Packages",
    ]))?;
    let mirror = |label: &str, default: &str| {
        let used = used.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix('|'));
        used.unwrap_or(default).to_owned()
    };
    let main = mirror("Debian", "http://deb.debian.org/debian");
    let security = mirror("Debian-Security", "http://deb.debian.org/debian-security");
    let keys = ["gpg", "pgp"].map(|kind| format!("/usr/share/keyrings/debian-archive-keyring.{kind}"));
    let Some(keys) = keys.iter().find(|path| Path::new(path).exists()) else {
        bail!("Debian's archive keys are not on this machine: install the package debian-archive-keyring");
    };
    let options = format!("[arch=amd64 signed-by={keys}]");
    let main = format!("deb {options} {main} {suite} main\n");
    // sid has no security suite of its own.
    let security = if suite == "sid" {
        String::new()
    } else {
        format!("deb {options} {security} {suite}-security main\n")
    };
    Ok(main + &security)
}

/// The first file below `directory` whose name begins so.
pub(crate) fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    files(directory)
        .into_iter()
        .find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)))
}

/// All files below a directory; links are not followed.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers_and_not_as_text() {
        assert!(numbers("linux-image-5.10.0-46-cloud-amd64") > numbers("linux-image-5.10.0-9-cloud-amd64"));
    }

    #[test]
    fn a_kernel_may_be_called_by_its_version_or_by_its_suite() {
        let chosen = select(&["6.1".to_owned(), "sid".to_owned()]).unwrap();
        assert_eq!(chosen.iter().map(|release| release.name).collect::<Vec<_>>(), ["6.1", "newest"]);
        assert!(select(&["4.4".to_owned()]).unwrap_err().to_string().contains("5.10, 6.1, 6.12, newest"));
    }
}
