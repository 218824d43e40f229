//! The slots the kernel side counts under: which label set has which, and which are taken back because nobody has used
//! them for a while. A slot is given out again only when no program can still have it in hand.

use std::time::Duration;

use sidecar_common::owner::{COMM_LEN, Owner};
use sidecar_core::{CollectError, Kernel, Start};

use super::{
    Sizes,
    shared::{FIRST_SLOT, SlotKey},
    tables::SETTLED,
};
use crate::plain::{as_bytes, view};

/// A slot may be taken back after so long without a call, if slots are scarce.
const IDLE: Duration = Duration::from_secs(10);
/// Slots are scarce when fewer than this share of them is left.
const SCARCE: usize = 4;

/// The labels of a process, without those that are not wanted.
pub(super) type Process = Vec<(&'static str, Box<str>)>;

enum State {
    Free,
    Used {
        key: SlotKey,
        process: Process,
        touched: Duration,
    },
    /// No longer given out, but a task may still count under it.
    Leaving {
        process: Process,
        since: Duration,
    },
}

/// All slots.
pub(super) struct Slots {
    start: Start,
    states: Vec<State>,
    used: usize,
}

impl Slots {
    pub(super) fn new(start: &Start, sizes: &Sizes) -> Self {
        let states = (0..sizes.slots).map(|_| State::Free).collect();
        Self { start: start.clone(), states, used: 0 }
    }

    /// Hands all slots to the kernel side.
    pub(super) fn hand_out(&self, kernel: &dyn Kernel) -> Result<(), CollectError> {
        give(kernel, &(FIRST_SLOT..self.states.len() as u32).collect::<Vec<_>>())
    }

    /// Learns which label sets have got slots.
    pub(super) fn learn(&mut self, kernel: &dyn Kernel, now: Duration) -> Result<(), CollectError> {
        let (states, start) = (&mut self.states, &self.start);
        let (mut used, mut malformed) = (0, false);
        kernel.for_each("SLOTS", false, &mut |key, slot| {
            let (Some(key), Some(slot)) = (view::<SlotKey>(key), view::<u32>(slot)) else {
                malformed = true;
                return;
            };
            used += 1;
            match states.get_mut(*slot as usize) {
                Some(state @ State::Free) => {
                    *state = State::Used { key: *key, process: process(start, key), touched: now };
                }
                Some(_) => {}
                None => malformed = true,
            }
        })?;
        self.used = used;
        if malformed { Err(CollectError::Malformed("a slot that does not exist".into())) } else { Ok(()) }
    }

    /// Label sets that have slots.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Whose slot it is; `None` for the rest's.
    pub(super) fn process(&mut self, slot: u32, now: Duration) -> Option<&Process> {
        match self.states.get_mut(slot as usize)? {
            State::Free => None,
            State::Used { process, touched, .. } => {
                *touched = now;
                Some(process)
            }
            State::Leaving { process, .. } => Some(process),
        }
    }

    /// Takes idle slots back if slots are scarce, and gives those taken back earlier out again. What a task remembers of
    /// its slot must be made forgotten after this. Returns the slots that are free now.
    pub(super) fn recycle(&mut self, kernel: &dyn Kernel, now: Duration) -> Result<Vec<u32>, CollectError> {
        let all = self.states.len() - FIRST_SLOT as usize;
        let scarce = (all - self.used.min(all)) * SCARCE < all;
        let mut free = Vec::new();
        for (slot, state) in (0u32..).zip(&mut self.states) {
            match state {
                State::Used { key, process, touched } if scarce && now.saturating_sub(*touched) >= IDLE => {
                    kernel.delete("SLOTS", as_bytes(key))?;
                    *state = State::Leaving { process: std::mem::take(process), since: now };
                }
                State::Leaving { since, .. } if now.saturating_sub(*since) >= SETTLED => {
                    *state = State::Free;
                    free.push(slot);
                }
                _ => {}
            }
        }
        Ok(free)
    }
}

/// Gives slots out again.
pub(super) fn give(kernel: &dyn Kernel, slots: &[u32]) -> Result<(), CollectError> {
    slots.iter().try_for_each(|slot| Ok(kernel.update("FREE", &[], as_bytes(slot))?))
}

/// The labels of a label set.
fn process(start: &Start, key: &Owner) -> Process {
    let value = |name: &&'static str| -> Box<str> {
        match *name {
            "comm" => comm_text(&key.comm).into(),
            "pid" => key.pid.to_string().into(),
            _ => start.names.cgroup(key.cgroup).into(),
        }
    };
    wanted(start).map(|name| (name, value(&name))).collect()
}

/// The wanted labels of processes, in the order they are shown.
pub(super) fn wanted(start: &Start) -> impl Iterator<Item = &'static str> {
    ["comm", "pid", "cgroup"].into_iter().filter(|name| start.labels.iter().any(|label| label == name))
}

/// A process's name. Names are bytes; what is not UTF-8 is shown as such.
fn comm_text(comm: &[u8; COMM_LEN]) -> String {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(COMM_LEN);
    String::from_utf8_lossy(&comm[..end]).into_owned()
}
