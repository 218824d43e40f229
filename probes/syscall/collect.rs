//! From the kernel's tables to rows.

use std::{mem::offset_of, time::Duration};

use sidecar_core::{CollectError, Collector, Kernel, Rows, Start};

use super::{
    Sizes,
    names::Call,
    series::{Table, UNKNOWN},
    shared::{Key, REST_COMPAT, REST_ENTRIES, State},
    slots::{self, Slots},
    tables::Tables,
};
use crate::plain::as_bytes;

/// The map of the programs' state.
const STATE: &str = ".bss.state";

/// The collector.
pub(super) struct Syscalls {
    tables: Tables,
    slots: Slots,
    series: Table,
    /// The bytes of a `State` without any accounts; kept, because it is large.
    state: Vec<u8>,
}

impl Syscalls {
    pub(super) fn new(start: &Start) -> Self {
        let sizes = Sizes::of(start);
        Self {
            tables: Tables::new(&sizes),
            slots: Slots::new(start, &sizes),
            series: Table::new(start),
            state: vec![0; size_of::<State>()],
        }
    }

    /// Tells the programs where to count, and makes them forget every task's account: a task may have changed its name, its
    /// cgroup or its parents without our noticing, and it costs each of them one look-up.
    fn refresh(&mut self, kernel: &dyn Kernel) -> Result<(), CollectError> {
        for (at, word) in [
            (offset_of!(State, first_page), self.tables.first_page()),
            (offset_of!(State, page_mask), self.tables.page_mask()),
            (offset_of!(State, ready), 1),
        ] {
            self.state[at..at + size_of::<u64>()].copy_from_slice(&word.to_ne_bytes());
        }
        Ok(kernel.update(STATE, as_bytes(&0u32), &self.state)?)
    }

    fn read(&mut self, kernel: &dyn Kernel, now: Duration) -> Result<(), CollectError> {
        let added = self.tables.read(kernel, now)?;
        // After the tables: what is in them has a slot we then know.
        self.slots.learn(kernel, now)?;
        for (key, count) in added.calls {
            let key = Key::of(key);
            let process = self.slots.process(key.slot, now);
            self.series.add(key.slot, process, Call::of(&key), count, now);
        }
        for (key, times) in added.times {
            self.series.time(Call::of(&Key::of(key)).0, &times);
        }
        for (index, rest) in added.rest {
            self.series.add_rest(call_of_rest(index), &rest, now);
        }
        Ok(())
    }
}

/// The call of an entry of `REST`.
fn call_of_rest(index: u32) -> Call {
    match index {
        _ if index == REST_ENTRIES - 1 || index == REST_COMPAT - 1 => UNKNOWN,
        _ if index >= REST_COMPAT => Call { number: index - REST_COMPAT, compat: true },
        _ => Call { number: index, compat: false },
    }
}

impl Collector for Syscalls {
    fn attached(&mut self, kernel: &mut dyn Kernel) -> Result<(), CollectError> {
        self.slots.hand_out(kernel)?;
        self.refresh(kernel)
    }

    fn rescoped(&mut self, kernel: &mut dyn Kernel, _: bool) -> Result<(), CollectError> {
        self.refresh(kernel)
    }

    fn drain(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }

    fn fill(&self) -> Vec<(&'static str, u64)> {
        vec![("SLOTS", self.slots.used() as u64)]
    }

    fn collect(&mut self, kernel: &mut dyn Kernel, rows: &mut Rows) -> Result<(), CollectError> {
        let now = kernel.monotonic();
        let read = self.read(kernel, now);
        self.tables.turn(now);
        let recycled = self.slots.recycle(kernel, now);
        // Between taking slots back and giving them out again, so that nobody has one in hand.
        let refreshed = self.refresh(kernel);
        let given = recycled.and_then(|free| {
            self.series.release(&free);
            slots::give(kernel, &free)
        });
        self.series.rows(rows);
        read.and(refreshed).and(given)
    }
}
