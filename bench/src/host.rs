//! The agent beside us, on a real processor: how fast it starts, what it takes under a steady stream of connections,
//! and how it stands up to many of them. Prints one line a figure.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{http, load, usage};

const ADDRESS: &str = "127.0.0.1:19099";
/// How often each time is taken.
const STARTS: u32 = 20;
const SCRAPES: u32 = 10;
/// The load under which the agent's share of a processor is told.
const PER_MINUTE: u64 = 10_000;
/// Ends of live connections; two of each are on this machine.
const LIVE: u64 = 100_000;
/// Series to be encoded at a scrape.
const SERIES: u64 = 50_000;

/// All figures.
pub(crate) fn measure(agent: &str) -> Result<()> {
    start(agent)?;
    steady(agent)?;
    live(agent)?;
    series(agent)
}

fn figure(name: &str, value: f64) {
    println!("@@figure {name} {value}");
}

/// From being started to having all probes attached and answering.
fn start(agent: &str) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let begin = Instant::now();
        let _agent = Agent::start(agent, &[])?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    figure("start_ms", median(times));
    Ok(())
}

/// Its share of one processor while connections come and go.
fn steady(agent: &str) -> Result<()> {
    let agent = Agent::start(agent, &[])?;
    // The kernel's timing of programs ends after the first minute; it is not what runs for days.
    sleep(Duration::from_secs(62));
    let (begin, before) = (Instant::now(), agent.processor()?);
    load::short(PER_MINUTE, PER_MINUTE / 60)?;
    let share = agent.processor()?.saturating_sub(before).as_secs_f64() / begin.elapsed().as_secs_f64();
    figure("steady_cpu_percent", share * 100.0);
    figure("steady_per_minute", PER_MINUTE as f64 * 60.0 / begin.elapsed().as_secs_f64());
    Ok(())
}

/// Memory and reading time with many live connections.
fn live(agent: &str) -> Result<()> {
    let agent = Agent::start(agent, &["--max-connections", "262144", "--interval", "5"])?;
    let open = load::alike(LIVE / 2)?;
    sleep(Duration::from_secs(12));
    let before = metrics()?;
    sleep(Duration::from_secs(30));
    let after = metrics()?;
    let grown = |metric| Ok::<_, anyhow::Error>(http::value(&after, metric)? - http::value(&before, metric)?);
    figure("live_tracked", http::value(&after, "sidecar_map_entries")?);
    figure("live_resident_bytes", usage::resident(agent.pid())? as f64);
    figure("live_map_bytes", usage::maps(agent.pid())? as f64);
    figure(
        "live_collect_ms",
        1e3 * grown("sidecar_collect_seconds_total")? / grown("sidecar_collects_total")?,
    );
    drop(open);
    Ok(())
}

/// Time to write a page of many series.
fn series(agent: &str) -> Result<()> {
    let agent = Agent::start(agent, &["--interval", "1"])?;
    let lines = |page: &str| page.lines().filter(|line| !line.starts_with('#')).count() as u64;
    let mut open = load::spread(100)?;
    sleep(Duration::from_secs(3));
    let few = lines(&metrics()?);
    // Each address of a client is a label set at either end.
    open.extend(load::spread(100 * SERIES / few)?);
    sleep(Duration::from_secs(3));
    let before = metrics()?;
    let mut times = Vec::new();
    for _ in 0..SCRAPES {
        // One reading of the kernel later, so that no page is served twice.
        sleep(Duration::from_millis(1100));
        let begin = Instant::now();
        metrics()?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    // What the agent says of itself is as of its last reading, too.
    sleep(Duration::from_secs(2));
    let after = metrics()?;
    figure("series", lines(&after) as f64);
    figure("series_bytes", after.len() as f64);
    figure("series_scrape_ms", median(times));
    let encoding = "sidecar_scrape_encoding_seconds_total";
    let scrapes =
        http::value(&after, "sidecar_scrapes_total")? - http::value(&before, "sidecar_scrapes_total")?;
    figure(
        "series_encoding_ms",
        1e3 * (http::value(&after, encoding)? - http::value(&before, encoding)?) / scrapes,
    );
    figure("series_resident_bytes", usage::resident(agent.pid())? as f64);
    Ok(())
}

/// Of the one agent there is.
fn metrics() -> Result<String> {
    http::get(ADDRESS, "/metrics")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A running agent; ends with the value.
struct Agent(Child);

impl Agent {
    fn start(program: &str, arguments: &[&str]) -> Result<Self> {
        let child = Command::new(program)
            .args(["--listen", ADDRESS, "--config"])
            .arg("/dev/null")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(File::create("/dev/null")?)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let agent = Self(child);
        http::ready(ADDRESS)?;
        Ok(agent)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn processor(&self) -> Result<Duration> {
        usage::processor(self.pid())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
