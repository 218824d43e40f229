//! One probe's events: its switch, its ring, and what its kernel side had no room for. Used by the agent and by `trace`.

use sidecar_common::event;
use sidecar_core::{CollectError, Collector, Event, EventSpec, Events, Kernel, KernelError, Listener};

use super::hub::clock;

/// The event side of a probe that runs.
pub(crate) struct Source {
    events: &'static [&'static EventSpec],
    wanted: u32,
    /// What the kernel side had lost of each type when it was last looked at.
    lost: [u64; event::MAX_KINDS as usize],
}

/// Takes what is left over from before and forgets it.
struct Nobody;

impl Listener for Nobody {
    fn event(&mut self, _: Event) {}
    fn lost(&mut self, _: &'static EventSpec, _: u64) {}
}

impl Source {
    /// Of a probe with these event types; nobody listens yet.
    pub(crate) fn new(events: &'static [&'static EventSpec]) -> Self {
        Self { events, wanted: 0, lost: [0; event::MAX_KINDS as usize] }
    }

    /// The probe's event types.
    pub(crate) fn events(&self) -> &'static [&'static EventSpec] {
        self.events
    }

    /// Whether somebody listens.
    pub(crate) fn is_on(&self) -> bool {
        self.wanted != 0
    }

    /// Switches to these event types, given as bits. What was still under way is handed over first.
    pub(crate) fn switch(
        &mut self,
        wanted: u32,
        kernel: &mut dyn Kernel,
        collector: &mut dyn Collector,
        listener: &mut dyn Listener,
    ) -> Result<(), CollectError> {
        if wanted == self.wanted {
            return Ok(());
        }
        if self.wanted == 0 {
            // What a program was busy with when the last listener went.
            self.pump(kernel, collector, &mut Nobody)?;
        }
        known(kernel.update(event::SWITCH, &0u32.to_ne_bytes(), &wanted.to_ne_bytes()))?;
        collector.listening(wanted);
        self.wanted = wanted;
        self.pump(kernel, collector, listener)
    }

    /// Hands over what has happened since the last time.
    pub(crate) fn pump(
        &mut self,
        kernel: &mut dyn Kernel,
        collector: &mut dyn Collector,
        listener: &mut dyn Listener,
    ) -> Result<(), CollectError> {
        let offset = clock(libc::CLOCK_REALTIME).saturating_sub(clock(libc::CLOCK_MONOTONIC));
        let read = collector.events(kernel, &mut Events::new(offset, listener));
        for (at, spec) in self.events.iter().enumerate() {
            let lost = known(kernel.per_cpu_sum(event::LOST, at as u32))?;
            let before = std::mem::replace(&mut self.lost[at], lost);
            if lost > before {
                listener.lost(spec, lost - before);
            }
        }
        read
    }
}

/// Probes whose events come from what their kernel side tells anyway have nothing to switch there.
fn known<T: Default>(result: Result<T, KernelError>) -> Result<T, KernelError> {
    match result {
        Err(error) if error.cause.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        result => result,
    }
}
