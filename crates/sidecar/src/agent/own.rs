//! What the agent says about itself: the state of its probes, what they cost, what they have lost.

use std::{fs, sync::Arc, time::Duration};

use sidecar_common::loss::Loss;
use sidecar_core::{Kernel, Kind, Labels, Metric, ProbeReport, ProbeState, Rows, Unit, Value};

use super::tick::Running;
use crate::{cli, serve};

macro_rules! metrics {
    ($($name:ident = $metric:literal $kind:ident $unit:ident [$($label:literal),*] $help:literal;)+) => {
        $(static $name: Metric = Metric {
            name: $metric,
            help: $help,
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: &[$($label),*],
        };)+
        /// The agent's own metrics, without those of the HTTP side.
        pub(crate) static METRICS: &[&Metric] = &[$(&$name),+];
    };
}

metrics! {
    BUILD = "sidecar_build_info" Info None ["version", "revision"] "Version of the agent";
    STATE = "sidecar_probe_state" Gauge None ["probe", "state"] "1 for the state a probe is in, 0 for the others";
    HOOK = "sidecar_probe_hook_info" Info None ["probe", "hook", "via"] "How a probe reached each of its hooks";
    COLLECT = "sidecar_collect_seconds_total" Counter Seconds ["probe"] "Time spent on turning a probe's maps into rows";
    COLLECTS = "sidecar_collects_total" Counter None ["probe"] "Times a probe's maps were read";
    FAILURES = "sidecar_collect_failures_total" Counter None ["probe"] "Times a probe's maps could not be read";
    RUN_TIME = "sidecar_bpf_run_seconds_total" Counter Seconds ["probe", "program"] "Time spent in a kernel program while the kernel measured it";
    RUNS = "sidecar_bpf_runs_total" Counter None ["probe", "program"] "Runs of a kernel program while the kernel counted them";
    MISSED = "sidecar_bpf_missed_runs_total" Counter None ["probe", "program"] "Runs the kernel left out because the program was already running on that CPU; not told before Linux 5.12";
    MEASURED = "sidecar_bpf_measured_seconds_total" Counter Seconds [] "How long the kernel has measured run times; see metrics.program_stats";
    ENTRIES = "sidecar_map_entries" Gauge None ["probe", "map"] "Entries in a map that can fill up";
    CAPACITY = "sidecar_map_max_entries" Gauge None ["probe", "map"] "Entries such a map has room for";
    MAP_BYTES = "sidecar_map_bytes" Gauge Bytes ["probe"] "Kernel memory of a probe's maps";
    LOST = "sidecar_lost_total" Counter None ["probe", "reason"] "Facts that did not come through, by why";
    SPILLED = "sidecar_spilled_total" Counter None ["probe"] "Facts that did not fit into the ring buffer and were kept aside: late, not lost";
    RESIDENT = "process_resident_memory_bytes" Gauge Bytes [] "Resident memory of the agent";
    CPU = "process_cpu_seconds_total" Counter Seconds [] "User and system CPU time of the agent";
    FDS = "process_open_fds" Gauge None [] "Open file descriptors of the agent";
    STARTED = "process_start_time_seconds" Gauge Seconds [] "When the agent began, in seconds since the Unix epoch";
}

/// What does not change from tick to tick.
pub(super) struct Own {
    build: Labels,
    started: f64,
    http: Arc<serve::Stats>,
}

impl Own {
    pub(super) fn new(started: Duration, http: Arc<serve::Stats>) -> Self {
        let build = Labels::new([("version", cli::VERSION), ("revision", cli::REVISION)]);
        Self { build, started: started.as_secs_f64(), http }
    }

    /// Rows about the agent and every probe.
    pub(super) fn rows(&self, running: &[Running], off: &[ProbeReport], measured: Duration, rows: &mut Rows) {
        rows.push(&BUILD, &self.build, Value::Gauge(1.0));
        for report in running.iter().map(|running| &running.report).chain(off) {
            state(report, rows);
        }
        for probe in running {
            of_probe(probe, measured, rows);
        }
        let none = Labels::default();
        rows.push(&MEASURED, &none, Value::CounterF64(measured.as_secs_f64()));
        self.process(rows);
        self.http.collect(rows);
    }

    fn process(&self, rows: &mut Rows) {
        let none = Labels::default();
        if let Some(bytes) = resident() {
            rows.push(&RESIDENT, &none, Value::Gauge(bytes as f64));
        }
        rows.push(&CPU, &none, Value::CounterF64(cpu().as_secs_f64()));
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            // The directory itself is one of them while it is read.
            rows.push(&FDS, &none, Value::Gauge(fds.count().saturating_sub(1) as f64));
        }
        rows.push(&STARTED, &none, Value::Gauge(self.started));
    }
}

fn state(report: &ProbeReport, rows: &mut Rows) {
    for state in ProbeState::ALL {
        let labels = Labels::new([("probe", report.probe), ("state", state.as_str())]);
        rows.push(&STATE, &labels, Value::Gauge(f64::from(u8::from(state == report.state))));
    }
    for hook in &report.hooks {
        let via = hook.used.map_or("none".to_owned(), |step| step.via.to_string());
        let labels = Labels::new([("probe", report.probe), ("hook", &*hook.hook), ("via", via.as_str())]);
        rows.push(&HOOK, &labels, Value::Gauge(1.0));
    }
}

fn of_probe(running: &Running, measured: Duration, rows: &mut Rows) {
    let probe = running.report.probe;
    let labels = Labels::new([("probe", probe)]);
    rows.push(&COLLECT, &labels, Value::CounterF64(running.spent.as_secs_f64()));
    rows.push(&COLLECTS, &labels, Value::Counter(running.collects));
    rows.push(&FAILURES, &labels, Value::Counter(running.failures));
    rows.push(&MAP_BYTES, &labels, Value::Gauge(running.object.map_bytes() as f64));
    for (program, stats) in running.object.run_stats() {
        let labels = Labels::new([("probe", probe), ("program", program)]);
        // Zeros would look like programs that cost nothing.
        if !measured.is_zero() {
            rows.push(&RUN_TIME, &labels, Value::CounterF64(stats.time.as_secs_f64()));
            rows.push(&RUNS, &labels, Value::Counter(stats.runs));
        }
        rows.push(&MISSED, &labels, Value::Counter(stats.missed));
    }
    let fill = running.collector.fill();
    for (map, capacity) in running.object.hash_maps() {
        if let Some((_, entries)) = fill.iter().find(|(name, _)| *name == map) {
            let labels = Labels::new([("probe", probe), ("map", map)]);
            rows.push(&ENTRIES, &labels, Value::Gauge(*entries as f64));
            rows.push(&CAPACITY, &labels, Value::Gauge(f64::from(capacity)));
        }
    }
    for (loss, reason) in Loss::ALL {
        if let Ok(count) = running.object.per_cpu_sum("LOSS", loss as u32) {
            if loss == Loss::Spilled {
                rows.push(&SPILLED, &labels, Value::Counter(count));
            } else {
                let labels = Labels::new([("probe", probe), ("reason", reason)]);
                rows.push(&LOST, &labels, Value::Counter(count));
            }
        }
    }
}

/// Second field of `/proc/self/statm`, in pages.
fn resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: no pointers involved.
    Some(pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64)
}

fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
