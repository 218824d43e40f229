//! Giving up what is no longer needed. Attaching takes many capabilities, reading the maps takes one.

use caps::{CapSet, Capability, CapsHashSet};

/// Needed by bpf(2) on maps where unprivileged BPF is switched off, which is everywhere.
const KEPT: [Capability; 1] = [Capability::CAP_BPF];

/// What the agent may do before it begins.
pub(crate) fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// What is missing for any probe at all, as one line with the next step.
pub(crate) fn missing() -> Option<String> {
    // Before 5.8 there is neither of the two; CAP_SYS_ADMIN stands for both on every kernel.
    if has(Capability::CAP_SYS_ADMIN) {
        return None;
    }
    let needed = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    let missing: Vec<String> = needed
        .into_iter()
        .filter(|capability| !has(*capability))
        .map(|missing| missing.to_string())
        .collect();
    (!missing.is_empty()).then(|| {
        let binary = std::env::current_exe().map_or("sidecar".to_owned(), |path| path.display().to_string());
        format!(
            "missing {}: run as root, or once: setcap cap_bpf,cap_perfmon+ep {binary}",
            missing.join(" and ")
        )
    })
}

/// Drops every capability but those kept and `also`, and the way to get new ones. To be called while there is one thread:
/// capabilities belong to threads, later ones inherit.
pub(crate) fn drop_all(also: &[&str]) -> Result<Vec<String>, String> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(|error| error.to_string())?;
    let also = also.iter().filter_map(|name| name.parse::<Capability>().ok());
    let mut kept: CapsHashSet =
        KEPT.into_iter().chain(also).filter(|capability| permitted.contains(capability)).collect();
    // Before 5.8 there is no CAP_BPF; its work is CAP_SYS_ADMIN's.
    if !kept.contains(&Capability::CAP_BPF) && permitted.contains(&Capability::CAP_SYS_ADMIN) {
        kept.insert(Capability::CAP_SYS_ADMIN);
    }
    let set = |set: CapSet, caps: &CapsHashSet| caps::set(None, set, caps).map_err(|error| error.to_string());
    set(CapSet::Inheritable, &CapsHashSet::new())?;
    set(CapSet::Effective, &kept)?;
    set(CapSet::Permitted, &kept)?;
    // SAFETY: no pointers involved.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    Ok(kept.iter().map(ToString::to_string).collect())
}
