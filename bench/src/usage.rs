//! What a process has used: processor time to the nanosecond, and memory.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// Prints, for a process: nanoseconds since the machine started, nanoseconds it has run, resident bytes, bytes of its
/// BPF maps.
pub(crate) fn print(pid: u32, label: &str) -> Result<()> {
    let (now, run) = (uptime()?, processor(pid)?);
    println!("@@usage {label} {} {} {} {}", now.as_nanos(), run.as_nanos(), resident(pid)?, maps(pid)?);
    Ok(())
}

fn uptime() -> Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Ok(Duration::from_secs_f64(seconds.context("/proc/uptime has no number")?))
}

/// How long a process has run, with its threads that have ended; unlike utime and stime not rounded to ticks.
pub(crate) fn processor(pid: u32) -> Result<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls get valid places to write to, and what they return is checked.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid as i32, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) < 0
    };
    anyhow::ensure!(!failed, "no process {pid}");
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Resident bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes = line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
    Ok(kilobytes.context("VmRSS is no number")? * 1024)
}

/// Bytes of all open maps as the kernel reports them: what they hold since Linux 6.4, what they could hold before.
pub(crate) fn maps(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may have been closed since it was listed.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("map_type:").is_some() {
            let bytes = field("memlock:").and_then(|bytes| bytes.parse::<u64>().ok());
            sum += bytes.context("a map without a size")?;
        }
    }
    Ok(sum)
}
