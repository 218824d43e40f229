//! What a re-read configuration changes, and what of that a running agent can take over.

use super::{
    Config,
    keys::{Apply, Entry},
    layers::Setting,
};

/// The keys whose values differ, by when they take effect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    /// At once.
    pub(crate) live: Vec<String>,
    /// Only after a restart.
    pub(crate) restart: Vec<String>,
}

impl Changes {
    /// Whether a live key of this section (`target`) or this very key (`log.level`) has changed.
    pub(crate) fn touches(&self, path: &str) -> bool {
        self.live
            .iter()
            .any(|key| key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }

    /// Whether nothing has changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

/// The keys whose values differ. Both must come from the same list of probes.
pub(crate) fn changes(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    for ((entry, before), (_, after)) in old.values.iter().zip(&new.values) {
        if before.value != after.value {
            let list = if entry.apply == Apply::Live { &mut changes.live } else { &mut changes.restart };
            list.push(entry.path.clone());
        }
    }
    changes
}

impl Config {
    /// This configuration with the live keys of `new`: what is in effect after a reload.
    pub(crate) fn adopt(&self, new: &Self) -> Self {
        let pick = |(old, new): (&(Entry, Setting), &(Entry, Setting))| match old.0.apply {
            Apply::Live => new.clone(),
            Apply::Restart => old.clone(),
        };
        let values = self.values.iter().zip(&new.values).map(pick).collect();
        Self::assemble(values, self.listen, new.file.clone())
    }
}
