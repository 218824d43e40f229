//! What a process has used: processor time to the nanosecond, and memory.

use std::fs;

use anyhow::{Context as _, Result};

/// Prints processor nanoseconds, resident kB and bytes of BPF maps of a process.
pub(crate) fn print(pid: u32) -> Result<()> {
    println!("@@usage cpu_ns {}", processor(pid)?);
    println!("@@usage resident_kb {}", resident(pid)?);
    println!("@@usage map_bytes {}", maps(pid)?);
    Ok(())
}

/// Nanoseconds all threads have run; unlike utime and stime not rounded to ticks.
fn processor(pid: u32) -> Result<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("no process {pid}"))?;
    let mut sum = 0;
    for thread in threads {
        let path = thread?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let time = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        sum += time.with_context(|| format!("{} has no time", path.display()))?;
    }
    Ok(sum)
}

fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().next().and_then(|word| word.parse().ok()).context("VmRSS is no number")
}

/// As the kernel reports it for each open map.
fn maps(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may have been closed since it was listed.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("map_type:").is_some() {
            sum += field("memlock:").and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(sum)
}
