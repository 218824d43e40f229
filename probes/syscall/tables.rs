//! Reading the kernel's tables: what has been added since they were last read. A cell keeps its key until its table is
//! emptied, and a table is only emptied when it is nearly full: the programs then count in the other one, and the first
//! is read a last time when nobody can be in it any more.

use std::time::Duration;

use rustc_hash::FxHashMap;
use sidecar_core::{CollectError, Kernel};

use super::{
    Sizes,
    shared::{BUCKETS, CELLS, Cell, Key, REST_ENTRIES, REST_PER_PAGE, Rest, TIMED_CELLS, TimedCell},
};
use crate::plain::{Plain, view};

/// Longer than any program runs: what was begun before is done after it.
pub(super) const SETTLED: Duration = Duration::from_millis(400);

/// How long calls of one number took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) nanos: u64,
    pub(super) buckets: [u64; BUCKETS],
}

impl Times {
    pub(super) fn add(&mut self, other: &Self) {
        self.nanos += other.nanos;
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, more)| *sum += more);
    }

    fn since(&self, earlier: &Self) -> Self {
        let mut buckets = self.buckets;
        buckets.iter_mut().zip(&earlier.buckets).for_each(|(now, then)| *now = now.saturating_sub(*then));
        Self { nanos: self.nanos.saturating_sub(earlier.nanos), buckets }
    }
}

/// What a table holds, all CPUs together.
#[derive(Default)]
struct Content {
    calls: FxHashMap<u64, u64>,
    times: FxHashMap<u64, Times>,
}

/// What was added to the tables since the last reading.
#[derive(Default)]
pub(super) struct Added {
    /// Calls by key, as it is in the kernel.
    pub(super) calls: Vec<(u64, u64)>,
    /// Times by the key of a call alone.
    pub(super) times: Vec<(u64, Times)>,
    /// Calls without a cell, by their index.
    pub(super) rest: Vec<(u32, Rest)>,
}

/// The two tables.
pub(super) struct Tables {
    map: &'static str,
    timed: bool,
    pages: u32,
    /// What each said when it was last read.
    last: [Content; 2],
    rest: Vec<Rest>,
    /// The one the programs count in.
    active: usize,
    /// Since when the other one is not counted in but not yet emptied.
    retired: Option<Duration>,
    /// Whether the one counted in has little room left.
    is_full: bool,
    buffer: Vec<u8>,
}

impl Tables {
    pub(super) fn new(sizes: &Sizes) -> Self {
        Self {
            map: sizes.map(),
            timed: sizes.timed,
            pages: sizes.pages,
            last: Default::default(),
            rest: vec![Rest { calls: 0, errors: 0, interrupted: 0 }; REST_ENTRIES as usize],
            active: 0,
            retired: None,
            is_full: false,
            buffer: Vec::new(),
        }
    }

    /// First page the programs shall count in, for their state.
    pub(super) fn first_page(&self) -> u64 {
        self.active as u64 * u64::from(self.pages)
    }

    /// Pages less one.
    pub(super) fn page_mask(&self) -> u64 {
        u64::from(self.pages) - 1
    }

    /// Changes the table if the present one is nearly full. The programs learn of it when their state is written next.
    pub(super) fn turn(&mut self, now: Duration) {
        if self.is_full && self.retired.is_none() {
            self.active = 1 - self.active;
            self.retired = Some(now);
            self.is_full = false;
        }
    }

    /// Reads what was added.
    pub(super) fn read(&mut self, kernel: &dyn Kernel, now: Duration) -> Result<Added, CollectError> {
        let mut added = Added::default();
        if let Some(since) = self.retired {
            let other = 1 - self.active;
            self.read_table(kernel, other, &mut added)?;
            if now.saturating_sub(since) >= SETTLED {
                for page in self.pages_of(other) {
                    kernel.clear_per_cpu(self.map, page)?;
                }
                self.last[other] = Content::default();
                self.retired = None;
            }
        }
        self.read_table(kernel, self.active, &mut added)?;
        self.read_rest(kernel, &mut added)?;
        Ok(added)
    }

    fn pages_of(&self, table: usize) -> std::ops::Range<u32> {
        let first = table as u32 * self.pages;
        first..first + self.pages
    }

    fn read_table(
        &mut self,
        kernel: &dyn Kernel,
        table: usize,
        added: &mut Added,
    ) -> Result<(), CollectError> {
        let mut content = Content::default();
        for page in self.pages_of(table) {
            self.buffer.clear();
            kernel.per_cpu(self.map, page, &mut self.buffer)?;
            let is_full = if self.timed {
                each::<TimedCell>(&self.buffer, |cell| {
                    let calls = cell.untimed + cell.buckets.iter().sum::<u64>();
                    *content.calls.entry(cell.key).or_default() += calls;
                    let times = Times { nanos: cell.nanos, buckets: cell.buckets };
                    content.times.entry(Key::of(cell.key).call()).or_default().add(&times);
                })?
            } else {
                each::<Cell>(&self.buffer, |cell| {
                    *content.calls.entry(cell.key).or_default() += cell.calls;
                })?
            };
            self.is_full |= table == self.active && is_full;
        }
        let last = &self.last[table];
        for (&key, &calls) in &content.calls {
            let more = calls.saturating_sub(last.calls.get(&key).copied().unwrap_or(0));
            if more > 0 {
                added.calls.push((key, more));
            }
        }
        for (&call, times) in &content.times {
            let more = times.since(&last.times.get(&call).copied().unwrap_or_default());
            if more != Times::default() {
                added.times.push((call, more));
            }
        }
        self.last[table] = content;
        Ok(())
    }

    fn read_rest(&mut self, kernel: &dyn Kernel, added: &mut Added) -> Result<(), CollectError> {
        for page in 0..REST_ENTRIES / REST_PER_PAGE {
            self.buffer.clear();
            kernel.per_cpu("REST", page, &mut self.buffer)?;
            let first = page * REST_PER_PAGE;
            let mut sums = [Rest { calls: 0, errors: 0, interrupted: 0 }; REST_PER_PAGE as usize];
            for (at, rest) in cells::<Rest>(&self.buffer).enumerate() {
                let sum = &mut sums[at % REST_PER_PAGE as usize];
                let rest = rest.ok_or_else(malformed)?;
                sum.calls += rest.calls;
                sum.errors += rest.errors;
                sum.interrupted += rest.interrupted;
            }
            for (index, now) in (first..).zip(sums) {
                let last = std::mem::replace(&mut self.rest[index as usize], now);
                if now.calls > last.calls {
                    self.is_full = true;
                    let rest = Rest {
                        calls: now.calls - last.calls,
                        errors: now.errors.saturating_sub(last.errors),
                        interrupted: now.interrupted.saturating_sub(last.interrupted),
                    };
                    added.rest.push((index, rest));
                }
            }
        }
        Ok(())
    }
}

fn malformed() -> CollectError {
    CollectError::Malformed("a table of another size than expected".into())
}

fn cells<T: Plain>(bytes: &[u8]) -> impl Iterator<Item = Option<&T>> {
    bytes.chunks(size_of::<T>()).map(view::<T>)
}

/// A cell that begins with its key.
trait Keyed: Plain {
    const PER_PAGE: usize;
    fn key(&self) -> u64;
}

impl Keyed for Cell {
    const PER_PAGE: usize = CELLS;
    fn key(&self) -> u64 {
        self.key
    }
}

impl Keyed for TimedCell {
    const PER_PAGE: usize = TIMED_CELLS;
    fn key(&self) -> u64 {
        self.key
    }
}

/// Passes on the cells in use of one page of all CPUs; whether more than three quarters of it are in use on any of them.
fn each<T: Keyed>(bytes: &[u8], mut add: impl FnMut(&T)) -> Result<bool, CollectError> {
    let mut is_full = false;
    for page in bytes.chunks(T::PER_PAGE * size_of::<T>()) {
        let mut used = 0;
        for cell in cells::<T>(page) {
            let cell = cell.ok_or_else(malformed)?;
            if cell.key() != 0 {
                used += 1;
                add(cell);
            }
        }
        is_full |= used * 4 > T::PER_PAGE * 3;
    }
    Ok(is_full)
}
