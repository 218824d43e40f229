//! The exit codes, in one place, because scripts and service managers decide by them what to do next.

use std::process::ExitCode;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Everything asked for was done.
    Ok = 0,
    /// A failure while running, or `doctor` found an enabled probe that is not active.
    Failure = 1,
    /// A wrong command line or configuration (clap ends with the same code).
    Usage = 2,
    /// A capability is missing.
    Privilege = 3,
    /// This kernel can run none of the enabled probes.
    Kernel = 4,
    /// The address to listen on is taken.
    AddressInUse = 5,
}

impl Exit {
    /// Every code, in order.
    pub(crate) const ALL: [Self; 6] =
        [Self::Ok, Self::Failure, Self::Usage, Self::Privilege, Self::Kernel, Self::AddressInUse];

    /// What it means, for `--help` and the reference.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failure => "failed while running; doctor: an enabled probe is not active",
            Self::Usage => "wrong command line or configuration",
            Self::Privilege => "a capability is missing",
            Self::Kernel => "this kernel can run none of the enabled probes",
            Self::AddressInUse => "the address to listen on is taken",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listed_codes_are_the_documented_numbers() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| *exit as u8).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5]);
    }
}
