//! From the kernel's counters to rows. The totals stay in the kernel and only grow, so a tick that fails loses nothing.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use sidecar_common::{event, owner::Owner};
use sidecar_core::{CollectError, Collector, Events, HistogramValue, Kernel, Labels, Rows, Start, Value};

use super::{
    decode, metrics,
    shared::{
        BY_CGROUP, BY_COMM, BY_PID, EXEC, EXIT, EXIT_FAILURE, EXIT_SUCCESS, FAILED, FAILED_ENTRIES,
        LIFETIME_SUM, LIFETIMES, OVERFLOW,
    },
};
use crate::plain::{as_bytes, view};

/// How long a counter must have stood still before it makes room for another.
const IDLE_SECONDS: u64 = 3600;
/// Longest that threads which end together may take for it.
const ENDING_NANOS: u64 = 2_000_000_000;
/// The row for what there was no room for.
const OTHER: &str = "other";

/// `metrics.labels` as the kernel side has it.
pub(super) fn labels(start: &Start) -> u32 {
    let has = |name: &str| start.labels.iter().any(|label| label == name);
    [("comm", BY_COMM), ("pid", BY_PID), ("cgroup", BY_CGROUP)]
        .iter()
        .filter(|(name, _)| has(name))
        .fold(0, |bits, (_, bit)| bits | bit)
}

/// A counter as it was last seen.
struct Counter {
    count: u64,
    /// Monotonic seconds of its last change.
    changed: u64,
}

/// The collector.
pub(super) struct Execs {
    start: Start,
    labels: u32,
    redacted: bool,
    seen: FxHashMap<Owner, Counter>,
    entries: [(&'static str, u64); 2],
}

/// One label set with what happened, as users see it.
type Named = (Vec<(&'static str, String)>, &'static str);

impl Execs {
    pub(super) fn new(start: &Start) -> Self {
        Self {
            labels: labels(start),
            redacted: start.options.bool("redact"),
            start: start.clone(),
            seen: FxHashMap::default(),
            entries: [("COUNTS", 0), ("FAILED_COUNTS", 0)],
        }
    }

    /// Reads both maps of counters, and lets go of some if one of them is nearly full.
    fn read(&mut self, kernel: &dyn Kernel) -> Result<Vec<(Owner, u64)>, CollectError> {
        let now = kernel.monotonic().as_secs();
        let mut counts = Vec::new();
        let room = [self.start.max_series as u64, u64::from(FAILED_ENTRIES)];
        for ((map, entries), room) in self.entries.iter_mut().zip(room) {
            let (before, mut is_sound) = (counts.len(), true);
            let mut add = |key: &[u8], value: &[u8]| match (view::<Owner>(key), view::<u64>(value)) {
                (Some(key), Some(count)) => counts.push((*key, *count)),
                _ => is_sound = false,
            };
            kernel.for_each(map, false, &mut add)?;
            if !is_sound {
                return Err(CollectError::Malformed(format!("an entry of {map} makes no sense")));
            }
            for (key, count) in &counts[before..] {
                let seen = self.seen.entry(*key).or_insert(Counter { count: 0, changed: now });
                if seen.count != *count {
                    *seen = Counter { count: *count, changed: now };
                }
            }
            *entries = (counts.len() - before) as u64;
            if *entries * 8 >= room * 7 {
                for (key, _) in &counts[before..] {
                    if self.seen.get(key).is_some_and(|seen| now - seen.changed >= IDLE_SECONDS) {
                        self.seen.remove(key);
                        kernel.delete(map, as_bytes(key))?;
                    }
                }
            }
        }
        Ok(counts)
    }

    /// Forgets processes whose threads have all had the time to end.
    fn forget_ended(kernel: &dyn Kernel) -> Result<(), CollectError> {
        let now = kernel.monotonic().as_nanos() as u64;
        let mut old = Vec::new();
        kernel.for_each("ENDED", false, &mut |key, since| {
            if view::<u64>(since).is_none_or(|since| now.saturating_sub(*since) > ENDING_NANOS) {
                old.push(key.to_vec());
            }
        })?;
        for key in old {
            kernel.delete("ENDED", &key)?;
        }
        Ok(())
    }

    /// The labels of a process, and what happened to it in words.
    fn name(&self, key: &Owner) -> Named {
        let mut labels = Vec::with_capacity(3);
        if self.labels & BY_COMM != 0 {
            let comm = key.comm.split(|byte| *byte == 0).next().unwrap_or_default();
            labels.push(("comm", String::from_utf8_lossy(comm).into_owned()));
        }
        if self.labels & BY_PID != 0 {
            labels.push(("pid", key.pid.to_string()));
        }
        if self.labels & BY_CGROUP != 0 {
            labels.push(("cgroup", self.start.names.cgroup(key.cgroup)));
        }
        let how = key.reserved & 0xffff;
        let word = match (key.reserved >> 16, how) {
            (EXEC, _) => "ok",
            (FAILED, errno) => self::errno(errno),
            (_, EXIT_SUCCESS) => "success",
            (_, EXIT_FAILURE) => "failure",
            (_, number) => signal(number),
        };
        (labels, word)
    }

    fn push(rows: &mut Rows, kind: u32, (labels, word): Named, count: u64) {
        let labels = Labels::new(labels);
        let (metric, name) =
            if kind == EXIT { (&metrics::EXITS, "reason") } else { (&metrics::EXECS, "result") };
        rows.push_with(metric, &labels, Some((name, word)), Value::Counter(count));
    }

    fn others(&self) -> Named {
        let names = [("comm", BY_COMM), ("pid", BY_PID), ("cgroup", BY_CGROUP)];
        let wanted = names.iter().filter(|(_, bit)| self.labels & bit != 0);
        (wanted.map(|(name, _)| (*name, OTHER.to_owned())).collect(), OTHER)
    }
}

impl Collector for Execs {
    fn attached(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }

    fn rescoped(&mut self, _: &mut dyn Kernel, _: bool) -> Result<(), CollectError> {
        // What has been counted stays; what happens from now on is counted under the new filter.
        Ok(())
    }

    fn drain(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }

    fn fill(&self) -> Vec<(&'static str, u64)> {
        self.entries.to_vec()
    }

    fn collect(&mut self, kernel: &mut dyn Kernel, rows: &mut Rows) -> Result<(), CollectError> {
        Self::forget_ended(kernel)?;
        let counts = self.read(kernel)?;
        // Names that look the same, once they are text, are one row.
        let mut named: BTreeMap<(u32, Named), u64> = BTreeMap::new();
        for (key, count) in counts {
            let kind = if key.reserved >> 16 == EXIT { EXIT } else { EXEC };
            *named.entry((kind, self.name(&key))).or_default() += count;
        }
        for (kind, slots) in [(EXEC, [EXEC, FAILED].as_slice()), (EXIT, &[EXIT])] {
            let mut count = 0;
            for slot in slots {
                count += kernel.per_cpu_sum("COUNTERS", OVERFLOW + slot)?;
            }
            if count > 0 {
                *named.entry((kind, self.others())).or_default() += count;
            }
        }
        for ((kind, name), count) in named {
            Self::push(rows, kind, name, count);
        }
        let buckets = 0..=LIFETIMES.len() as u32;
        let counts = buckets.map(|slot| kernel.per_cpu_sum("COUNTERS", slot)).collect::<Result<_, _>>()?;
        let sum = kernel.per_cpu_sum("COUNTERS", LIFETIME_SUM)? as f64 / 1e9;
        let value = HistogramValue { bounds: &metrics::LIFETIME_SECONDS, counts, sum };
        rows.push(&metrics::LIFETIME, &Labels::default(), Value::Histogram(value));
        Ok(())
    }

    fn events(&mut self, kernel: &mut dyn Kernel, out: &mut Events<'_>) -> Result<(), CollectError> {
        let mut malformed = None;
        kernel.drain(event::RING, &mut |bytes| {
            if let Err(error) = decode::record(bytes, self.redacted, &*self.start.names, out) {
                malformed = Some(error);
            }
        })?;
        malformed.map_or(Ok(()), Err)
    }
}

/// The name of an errno.
pub(super) fn errno(number: u32) -> &'static str {
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    syscalls::Errno::new(number).name().unwrap_or(OTHER)
}

/// The name of a signal.
pub(super) fn signal(number: u32) -> &'static str {
    /// Those before the real-time ones, the same on every architecture the agent runs on.
    const NAMES: [&str; 32] = [
        OTHER,
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    NAMES.get(number as usize).copied().unwrap_or("SIGRT")
}
