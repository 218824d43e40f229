//! Names for the numbers of calls and errors. The tables are those of the `syscalls` crate, which is made from the
//! kernel's own; what is newer than it shows as a number.

use std::borrow::Cow;

use syscalls::{Errno, aarch64, arm, x86, x86_64};

use super::shared::Key;

/// Bit of an x86 call's number that says x32 (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;
/// First of the numbers only x32 has.
const X32_OWN: usize = 512;
/// Their names, `arch/x86/entry/syscalls/syscall_64.tbl`. Closed: nothing is added to it any more.
const X32_NAMES: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// The architecture the numbers are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arch {
    X86,
    Arm,
}

/// The one this runs on.
pub(super) const HERE: Arch = if cfg!(target_arch = "aarch64") { Arch::Arm } else { Arch::X86 };

/// The call a key counts, as one number: the same for what shows as the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) compat: bool,
}

/// `rt_sigreturn`, which has lost its number by its end: the registers are already those of before the signal.
const NO_NUMBER: u32 = u32::MAX;
/// What a call with an impossible number fails with.
const ENOSYS: u32 = 38;
/// Stands for the number -1 where a program has really asked for it.
const MINUS_ONE: u32 = u32::MAX - 1;

impl Call {
    /// The call and its error. What `rt_sigreturn` "returns" is the register of before the signal, not an error.
    pub(super) fn of(key: &Key) -> (Self, u32) {
        let call = |number| Self { number, compat: key.compat };
        match (key.number, key.errno) {
            (NO_NUMBER, ENOSYS) => (call(MINUS_ONE), ENOSYS),
            (NO_NUMBER, _) => (call(NO_NUMBER), 0),
            (number, errno) => (call(number), errno),
        }
    }

    /// Its name, with `compat:` or `x32:` before it unless it is the machine's own; the number where there is no name.
    pub(super) fn name(self, arch: Arch) -> Cow<'static, str> {
        let prefix = match self.is_x32(arch) {
            true => "x32:",
            false if self.compat => "compat:",
            false => "",
        };
        match self.known(arch) {
            Some(name) if prefix.is_empty() => Cow::Borrowed(name),
            Some(name) => Cow::Owned(format!("{prefix}{name}")),
            // As the program wrote it: negative numbers are negative.
            None => Cow::Owned(format!("{prefix}{}", self.plain(arch).cast_signed())),
        }
    }

    /// Whether it has a name.
    pub(super) fn is_known(self, arch: Arch) -> bool {
        self.known(arch).is_some()
    }

    fn is_x32(self, arch: Arch) -> bool {
        arch == Arch::X86 && !self.compat && self.number >> 30 == X32 >> 30
    }

    /// The number in its table.
    fn plain(self, arch: Arch) -> u32 {
        if self.is_x32(arch) { self.number & !X32 } else { self.number }
    }

    fn known(self, arch: Arch) -> Option<&'static str> {
        let number = self.plain(arch) as usize;
        match (arch, self.compat) {
            _ if self.number == MINUS_ONE => Some("-1"),
            // A 32-bit program may have called `rt_sigreturn` as well: nothing tells them apart any more.
            (_, compat) if self.number == NO_NUMBER => {
                Some(if compat { "sigreturn" } else { "rt_sigreturn" })
            }
            _ if self.is_x32(arch) && number >= X32_OWN => X32_NAMES.get(number - X32_OWN).copied(),
            (Arch::X86, false) => x86_64::Sysno::new(number).map(|call| call.name()),
            (Arch::X86, true) => x86::Sysno::new(number).map(|call| call.name()),
            (Arch::Arm, false) => aarch64::Sysno::new(number).map(|call| call.name()),
            (Arch::Arm, true) => arm::Sysno::new(number).map(|call| call.name()),
        }
    }
}

/// An error's name; the number where there is none.
pub(super) fn errno(number: u32) -> Cow<'static, str> {
    let name = i32::try_from(number).ok().and_then(|number| Errno::new(number).name());
    name.map_or_else(|| Cow::Owned(number.to_string()), Cow::Borrowed)
}

/// Numbers of fork, vfork, clone and clone3, of the machine's own calls and of the 32-bit ones. aarch64 has two of them.
pub(super) fn forks() -> ([u32; 4], [u32; 4]) {
    let own = match HERE {
        Arch::X86 => [57, 58, 56, 435],
        Arch::Arm => [220, 220, 220, 435],
    };
    (own, [2, 190, 120, 435])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(arch: Arch, number: u32, compat: bool) -> String {
        Call { number, compat }.name(arch).into_owned()
    }

    #[test]
    fn calls_have_the_names_of_their_table() {
        for (arch, number, compat, expected) in [
            (Arch::X86, 0, false, "read"),
            (Arch::X86, 257, false, "openat"),
            (Arch::X86, 5, true, "compat:open"),
            (Arch::X86, 3, true, "compat:read"),
            (Arch::Arm, 56, false, "openat"),
            (Arch::Arm, 5, true, "compat:open"),
            (Arch::X86, X32, false, "x32:read"),
            (Arch::X86, X32 + 514, false, "x32:ioctl"),
            (Arch::X86, X32 + 547, false, "x32:pwritev2"),
        ] {
            assert_eq!(name(arch, number, compat), expected);
        }
    }

    #[test]
    fn numbers_without_a_name_stay_numbers() {
        assert_eq!(name(Arch::X86, 9999, false), "9999");
        assert_eq!(name(Arch::X86, 9999, true), "compat:9999");
        assert_eq!(name(Arch::X86, X32 + 600, false), "x32:600");
        assert_eq!(name(Arch::Arm, (-5i32).cast_unsigned(), false), "-5");
    }

    #[test]
    fn a_return_without_a_number_is_that_of_a_signal_handler() {
        let key = |errno| Key { slot: 2, number: u32::MAX, compat: false, errno };
        let (call, errno) = Call::of(&key(4));
        assert_eq!((call.name(Arch::X86).as_ref(), errno), ("rt_sigreturn", 0));
        let (call, errno) = Call::of(&key(38));
        assert_eq!((call.name(Arch::X86).as_ref(), errno), ("-1", 38));
    }

    #[test]
    fn forks_are_what_their_tables_say() {
        let (own, compat) = forks();
        let names = |numbers: [u32; 4], compat| numbers.map(|number| name(HERE, number, compat));
        if HERE == Arch::X86 {
            assert_eq!(names(own, false), ["fork", "vfork", "clone", "clone3"]);
        } else {
            assert_eq!(names(own, false), ["clone", "clone", "clone", "clone3"]);
        }
        assert_eq!(
            names(compat, true),
            ["fork", "vfork", "clone", "clone3"].map(|name| format!("compat:{name}"))
        );
    }

    #[test]
    fn errors_have_names() {
        assert_eq!(errno(2), "ENOENT");
        assert_eq!(errno(11), "EAGAIN");
        assert_eq!(errno(133), "EHWPOISON");
        assert_eq!(errno(2048), "2048");
    }
}
