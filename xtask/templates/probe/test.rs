//! Trigger → expect, on a kernel side made of one number.

use std::time::Duration;

use sidecar_core::{Collector as _, Kernel, KernelError, Rows, Value};

use super::{collect::Events, shared};

/// Answers for `COUNTS` and nothing else.
struct Counted(u64);

impl Kernel for Counted {
    fn per_cpu_sum(&self, map: &str, index: u32) -> Result<u64, KernelError> {
        assert_eq!((map, index), ("COUNTS", shared::EVENTS));
        Ok(self.0)
    }

    fn lookup(&self, map: &str, _: &[u8], _: &mut [u8]) -> Result<bool, KernelError> {
        unreachable!("{map}")
    }

    fn update(&self, map: &str, _: &[u8], _: &[u8]) -> Result<(), KernelError> {
        unreachable!("{map}")
    }

    fn delete(&self, map: &str, _: &[u8]) -> Result<bool, KernelError> {
        unreachable!("{map}")
    }

    fn for_each(&self, map: &str, _: bool, _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), KernelError> {
        unreachable!("{map}")
    }

    fn run_iterator(&self, program: &str, _: &mut Vec<u8>) -> Result<(), KernelError> {
        unreachable!("{program}")
    }

    fn drain(&mut self, ring: &str, _: &mut dyn FnMut(&[u8])) -> Result<(), KernelError> {
        unreachable!("{ring}")
    }

    fn has_program(&self, program: &str) -> bool {
        unreachable!("{program}")
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn the_kernels_count_is_the_row() {
    let mut rows = Rows::default();
    Events.collect(&mut Counted(42), &mut rows).unwrap();
    let snapshot = rows.finish(std::time::SystemTime::UNIX_EPOCH, std::time::SystemTime::UNIX_EPOCH);
    let family = snapshot.family("sidecar_@NAME@_events_total").unwrap();
    assert_eq!(family.rows[0].value, Value::Counter(42));
}
