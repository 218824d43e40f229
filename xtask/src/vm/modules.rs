//! Chooses the kernel modules tests need and the order to load them in. A package holds no `modules.dep`, so the order
//! comes from what each module says about itself.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::kernels::files;

/// What tests use beyond what Debian builds in: network namespaces joined by veth, loss and delay, packet filters, what
/// `ss` asks for details.
const WANTED: [&str; 14] = [
    "veth",
    "sch_netem",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "nf_tables",
    "nft_counter",
    "nft_ct",
    "nft_limit",
    "nft_numgen",
    "nft_reject_inet",
    "dummy",
    "tcp_diag",
    "tls",
];

/// A module ready for `insmod`.
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

/// The wanted modules of the kernel in `tree` with what they depend on, in loading order. One that this kernel does
/// not have as a module is built in or absent; tests find out.
pub(crate) fn collect(tree: &Path) -> Result<Vec<Module>> {
    named(tree, &WANTED)
}

/// The same for these modules.
pub(crate) fn named(tree: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let available: BTreeMap<String, PathBuf> =
        files(tree).into_iter().filter_map(|path| Some((module_name(&path)?, path))).collect();
    let mut loaded = Vec::new();
    for name in wanted {
        add(name, &available, &mut loaded, 0)?;
    }
    Ok(loaded)
}

fn add(
    name: &str,
    available: &BTreeMap<String, PathBuf>,
    loaded: &mut Vec<Module>,
    depth: usize,
) -> Result<()> {
    if depth > 16 {
        bail!("the modules that {name} depends on form a circle");
    }
    let Some(path) = available.get(name) else { return Ok(()) };
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let content = decompress(path)?;
    for dependency in dependencies(&content) {
        add(&dependency, available, loaded, depth + 1)?;
    }
    loaded.push(Module { name: name.to_owned(), content });
    Ok(())
}

/// `sch-netem.ko.xz` is the module `sch_netem`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once('.')?;
    matches!(rest, "ko" | "ko.xz" | "ko.zst" | "ko.gz").then(|| name.replace('-', "_"))
}

fn decompress(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(path)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} cannot read {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// A module's `.modinfo` section holds `depends=a,b`, ended by a zero.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_must_be_loaded_before_it() {
        let module = b"\x7fELF..\0license=GPL\0depends=nfnetlink,crc32c-generic\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["nfnetlink", "crc32c_generic"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn only_modules_are_taken_for_modules() {
        assert_eq!(module_name(Path::new("/m/sch-netem.ko.xz")), Some("sch_netem".to_owned()));
        assert_eq!(module_name(Path::new("/m/modules.order")), None);
    }
}
