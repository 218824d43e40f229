//! The types every part agrees on. No I/O, no aya, no tokio: whatever depends on this crate can be tested without a
//! kernel.
//!
//! Data flows one way: `kernel.rs → map → collect.rs → Rows → Snapshot → exporters`, and for streams
//! `kernel.rs → ring buffer → Event → subscribers`.

pub mod event;
pub mod exporter;
pub mod kernel;
pub mod labels;
pub mod metric;
pub mod option;
pub mod probe;
pub mod snapshot;
pub mod view;

pub use event::{Event, EventField, EventSpec, EventValue, Events, FieldKind, Listener};
pub use exporter::{ExportError, Exporter};
pub use kernel::{Interface, Kernel, KernelError};
pub use labels::Labels;
pub use metric::{Kind, Metric, Unit};
pub use option::{OptionKind, OptionSpec, OptionValue, Options};
pub use probe::{
    CollectError, Collector, CountSpec, Hook, HookReport, Probe, ProbeReport, ProbeState, Start, Step, Via,
    XdpMode,
};
pub use snapshot::{Family, HistogramValue, Row, Rows, Snapshot, Value};
pub use view::{Column, Rate, View};
