//! A kernel for tests of collectors: maps, rings and iterators are what the test puts there.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
    time::Duration,
};

use sidecar_core::{Interface, Kernel, KernelError};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Maps and iterator output by name.
#[derive(Default)]
pub(crate) struct FakeKernel {
    pub(crate) programs: Vec<&'static str>,
    pub(crate) maps: RefCell<HashMap<String, Entries>>,
    pub(crate) rings: HashMap<String, Vec<Vec<u8>>>,
    pub(crate) iterators: HashMap<String, Vec<u8>>,
    /// Sums of per-CPU counters, by map and slot.
    pub(crate) sums: HashMap<(&'static str, u32), u64>,
    /// Iterators that were run, in order.
    pub(crate) runs: RefCell<Vec<String>>,
    pub(crate) now: Duration,
    /// Interfaces, and the values of whatever map is asked for.
    pub(crate) interfaces: Vec<(Interface, Vec<u8>)>,
    /// What was pushed into queues, in order.
    pub(crate) queued: RefCell<Vec<Vec<u8>>>,
}

impl FakeKernel {
    /// Puts an entry into a map.
    pub(crate) fn put(&self, map: &str, key: &[u8], value: &[u8]) {
        self.maps.borrow_mut().entry(map.into()).or_default().insert(key.into(), value.into());
    }
}

impl Kernel for FakeKernel {
    fn lookup(&self, map: &str, key: &[u8], value: &mut [u8]) -> Result<bool, KernelError> {
        let maps = self.maps.borrow();
        let Some(found) = maps.get(map).and_then(|entries| entries.get(key)) else { return Ok(false) };
        value.copy_from_slice(found);
        Ok(true)
    }

    fn update(&self, map: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError> {
        if key.is_empty() {
            self.queued.borrow_mut().push(value.into());
            return Ok(());
        }
        self.put(map, key, value);
        Ok(())
    }

    fn delete(&self, map: &str, key: &[u8]) -> Result<bool, KernelError> {
        Ok(self.maps.borrow_mut().entry(map.into()).or_default().remove(key).is_some())
    }

    fn for_each(
        &self,
        map: &str,
        remove: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), KernelError> {
        let mut maps = self.maps.borrow_mut();
        let entries = maps.entry(map.into()).or_default();
        for (key, value) in entries.iter() {
            visit(key, value);
        }
        if remove {
            entries.clear();
        }
        Ok(())
    }

    fn per_cpu_sum(&self, map: &str, index: u32) -> Result<u64, KernelError> {
        let found = self.sums.iter().find(|((name, slot), _)| *name == map && *slot == index);
        Ok(found.map_or(0, |(_, sum)| *sum))
    }

    fn per_cpu(&self, map: &str, index: u32, out: &mut Vec<u8>) -> Result<(), KernelError> {
        let maps = self.maps.borrow();
        let values = maps.get(map).and_then(|entries| entries.get(index.to_ne_bytes().as_slice()));
        out.extend_from_slice(values.map_or(&[], |values| values.as_slice()));
        Ok(())
    }

    fn clear_per_cpu(&self, map: &str, index: u32) -> Result<(), KernelError> {
        self.delete(map, &index.to_ne_bytes()).map(drop)
    }

    fn run_iterator(&self, program: &str, out: &mut Vec<u8>) -> Result<(), KernelError> {
        self.runs.borrow_mut().push(program.into());
        let output = self
            .iterators
            .get(program)
            .ok_or_else(|| KernelError { what: program.into(), cause: io::ErrorKind::NotFound.into() })?;
        out.extend_from_slice(output);
        Ok(())
    }

    fn interfaces(
        &mut self,
        _map: &str,
        visit: &mut dyn FnMut(&Interface, &[u8]),
    ) -> Result<(), KernelError> {
        self.interfaces.iter().for_each(|(interface, values)| visit(interface, values));
        Ok(())
    }

    fn drain(&mut self, ring: &str, visit: &mut dyn FnMut(&[u8])) -> Result<(), KernelError> {
        self.rings.remove(ring).unwrap_or_default().iter().for_each(|record| visit(record));
        Ok(())
    }

    fn has_program(&self, program: &str) -> bool {
        self.programs.contains(&program)
    }

    fn monotonic(&self) -> Duration {
        self.now
    }
}
