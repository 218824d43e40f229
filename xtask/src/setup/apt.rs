//! Debian's and Ubuntu's package manager, used as carefully as on somebody else's server: nothing is removed, nothing
//! recommended comes along, and no service starts.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Once,
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{find_program, output, privileged, run, show, step};

/// Asked by Debian's packages whether they may start their service; exit code 101 says no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Whether this machine has apt.
pub(crate) fn available() -> bool {
    find_program("apt-get").is_some()
}

/// Whether a package is installed.
pub(crate) fn installed(package: &str) -> bool {
    let status = output(Command::new("dpkg-query").args(["-W", "-f=${Status}", package]));
    status.is_ok_and(|status| status.ends_with(" installed"))
}

/// Whether apt can install at least this version, as (major, minor).
pub(crate) fn offers(package: &str, at_least: (u32, u32)) -> Result<bool> {
    update()?;
    let Some(version) = candidate(package) else { return Ok(false) };
    let upstream = version.rsplit(':').next().unwrap_or(&version);
    let mut numbers = upstream.split(['.', '+', '-', '~']).map_while(|number| number.parse::<u32>().ok());
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= at_least)
}

/// The version apt would install.
fn candidate(package: &str) -> Option<String> {
    let policy = output(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package])).ok()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Fetches the package lists, once. A source that cannot be reached need not matter: a package that is then not found
/// will say so.
fn update() -> Result<()> {
    static ONCE: Once = Once::new();
    if ONCE.is_completed() {
        return Ok(());
    }
    let mut apt = privileged("apt-get", "fetching package lists")?;
    apt.args(["update", "-qq"]).stdout(Stdio::null());
    ONCE.call_once(|| {
        step(&show(&apt));
        if let Err(error) = run(&mut apt) {
            eprintln!("  going on with the package lists there are: {error:#}");
        }
    });
    Ok(())
}

/// Installs the first available package of each set.
pub(crate) fn install(sets: &[&[&str]], why: &str) -> Result<()> {
    update()?;
    let mut packages = Vec::new();
    for set in sets {
        match set.iter().find(|package| candidate(package).is_some()) {
            Some(package) => packages.push(*package),
            None => bail!(
                "apt knows no package {} (needed {why}): check the machine's apt sources",
                set.join(" or ")
            ),
        }
    }
    let mut apt = privileged("apt-get", &format!("installing {}", packages.join(" ")))?;
    apt.args(["install", "-y", "-qq", "--no-install-recommends", "--no-remove"]).args(&packages);
    apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
    step(&format!("{}   ({why})", show(&apt)));

    let _guard = NoServices::new()?;
    run(&mut apt)?;
    for package in packages.iter().filter(|package| ["nginx-light", "nginx", "prometheus"].contains(package))
    {
        keep_stopped(package);
    }
    Ok(())
}

/// A service that tests start themselves must not start with the machine either.
fn keep_stopped(package: &str) {
    let service = package.trim_end_matches("-light");
    let disable = privileged("systemctl", "")
        .map(|mut systemctl| systemctl.args(["--quiet", "disable", service]).stderr(Stdio::null()).status());
    match disable {
        Ok(Ok(status)) if status.success() => {
            println!("  the {service} service is installed but neither started nor enabled");
        }
        _ => println!(
            "  the {service} service was not started; this machine has no systemd to disable it with"
        ),
    }
}

/// While it lives, installing a package starts no service.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        // Somebody else's policy, such as a container image's, is good enough and not ours to change.
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let script = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
        run(privileged("sh", "keeping services from starting")?.args(["-c", &script]))
            .context("cannot keep new services from starting")?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        let removed = privileged("rm", "").and_then(|mut rm| run(rm.args(["-f", POLICY])));
        if let Err(error) = removed {
            eprintln!(
                "cannot remove {POLICY}, which keeps services from starting; remove it by hand: {error:#}"
            );
        }
    }
}
