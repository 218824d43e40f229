//! Compiles the kernel-side workspace and writes the table through which the agent finds its objects.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use crate::{Context as _, Error, TOOLCHAIN_VAR, Toolchain, repository_root};

/// Leaves the table of objects empty, for jobs that only read the code.
pub const SKIP_VAR: &str = "SIDECAR_BPF_SKIP";
const TARGET: &str = "bpfel-unknown-none";

/// A compiled object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// The probe's name.
    pub name: String,
    /// The ELF file.
    pub path: PathBuf,
}

/// Builds all objects and writes `OUT_DIR/objects.rs`, which defines `OBJECTS: &[(&str, &[u8])]`. Exits the build
/// script with a message if that fails.
pub fn embed_objects() {
    if let Err(error) = try_embed_objects() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn try_embed_objects() -> Result<(), Error> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(Error::NotABuildScript("OUT_DIR"))?);
    let mut objects = Vec::new();
    let mut inputs = BTreeSet::new();
    if env::var_os(SKIP_VAR).is_none_or(|value| value != "1") {
        let root = repository_root();
        let arch =
            env::var("CARGO_CFG_TARGET_ARCH").map_err(|_| Error::NotABuildScript("CARGO_CFG_TARGET_ARCH"))?;
        let toolchain = Toolchain::find(&root)?;
        for built in compile(&toolchain, &root, &target_directory(&out), &arch)? {
            inputs.extend(sources(&built.path)?);
            let path = out.join(format!("{}.o", built.name));
            let whole = fs::read(&built.path).context(|| format!("cannot read {}", built.path.display()))?;
            let small = without_debug_information(&whole)
                .map_err(|error| Error::Elf { path: built.path.clone(), source: error })?;
            fs::write(&path, small).context(|| format!("cannot write {}", path.display()))?;
            objects.push(Object { name: built.name, path });
        }
        let kernel_side = root.join("crates/sidecar-ebpf");
        inputs.extend(["Cargo.toml", "Cargo.lock"].map(|file| kernel_side.join(file)));
        inputs.insert(root.join("crates/sidecar-common/Cargo.toml"));
    }
    let table = out.join("objects.rs");
    fs::write(&table, render_table(&objects)).context(|| format!("cannot write {}", table.display()))?;

    // Last, so that a failed build shows the compiler's words and not these.
    for variable in [TOOLCHAIN_VAR, SKIP_VAR] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    for input in inputs.iter().filter(|input| input.exists()) {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    Ok(())
}

/// Shared by all profiles and targets, because the objects are the same for each. Only the top of cargo's own directory
/// has this file.
fn target_directory(out: &Path) -> PathBuf {
    let target = out.ancestors().find(|directory| directory.join(".rustc_info.json").exists());
    target.unwrap_or(out).join("bpf")
}

/// Compiles every `[[bin]]` of `root`'s kernel-side workspace for agents on `arch`, sorted by name.
pub fn compile(toolchain: &Toolchain, root: &Path, target: &Path, arch: &str) -> Result<Vec<Object>, Error> {
    let mut cargo = toolchain.cargo(&root.join("crates/sidecar-ebpf"), arch);
    cargo.args(["build", "--quiet", "--release", "--bins", "-Zbuild-std=core", "--target", TARGET]);
    cargo.arg("--message-format=json-render-diagnostics").arg("--target-dir").arg(target.join(arch));
    let output = cargo.output().context(|| format!("cannot run {}", cargo.get_program().display()))?;
    let diagnostics = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprint!("{diagnostics}");
        return Err(Error::Compile);
    }
    for line in diagnostics.lines().filter(|line| !line.trim().is_empty()) {
        println!("cargo::warning={line}");
    }
    parse_artifacts(&String::from_utf8_lossy(&output.stdout))
}

fn parse_artifacts(messages: &str) -> Result<Vec<Object>, Error> {
    let mut objects = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let (name, path) = (message["target"]["name"].as_str(), message["executable"].as_str());
        if let (Some(name), Some(path)) = (name, path) {
            objects.push(Object { name: name.to_owned(), path: PathBuf::from(path) });
        }
    }
    objects.sort();
    Ok(objects)
}

/// The object without DWARF, which is nine tenths of it and which neither the loader nor the kernel reads: type and line
/// information for the verifier is in the BTF sections, and stays.
fn without_debug_information(elf: &[u8]) -> Result<Vec<u8>, object::build::Error> {
    let mut builder = object::build::elf::Builder::read(elf)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table, the writer keeps two.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = object::build::elf::SectionData::SectionString;
    let mut small = Vec::new();
    builder.write(&mut small)?;
    Ok(small)
}

/// The files an object was made of, from the rule file cargo leaves beside it.
fn sources(object: &Path) -> Result<Vec<PathBuf>, Error> {
    let path = object.with_extension("d");
    let rule = fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
    Ok(parse_rule(&rule))
}

/// The right-hand side of a makefile rule, where a space inside a name is written `\ `.
fn parse_rule(rule: &str) -> Vec<PathBuf> {
    let Some((_, inputs)) = rule.lines().next().and_then(|line| line.split_once(": ")) else {
        return Vec::new();
    };
    let inputs = inputs.replace("\\ ", "\0");
    inputs.split_whitespace().map(|input| PathBuf::from(input.replace('\0', " "))).collect()
}

fn render_table(objects: &[Object]) -> String {
    let mut table = String::new();
    let mut entries = String::new();
    if !objects.is_empty() {
        table.push_str("/// ELF headers are read in place, which needs this alignment.\n");
        table.push_str("#[repr(C, align(8))]\nstruct Aligned<T: ?Sized>(T);\n");
    }
    for Object { name, path } in objects {
        let shown = path.display().to_string();
        let constant = name.to_uppercase().replace('-', "_");
        // Writing to a String cannot fail.
        let _ = writeln!(table, "static {constant}: &Aligned<[u8]> = &Aligned(*include_bytes!({shown:?}));");
        let _ = write!(entries, "\n    ({name:?}, &{constant}.0),");
    }
    let _ = writeln!(
        table,
        "/// The kernel side of each probe: its name and its ELF file.\npub static OBJECTS: &[(&str, &[u8])] = &[{entries}\n];"
    );
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executables_among_cargos_messages_are_objects() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"core"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"exec"},"executable":"/t/exec"}"#,
            "\n",
            "free text\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n",
        );
        let objects = parse_artifacts(messages).unwrap();
        assert_eq!(objects, [Object { name: "exec".to_owned(), path: PathBuf::from("/t/exec") }]);
    }

    #[test]
    fn a_rule_lists_its_inputs_with_spaces_restored() {
        let inputs = parse_rule("/t/exec: /a/kernel.rs /my\\ home/shared.rs\n");
        assert_eq!(inputs, [PathBuf::from("/a/kernel.rs"), PathBuf::from("/my home/shared.rs")]);
    }

    #[test]
    fn an_empty_table_is_still_valid_rust() {
        assert_eq!(render_table(&[]).lines().last(), Some("];"));
        assert!(!render_table(&[]).contains("Aligned"));
    }
}
