//! What watching costs. A machine in which each instruction takes a nanosecond of its time runs fixed workloads, alone
//! and beside the agent, an empty program on the same hook, and other tools: the difference is what each adds to an
//! operation, whatever the computer this runs on. The agent's start, memory and share of a processor are taken on this
//! computer. How to read the figures: `bench/README.md`.
//!
//! Nothing here judges: a target is shown beside what was measured.

mod agent;
mod facts;
mod guest;
mod page;
mod plan;
mod results;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, host_triple, static_for, target_directory},
    codegen,
    setup::{self, Group},
    shell::{cargo, root, run, step},
    vm::{
        kernels::{self, Kernel},
        modules,
    },
};
use guest::{Files, Said, Script};
use plan::Plan;
use results::{AFTER, BEFORE, Facts, ProbeResults};

/// The kernel whose figures are kept.
const KERNEL: &str = "6.1";
/// Debian's suite whose libbpf-tools the probes are compared with.
const TOOLS: &str = "bookworm";
/// Machines at a time; each keeps one processor busy.
const PARALLEL: usize = 2;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Probes, or `agent` for the agent as a whole; everything if nothing is named
    #[arg(value_name = "PROBE")]
    names: Vec<String>,
    /// Machines that each measure everything once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Kernel the workloads run on
    #[arg(long, value_name = "KERNEL", default_value = KERNEL)]
    kernel: String,
    /// Leave out the other tools
    #[arg(long)]
    alone: bool,
    /// Keep the figures in bench/results and bring the pages that show them up to date
    #[arg(long, conflicts_with_all = ["kernel", "alone"])]
    save: bool,
}

/// What is needed to start a machine.
struct Bench {
    agent: PathBuf,
    program: PathBuf,
    work: PathBuf,
    /// As of the build: work may go on while we measure.
    facts: Facts,
}

/// Measures and prints, and keeps the figures if asked to.
pub(crate) fn bench(options: &Options) -> Result<()> {
    let whole = options.names.is_empty() || options.names.iter().any(|name| name == results::AGENT);
    let names: Vec<String> = options.names.iter().filter(|name| *name != results::AGENT).cloned().collect();
    let only_agent = whole && !options.names.is_empty() && names.is_empty();
    let plans = if only_agent { BTreeMap::new() } else { plan::plans(&names)? };
    if std::env::consts::ARCH != "x86_64" {
        bail!("the machines run x86_64 kernels and this machine builds for {}", std::env::consts::ARCH);
    }
    setup::setup(&[Group::Build, Group::Test])?;
    let bench = Bench::prepare()?;
    for (name, plan) in &plans {
        let results = probe(&bench, name, plan, options)?;
        println!("\n{name}\n\n{}", page::probe(&results));
        if options.save {
            results::save(name, &results)?;
        }
    }
    if whole {
        let results = agent::measure(&bench)?;
        println!("\nthe agent as a whole\n\n{}", page::whole(&results));
        if options.save {
            results::save(results::AGENT, &results)?;
        }
    }
    if options.save {
        codegen::measurements()?;
    }
    Ok(())
}

/// The page of the figures that are kept: all of them, or one probe's table.
pub(crate) fn page(probe: Option<&str>) -> Result<String> {
    let (probes, agent) = results::load()?;
    let Some(name) = probe else { return Ok(page::page(&probes, agent.as_ref())) };
    let results = probes.iter().find(|results| results.probe == name);
    Ok(results.map_or_else(|| page::NOTHING.to_owned(), page::probe))
}

impl Bench {
    fn prepare() -> Result<Self> {
        let facts = facts::facts()?;
        let agent = build::build(&build::Options { release: true, target: None })?;
        step("building the workloads");
        let triple = host_triple()?;
        let mut cargo = cargo();
        cargo.args(["build", "--package", "sidecar-bench", "--release"]);
        static_for(&mut cargo, &triple)?;
        run(&mut cargo)?;
        let target = target_directory()?;
        let work = target.join("bench");
        fs::create_dir_all(&work)?;
        Ok(Self { agent, program: target.join(triple).join("release/sidecar-bench"), work, facts })
    }
}

/// What one probe adds, over several machines.
fn probe(bench: &Bench, name: &str, plan: &Plan, options: &Options) -> Result<ProbeResults> {
    let others: &[String] = if options.alone { &[] } else { &plan.others };
    let tools = if others.is_empty() { None } else { Some(fetch_tools()?) };
    let programs = programs(others, tools.as_deref())?;
    let (script, variants) = script(name, plan, others)?;
    let release = kernels::select(std::slice::from_ref(&options.kernel))?;
    let kernel = kernels::fetch(*release.first().context("no kernel")?)?;
    let mut files = Files::new(&bench.agent, &bench.program, &programs)?;
    files.add_modules(&modules::named(&kernel.tree, &["veth"])?);
    step(&format!(
        "{name}: {} machines, {PARALLEL} at a time, each measures {} variants; some minutes each",
        options.runs,
        variants.len() + 2
    ));
    let machines = boot_all(bench, &kernel, &files, &script, name, options.runs)?;
    for problem in machines.iter().flat_map(|said| &said.problems) {
        println!("  {problem}");
    }
    if let Some(said) = machines.iter().find(|said| !said.problems.is_empty()) {
        bail!("a measurement is not what it seems: {}", said.problems.join("; "));
    }
    let mut facts = bench.facts.clone();
    facts.kernel = machines.first().map(|said| said.kernel.clone()).unwrap_or_default();
    facts.qemu = facts::qemu()?;
    facts.tools = tools.map_or_else(|| Ok(String::new()), |tools| facts::tools(&tools))?;
    facts.runs = options.runs;
    // Counting instructions, the processor does not matter.
    facts.processor = String::new();
    Ok(ProbeResults {
        probe: name.to_owned(),
        facts,
        workloads: results::measured(plan, &variants, &machines)?,
        agent: plan.agent.as_ref().map(|busy| results::agent_cost(busy, &machines)).transpose()?,
    })
}

fn boot_all(
    bench: &Bench,
    kernel: &Kernel,
    files: &Files,
    script: &Script,
    name: &str,
    runs: u32,
) -> Result<Vec<Said>> {
    let mut all = Vec::new();
    let numbers: Vec<u32> = (1..=runs).collect();
    for together in numbers.chunks(PARALLEL) {
        let said: Result<Vec<Said>> = thread::scope(|scope| {
            let boot = |number: u32| {
                scope.spawn(move || {
                    guest::boot(kernel, files, script, &bench.work, &format!("{name}-{number}"))
                })
            };
            let workers: Vec<_> = together.iter().map(|&number| boot(number)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
                .collect()
        });
        all.extend(said?);
    }
    Ok(all)
}

/// What a machine does for one probe, and the names of the variants beside the work itself.
fn script(name: &str, plan: &Plan, others: &[String]) -> Result<(Script, Vec<String>)> {
    let mut script = Script::new();
    plan.workloads().filter_map(|workload| workload.setup).for_each(|setup| script.line(setup));
    let mut variants = Vec::new();
    let measure = |script: &mut Script| {
        for workload in plan.workloads() {
            script.line(format!("measure {} {} {}", workload.name, workload.blocks, workload.operations));
        }
    };
    // Caches and slabs that fill once must not look like somebody's cost.
    script.line("alone warm");
    measure(&mut script);
    script.line(format!("alone '{BEFORE}'"));
    measure(&mut script);
    for floor in &plan.floors {
        let variant = format!("*floor:* empty {floor}");
        script.line(format!("beside '{variant}' sidecar-bench floor {floor}"));
        measure(&mut script);
        script.line("end");
        variants.push(variant);
    }
    let unwanted = plan::probes()?.into_iter().filter(|probe| probe != name);
    let only: Vec<String> = unwanted.flat_map(|probe| ["--no-probe".to_owned(), probe]).collect();
    script.line(format!("beside_agent {name} sidecar --probe {name} {}", only.join(" ")));
    // In its first minute the kernel measures run times, which is not what it costs from then on.
    script.line("sleep 65");
    measure(&mut script);
    if let Some(busy) = &plan.agent {
        // Half of the operations are what `measure` begins with.
        let half = busy.operations / 2;
        script.line("usage begin\nsleep 600\nusage quiet");
        script.line(format!(
            "sidecar-bench measure {} 1 {half} >/dev/null\nsleep 45\nusage end",
            busy.workload
        ));
    }
    script.line("end");
    variants.push(name.to_owned());
    for option in &plan.also {
        let variant = format!("{name}, {option}");
        let setting = format!("SIDECAR_PROBES__{}__{}", name.to_uppercase(), uppercase_name(option));
        script.line(format!(
            "beside_agent '{variant}' env {setting} sidecar --probe {name} {}",
            only.join(" ")
        ));
        script.line("sleep 65");
        measure(&mut script);
        script.line("end");
        variants.push(variant);
    }
    for other in others {
        script.line(format!("beside '{other}' {other}"));
        measure(&mut script);
        script.line("end");
        variants.push(other.clone());
    }
    script.line(format!("alone '{AFTER}'"));
    measure(&mut script);
    Ok((script, variants))
}

/// `name=value` as it stands in a variable of the environment.
fn uppercase_name(option: &str) -> String {
    let (name, value) = option.split_once('=').unwrap_or((option, "true"));
    format!("{}={value}", name.to_uppercase())
}

/// Debian's libbpf-tools, unpacked and not installed.
fn fetch_tools() -> Result<PathBuf> {
    let tree = root().join(".cache/libbpf-tools");
    if !tree.exists() {
        step("fetching libbpf-tools");
        kernels::unpack(TOOLS, &tree, |_| Ok(vec!["libbpf-tools".to_owned()]))
            .context("cannot get the tools to compare with")?;
    }
    Ok(tree)
}

fn programs(others: &[String], tools: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for other in others {
        let name = other.split(' ').next().unwrap_or_default();
        let found = tools.and_then(|tools| kernels::find(tools, name));
        programs.push(found.with_context(|| format!("libbpf-tools has no program {name}"))?);
    }
    Ok(programs)
}
