//! Where rows go. An exporter sees snapshots and nothing else; timing, retries and shutdown belong to its driver.

use crate::Snapshot;

/// Why a snapshot could not be handed over.
#[derive(Debug, thiserror::Error)]
#[error("exporter {exporter}: {message}")]
pub struct ExportError {
    /// The exporter's folder name.
    pub exporter: &'static str,
    /// What went wrong and what to do.
    pub message: String,
    /// Whether the same snapshot may be tried again.
    pub retry: bool,
}

/// Sends or renders snapshots.
pub trait Exporter: Send {
    /// The exporter's folder name.
    fn name(&self) -> &'static str;
    /// Hands over one snapshot.
    fn export(&mut self, snapshot: &Snapshot) -> Result<(), ExportError>;
}
