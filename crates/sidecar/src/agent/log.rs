//! Log lines to standard error, as text or JSON, with a level that can change while running.

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

use crate::config::{Log, LogFormat};

/// The handle by which the level changes.
pub(crate) struct Logging(reload::Handle<LevelFilter, Registry>);

impl Logging {
    /// Begins to log.
    pub(crate) fn start(log: &Log) -> Self {
        let (filter, handle) = reload::Layer::new(level(&log.level));
        let layer = fmt::layer().with_writer(stderr).with_target(false);
        let registry = tracing_subscriber::registry().with(filter);
        match log.format {
            LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
            LogFormat::Text => registry.with(layer.with_ansi(stderr().is_terminal())).init(),
        }
        Self(handle)
    }

    /// Changes the level.
    pub(crate) fn set_level(&self, name: &str) {
        if let Err(error) = self.0.reload(level(name)) {
            tracing::warn!("the log level stays as it was: {error}");
        }
    }
}

/// The names the configuration accepts are those of `tracing`.
fn level(name: &str) -> LevelFilter {
    name.parse().unwrap_or(LevelFilter::INFO)
}
