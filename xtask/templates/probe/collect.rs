//! From the kernel's counter to a row.

use sidecar_core::{CollectError, Collector, Kernel, Labels, Rows, Value};

use super::{EVENTS, shared};

/// The collector; the kernel keeps the count.
pub(super) struct Events;

impl Collector for Events {
    fn attached(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }

    fn rescoped(&mut self, _: &mut dyn Kernel, _: bool) -> Result<(), CollectError> {
        Ok(())
    }

    fn drain(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }

    fn fill(&self) -> Vec<(&'static str, u64)> {
        // An array has all its entries from the start.
        Vec::new()
    }

    fn collect(&mut self, kernel: &mut dyn Kernel, rows: &mut Rows) -> Result<(), CollectError> {
        let events = kernel.per_cpu_sum("COUNTS", shared::EVENTS)?;
        rows.push(&EVENTS, &Labels::default(), Value::Counter(events));
        Ok(())
    }
}
