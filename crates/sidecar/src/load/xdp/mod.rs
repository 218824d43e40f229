//! Following network interfaces: a copy of a probe's object for each one that its patterns mean, in the agent's own network
//! namespace, for those that appear, vanish or change their names while the agent runs.
//!
//! A copy for each, because then a frame need not look up where it came from, and counts cannot be mixed up when the
//! kernel gives an interface's number to another.

mod copy;
mod occupant;
mod pattern;
mod report;

use std::{
    collections::BTreeMap,
    ffi::CStr,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use copy::Copy;
use occupant::Occupant;
pub(crate) use report::News;
use sidecar_core::{Hook, Interface, Probe, Step, Via, XdpMode, probe::Interfaces};

use super::{
    explain,
    sys::{self, xdp::linked_interface},
};

/// Interfaces followed at a time: what their counters may take stays bounded.
const MAX_FOLLOWED: usize = 256;
/// An interface that refused is tried again after this time, then after twice as long, and so on,
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// up to this.
const LAST_RETRY: Duration = Duration::from_mins(10);

/// One interface a copy is attached to.
struct Attached {
    interface: Interface,
    step: Step,
    refused: Vec<(Step, String)>,
    copy: Copy,
    link: OwnedFd,
}

/// One interface that is meant and has no copy.
struct Refusal {
    name: String,
    refused: Vec<(Step, String)>,
    occupant: Option<Occupant>,
    again: Instant,
    pause: Duration,
}

/// Run statistics of the copies of one program that are gone.
type Retired = BTreeMap<&'static str, sys::RunStats>;

/// All interfaces a probe follows.
pub(super) struct Follower {
    probe: &'static str,
    hook: &'static Hook,
    bytes: &'static [u8],
    wanted: Interfaces,
    steps: Vec<Step>,
    attached: BTreeMap<u32, Attached>,
    refusals: BTreeMap<u32, Refusal>,
    /// Gone since the counters were last read, with their last values.
    gone: Vec<Attached>,
    /// Programs this kernel does not load, and why.
    unloadable: Vec<(&'static str, String)>,
    retired: Retired,
    attachments: u64,
    changed: bool,
}

/// Whether a hook is served by this module.
pub(super) fn follows(hook: &Hook) -> bool {
    hook.steps.iter().any(|step| matches!(step.via, Via::Xdp(_)))
}

impl Follower {
    /// Finds out which programs this kernel loads and attaches to the interfaces there are.
    pub(super) fn new(
        probe: &'static Probe,
        hook: &'static Hook,
        bytes: &'static [u8],
        wanted: Interfaces,
    ) -> Self {
        raise_locked_memory();
        let is_wanted =
            |step: &&Step| matches!(step.via, Via::Xdp(mode) if wanted.mode.is_none_or(|only| only == mode));
        let steps: Vec<Step> = hook.steps.iter().filter(is_wanted).copied().collect();
        let mut unloadable: Vec<(&'static str, String)> = Vec::new();
        for step in &steps {
            if unloadable.iter().all(|(program, _)| *program != step.program)
                && let Err(error) = Copy::load(bytes, step.program)
            {
                unloadable.push((step.program, explain::step(*step, &error)));
            }
        }
        let mut follower = Self {
            probe: probe.name,
            hook,
            bytes,
            wanted,
            steps,
            attached: BTreeMap::new(),
            refusals: BTreeMap::new(),
            gone: Vec::new(),
            unloadable,
            retired: Retired::new(),
            attachments: 0,
            changed: true,
        };
        if let Err(error) = follower.refresh() {
            tracing::warn!(probe = probe.name, "cannot list the network interfaces: {error}");
        }
        follower
    }

    /// Attaches to what has appeared and lets go of what has vanished.
    fn refresh(&mut self) -> io::Result<()> {
        let there = interfaces()?;
        let attached: Vec<u32> = self.attached.keys().copied().collect();
        for index in attached {
            self.look_after(index, there.get(&index));
        }
        let before = self.refusals.len();
        let wanted = &self.wanted.patterns;
        self.refusals.retain(|index, refusal| {
            there.get(index).is_some_and(|name| *name == refusal.name && pattern::means(wanted, name))
        });
        self.changed |= self.refusals.len() != before;
        if self.hopeless().is_some() {
            return Ok(());
        }
        for (index, name) in there {
            if !self.attached.contains_key(&index) && pattern::means(&self.wanted.patterns, &name) {
                self.approach(index, &name);
            }
        }
        Ok(())
    }

    /// Keeps an attached interface, under its new name if it has one, or lets it go.
    fn look_after(&mut self, index: u32, name: Option<&String>) {
        let Some(attached) = self.attached.get_mut(&index) else { return };
        // An interface that was moved to another network namespace keeps its link, but is no longer ours to see.
        let is_linked = linked_interface(attached.link.as_fd()).is_ok_and(|linked| linked == index);
        match name.filter(|name| is_linked && pattern::means(&self.wanted.patterns, name)) {
            Some(name) if *name == attached.interface.name => {}
            Some(name) => {
                tracing::info!(probe = self.probe, "{} is called {name} now", attached.interface.name);
                attached.interface.name.clone_from(name);
                self.changed = true;
            }
            None => {
                if let Some(mut attached) = self.attached.remove(&index) {
                    tracing::info!(probe = self.probe, "{} has gone", attached.interface.name);
                    attached.interface.gone = true;
                    self.gone.push(attached);
                    self.changed = true;
                }
            }
        }
    }

    /// Tries to attach to an interface that is meant.
    fn approach(&mut self, index: u32, name: &str) {
        let known = self.refusals.get(&index);
        if known.is_some_and(|refusal| refusal.again > Instant::now()) {
            return;
        }
        let pause = known.map_or(FIRST_RETRY, |refusal| (refusal.pause * 2).min(LAST_RETRY));
        let refusal = |refused, occupant: Option<Occupant>| Refusal {
            name: name.to_owned(),
            refused,
            again: Instant::now() + if occupant.is_some() { FIRST_RETRY } else { pause },
            occupant,
            pause,
        };
        if self.attached.len() >= MAX_FOLLOWED {
            let first = self
                .steps
                .first()
                .map(|step| (*step, format!("{MAX_FOLLOWED} interfaces are followed already")));
            let refused = refusal(first.into_iter().collect(), None);
            self.refuse(index, refused);
            return;
        }
        if let Ok(Some(occupant)) = occupant::of(index) {
            let refused = refusal(self.occupied(&occupant), Some(occupant));
            self.refuse(index, refused);
            return;
        }
        match self.attach(index, name) {
            Ok(attached) => {
                tracing::info!(probe = self.probe, "follows {name} ({})", attached.step.via);
                self.attachments += 1;
                self.refusals.remove(&index);
                self.attached.insert(index, attached);
                self.changed = true;
            }
            Err(refused) => {
                // Somebody may have been faster than we.
                let occupant = occupant::of(index).ok().flatten();
                let refused = occupant.as_ref().map_or(refused, |occupant| self.occupied(occupant));
                let refused = refusal(refused, occupant);
                self.refuse(index, refused);
            }
        }
    }

    fn occupied(&self, occupant: &Occupant) -> Vec<(Step, String)> {
        let reason = format!("another XDP program is attached: {occupant}");
        self.steps.first().map(|step| (*step, reason)).into_iter().collect()
    }

    fn refuse(&mut self, index: u32, refusal: Refusal) {
        let told = self.refusals.get(&index).is_some_and(|before| before.refused == refusal.refused);
        if !told {
            let reasons: Vec<&str> = refusal.refused.iter().map(|(_, reason)| reason.as_str()).collect();
            tracing::warn!(probe = self.probe, "does not count at {}: {}", refusal.name, reasons.join("; "));
            self.changed = true;
        }
        self.refusals.insert(index, refusal);
    }

    /// The ladder of one interface.
    fn attach(&self, index: u32, name: &str) -> Result<Attached, Vec<(Step, String)>> {
        let mut refused = Vec::new();
        for step in &self.steps {
            let Via::Xdp(mode) = step.via else { continue };
            if let Some((_, reason)) = self.unloadable.iter().find(|(program, _)| *program == step.program) {
                refused.push((*step, reason.clone()));
                continue;
            }
            let tried = Copy::load(self.bytes, step.program)
                .and_then(|copy| copy.attach(index, mode).map(|link| (copy, link)).map_err(Into::into));
            match tried {
                Ok((copy, link)) => {
                    let attachment = self.attachments + 1;
                    let interface = Interface { name: name.to_owned(), attachment, mode, gone: false };
                    return Ok(Attached { interface, step: *step, refused, copy, link });
                }
                Err(error) => refused.push((*step, attach_reason(*step, mode, &error))),
            }
        }
        Err(refused)
    }

    /// Brings everything up to date and visits the counters of each interface, of those that are gone for the last time.
    pub(super) fn visit(
        &mut self,
        map: &str,
        cpus: usize,
        visit: &mut dyn FnMut(&Interface, &[u8]),
    ) -> io::Result<()> {
        self.refresh()?;
        for attached in self.attached.values() {
            visit(&attached.interface, &attached.copy.read(map, cpus)?);
        }
        for attached in &self.gone {
            visit(&attached.interface, &attached.copy.read(map, cpus)?);
            let stats = sys::run_stats(attached.copy.program.as_fd());
            let before = self.retired.entry(attached.step.program).or_default();
            *before = before.plus(stats.unwrap_or_default());
        }
        // Only now are they let go of.
        self.gone.clear();
        Ok(())
    }

    /// What the kernel counts about each program, over all its copies and those that are gone.
    pub(super) fn run_stats(&self) -> Vec<(&'static str, sys::RunStats)> {
        let mut sums = self.retired.clone();
        for attached in self.attached.values().chain(&self.gone) {
            let stats = sys::run_stats(attached.copy.program.as_fd()).unwrap_or_default();
            let before = sums.entry(attached.step.program).or_default();
            *before = before.plus(stats);
        }
        sums.into_iter().collect()
    }

    /// Descriptors of the copies' maps.
    pub(super) fn map_fds(&self) -> impl Iterator<Item = i32> + '_ {
        self.attached.values().flat_map(|attached| attached.copy.map_fds())
    }
}

/// Why a step failed on one interface.
fn attach_reason(step: Step, mode: XdpMode, error: &anyhow::Error) -> String {
    let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    match (errno, mode) {
        (Some(libc::EOPNOTSUPP), XdpMode::Native) => {
            "its driver has no XDP, or not with its present settings".to_owned()
        }
        (Some(libc::EBUSY | libc::EEXIST), _) => "another XDP program is attached".to_owned(),
        (Some(libc::ENODEV), _) => "it has gone".to_owned(),
        (Some(libc::EINVAL | libc::ERANGE | libc::E2BIG), XdpMode::Native) => {
            format!("its driver refuses: its MTU may be too large for XDP ({error})")
        }
        _ => explain::step(step, error),
    }
}

/// Index and name of each interface of our network namespace.
fn interfaces() -> io::Result<BTreeMap<u32, String>> {
    // SAFETY: returns an array that ends with a zero index, or null.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut found = BTreeMap::new();
    let mut at = list;
    // SAFETY: within the array, whose last entry is zero; names are C strings.
    unsafe {
        while (*at).if_index != 0 && !(*at).if_name.is_null() {
            let name = CStr::from_ptr((*at).if_name).to_string_lossy().into_owned();
            found.insert((*at).if_index, name);
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    Ok(found)
}

/// Kernels before 5.11 count maps and programs as locked memory. What cannot be raised shows when something is refused.
fn raise_locked_memory() {
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid struct.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) };
}
