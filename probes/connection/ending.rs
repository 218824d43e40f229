//! How a connection ended, from the state it was in and the error the kernel left on the socket.
//!
//! Kernel: `tcp_reset()` sets ECONNRESET, in `CLOSE_WAIT` EPIPE and in `SYN_SENT`
//! ECONNREFUSED; `tcp_write_err()` sets
//! ETIMEDOUT or what ICMP said; both before the state changes. `close()` with unread data and `SO_LINGER` 0 leave no error.

use super::shared::state;

/// `errno` values, which are part of the user interface (`include/uapi/asm-generic/errno.h`).
mod errno {
    pub(super) const EPIPE: i32 = 32;
    pub(super) const ENETDOWN: i32 = 100;
    pub(super) const ENETUNREACH: i32 = 101;
    pub(super) const ECONNABORTED: i32 = 103;
    pub(super) const ECONNRESET: i32 = 104;
    pub(super) const ETIMEDOUT: i32 = 110;
    pub(super) const ECONNREFUSED: i32 = 111;
    pub(super) const EHOSTDOWN: i32 = 112;
    pub(super) const EHOSTUNREACH: i32 = 113;
}

/// How an established connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Both sides sent their FIN, or ours was acknowledged and the rest is left to the kernel.
    Normal,
    /// A RST came in.
    ResetByPeer,
    /// We sent a RST: data was left unread, or the program asked for it.
    ResetLocally,
    /// The peer stopped answering.
    Timeout,
    /// The end itself was not seen.
    Unknown,
}

impl Closed {
    /// All values, in the order of their counters.
    pub(super) const ALL: [Self; 5] =
        [Self::Normal, Self::ResetByPeer, Self::ResetLocally, Self::Timeout, Self::Unknown];

    /// From the last state and `sk_err`.
    pub(super) fn of(last: u16, error: i32) -> Self {
        match error {
            errno::ECONNRESET | errno::EPIPE => Self::ResetByPeer,
            errno::ECONNABORTED => Self::ResetLocally,
            0 => match last as u8 {
                // Before our FIN is acknowledged, only a reset of ours ends a connection without an error.
                state::ESTABLISHED | state::CLOSE_WAIT | state::FIN_WAIT1 => Self::ResetLocally,
                _ => Self::Normal,
            },
            // ETIMEDOUT, or what ICMP had said when the kernel gave up sending again.
            _ => Self::Timeout,
        }
    }

    /// The value of the label `reason`.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ResetByPeer => "reset_by_peer",
            Self::ResetLocally => "reset_locally",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// A RST answered our SYN.
    Refused,
    /// Nobody answered.
    Timeout,
    /// The network said that it cannot get there.
    Unreachable,
    /// The program gave up first.
    Cancelled,
    /// No SYN ever left: no port or no route.
    NotSent,
    /// Something else, such as a firewall's administrative prohibition.
    Other,
}

impl Failed {
    /// All values, in the order of their counters.
    pub(super) const ALL: [Self; 6] =
        [Self::Refused, Self::Timeout, Self::Unreachable, Self::Cancelled, Self::NotSent, Self::Other];

    /// From `sk_err` and the number of segments sent.
    pub(super) fn of(error: i32, sent: u32) -> Self {
        match error {
            errno::ECONNREFUSED => Self::Refused,
            errno::ETIMEDOUT => Self::Timeout,
            errno::EHOSTUNREACH | errno::ENETUNREACH | errno::EHOSTDOWN | errno::ENETDOWN => {
                Self::Unreachable
            }
            0 | errno::ECONNRESET | errno::ECONNABORTED if sent == 0 => Self::NotSent,
            0 | errno::ECONNRESET | errno::ECONNABORTED => Self::Cancelled,
            _ => Self::Other,
        }
    }

    /// The value of the label `reason`.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Cancelled => "cancelled",
            Self::NotSent => "not_sent",
            Self::Other => "other",
        }
    }
}
