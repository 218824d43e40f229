//! A probe as data: what it answers, what it attaches to, and how its maps become rows.

use std::{borrow::Cow, sync::Arc};

use sidecar_common::field::FieldSpec;

use crate::{EventSpec, Events, Kernel, KernelError, Metric, OptionSpec, Options, Rows, View};

/// How a program reaches its hook. The loader tries a hook's steps in order and keeps the reason of each refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// BTF-typed raw tracepoint (`tp_btf`), by tracepoint name.
    TpBtf(&'static str),
    /// Raw tracepoint, by name.
    RawTp(&'static str),
    /// Trampoline at the entry of a kernel function.
    Fentry(&'static str),
    /// Trampoline at the exit of a kernel function.
    Fexit(&'static str),
    /// Breakpoint at the entry of a kernel function.
    Kprobe(&'static str),
    /// Breakpoint at the exit of a kernel function.
    Kretprobe(&'static str),
    /// Perf tracepoint `category/name`.
    Tracepoint(&'static str, &'static str),
    /// Iterator over kernel objects of this kind (`task_file`, `tcp`), run when the agent asks.
    Iterator(&'static str),
    /// The same for kernel objects that live in network namespaces (`tcp`): run once in each of them.
    NetIterator(&'static str),
    /// Iterator over the elements of this map of the object.
    MapIterator(&'static str),
    /// Frames received by each interface of [`Plan::interfaces`]: a copy of the object for each of them.
    Xdp(XdpMode),
}

/// Where in a frame's way an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before the kernel makes a packet of the frame.
    Native,
    /// In the network stack, where the driver has no XDP.
    Generic,
}

impl XdpMode {
    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl Via {
    /// The attach type's usual name.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::TpBtf(_) => "tp_btf",
            Self::RawTp(_) => "raw_tp",
            Self::Fentry(_) => "fentry",
            Self::Fexit(_) => "fexit",
            Self::Kprobe(_) => "kprobe",
            Self::Kretprobe(_) => "kretprobe",
            Self::Tracepoint(..) => "tracepoint",
            Self::Iterator(_) | Self::NetIterator(_) | Self::MapIterator(_) => "iter",
            Self::Xdp(_) => "xdp",
        }
    }

    /// Capabilities the agent keeps for it: what it attaches to may appear at any time.
    pub const fn keeps(self) -> &'static [&'static str] {
        match self {
            Self::Xdp(_) => &["CAP_NET_ADMIN", "CAP_PERFMON"],
            _ => &[],
        }
    }

    /// The tracepoint, function, object kind or mode.
    pub const fn target(self) -> &'static str {
        match self {
            Self::TpBtf(name)
            | Self::RawTp(name)
            | Self::Fentry(name)
            | Self::Fexit(name)
            | Self::Kprobe(name)
            | Self::Kretprobe(name)
            | Self::Tracepoint(_, name)
            | Self::Iterator(name)
            | Self::NetIterator(name)
            | Self::MapIterator(name) => name,
            Self::Xdp(mode) => mode.as_str(),
        }
    }
}

impl std::fmt::Display for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind(), self.target())
    }
}

/// One way to serve a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Program in the object.
    pub program: &'static str,
    /// Where it attaches.
    pub via: Via,
    /// What is less exact when this step is used; empty when it is as good as the first.
    pub degrades: &'static str,
}

/// One place the probe listens at, with the ways to get there, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// What it is for, in a few words.
    pub name: &'static str,
    /// Without a required hook the probe is unsupported; without another it is degraded.
    pub required: bool,
    /// What is missing if no step works.
    pub missing: &'static str,
    /// The ladder.
    pub steps: &'static [Step],
}

/// What happened to one step of a hook's ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookReport {
    /// The hook's name; the interface's where each has a ladder of its own.
    pub hook: Cow<'static, str>,
    /// The step that is attached, if any.
    pub used: Option<Step>,
    /// The steps that were refused, with the reason in plain words.
    pub refused: Vec<(Step, String)>,
}

/// How a probe is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeState {
    /// All of its hooks are attached.
    Active,
    /// It works, but something is less exact or missing.
    Degraded,
    /// This kernel cannot run it.
    Unsupported,
    /// It should have worked and did not.
    Failed,
    /// Switched off.
    Off,
}

impl ProbeState {
    /// Every state, for metrics that show one row each.
    pub const ALL: [Self; 5] = [Self::Active, Self::Degraded, Self::Unsupported, Self::Failed, Self::Off];

    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
            Self::Off => "off",
        }
    }
}

/// A probe's state with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The probe's name.
    pub probe: &'static str,
    /// How it is doing.
    pub state: ProbeState,
    /// Why it is not active, in plain words; empty when it is.
    pub reason: String,
    /// What the user can do about it; empty when there is nothing to do.
    pub advice: String,
    /// Each hook's ladder.
    pub hooks: Vec<HookReport>,
}

/// Names for the numbers the kernel speaks in.
pub trait Names: Send + Sync {
    /// The path of a cgroup v2 by its id, as in `/proc/PID/cgroup`; the number itself if it has no path any more.
    fn cgroup(&self, id: u64) -> String;
}

/// What a probe is started with.
#[derive(Clone)]
pub struct Start {
    /// Names for cgroups.
    pub names: Arc<dyn Names>,
    /// The probe's own keys.
    pub options: Options,
    /// `metrics.labels`.
    pub labels: Vec<String>,
    /// `metrics.max_series`.
    pub max_series: usize,
    /// `metrics.max_connections`.
    pub max_connections: u32,
    /// Whether the user's filter is on; untracked things are then none of our business.
    pub filtered: bool,
    /// Bytes of the ring buffer for events, a power of two and of whole pages.
    pub event_bytes: u32,
}

/// A read-only global the object is loaded with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    /// Symbol in the object.
    pub symbol: &'static str,
    /// Its bytes; the length must equal the symbol's.
    pub bytes: Vec<u8>,
}

/// Facts about the running kernel a probe may shape its constants by.
pub trait KernelFacts {
    /// Number of parameters of a kernel function or of a tracepoint (`btf_trace_<name>`, its first one left out).
    fn parameters(&self, function: &str) -> Option<u32>;
    /// Whether the kernel has this `struct.member`.
    fn has_member(&self, path: &str) -> bool;
    /// Whether other tasks may run in the middle of a program at a tracepoint (`tp_btf`, `raw_tp`). What they bring about
    /// meanwhile is left out on that CPU, so on such kernels perf tracepoints are the ones that count everything.
    fn tracepoints_let_tasks_in(&self) -> bool {
        // Came with `DEFINE_SRCU_FAST`, by which programs are called since 7.0.
        self.parameters("init_srcu_struct_fast").is_some()
    }
}

/// What the loader changes in an object before it loads it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// `max_entries` of maps, sized from the configuration.
    pub map_sizes: Vec<(&'static str, u32)>,
    /// Constants besides the field table.
    pub constants: Vec<Constant>,
    /// Names of the hooks this configuration has no use for: they are left alone and not missed.
    pub without: Vec<&'static str>,
    /// For [`Via::Xdp`].
    pub interfaces: Interfaces,
}

/// The interfaces a probe counts at, those that appear later included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Names with `*` and `?`; what a pattern after `-` matches is left out.
    pub patterns: Vec<String>,
    /// Only this way of attaching, if one was asked for.
    pub mode: Option<XdpMode>,
}

/// Why a tick brought no rows.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A map or iterator could not be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel side handed over bytes that make no sense.
    #[error("{0}")]
    Malformed(String),
}

/// Turns a probe's maps into rows. Synchronous, no I/O but through [`Kernel`].
pub trait Collector: Send {
    /// Called once, after all hooks are attached: take stock of what was there before the agent.
    fn attached(&mut self, kernel: &mut dyn Kernel) -> Result<(), CollectError>;
    /// Called when the user's filter has changed.
    fn rescoped(&mut self, kernel: &mut dyn Kernel, filtered: bool) -> Result<(), CollectError>;
    /// Called when a ring buffer has much to read; must be cheap.
    fn drain(&mut self, kernel: &mut dyn Kernel) -> Result<(), CollectError>;
    /// Entries in use of the maps that can fill up, by map name, as of the last tick.
    fn fill(&self) -> Vec<(&'static str, u64)>;
    /// Called every tick.
    fn collect(&mut self, kernel: &mut dyn Kernel, rows: &mut Rows) -> Result<(), CollectError>;
    /// Called when somebody begins or ceases to listen: bit `n` of `wanted` is for the `n`-th of the probe's event types.
    /// The kernel side's switch is set already. Only for collectors that make events themselves.
    fn listening(&mut self, _wanted: u32) {}
    /// Called about ten times a second while somebody listens, and when the ring of events is half full: hands over
    /// everything that has happened since.
    fn events(&mut self, _kernel: &mut dyn Kernel, _out: &mut Events<'_>) -> Result<(), CollectError> {
        Ok(())
    }
}

/// Something `sidecar count` counts.
#[derive(Debug, Clone, Copy)]
pub struct CountSpec {
    /// What is counted, in the plural: the command's argument.
    pub noun: &'static str,
    /// The counter of all of them.
    pub all: &'static Metric,
    /// The counter of those that failed, if there is one with the same labels.
    pub errors: Option<&'static Metric>,
    /// How long they took; shown where it has the label that is grouped by and any rows.
    pub seconds: Option<&'static Metric>,
    /// The label to group by unless told otherwise. A metric with `comm` can be grouped by `pid` and `cgroup` as well.
    pub by: &'static str,
}

impl CountSpec {
    /// The labels it can be grouped by.
    pub fn groups(&self) -> Vec<&'static str> {
        let processes: &[&str] = if self.all.labels.contains(&"comm") { &["pid", "cgroup"] } else { &[] };
        self.all.labels.iter().chain(processes).copied().collect()
    }
}

/// One probe.
pub struct Probe {
    /// Folder, object, config key, metric prefix, dashboard id.
    pub name: &'static str,
    /// The question it answers, one sentence without a full stop at its end.
    pub summary: &'static str,
    /// Whether it runs unless switched off.
    pub enabled: bool,
    /// What it measures.
    pub metrics: &'static [&'static Metric],
    /// What of it `sidecar count` can count.
    pub counts: &'static [CountSpec],
    /// What of it `sidecar top` shows.
    pub view: View,
    /// What it can tell of as it happens; at most [`MAX_KINDS`](sidecar_common::event::MAX_KINDS).
    pub events: &'static [&'static EventSpec],
    /// Its own configuration keys, besides `enabled`.
    pub options: &'static [OptionSpec],
    /// Where it attaches, in this order.
    pub hooks: &'static [Hook],
    /// Kernel members it reads; written into the object's `FIELDS` global.
    pub fields: &'static [FieldSpec],
    /// Capabilities it needs while attaching.
    pub capabilities: &'static [&'static str],
    /// What it costs, measured; see `bench/`.
    pub cost: &'static str,
    /// Ring buffer maps whose filling up should wake the agent.
    pub rings: &'static [&'static str],
    /// Sizes and constants for this kernel and configuration.
    pub plan: fn(&Start, &dyn KernelFacts) -> Plan,
    /// Its collector.
    pub start: fn(&Start) -> Box<dyn Collector>,
}
