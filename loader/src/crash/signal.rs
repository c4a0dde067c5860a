//! The signals that a crash report is made of, and what the kernel says of their causes.

#![forbid(unsafe_code)]

/// A signal that ends a process whose code went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrashSignal {
    /// An address that is not mapped or not to be used so.
    Segv,
    /// Memory that is mapped but not there.
    Bus,
    /// An instruction that does not exist.
    Ill,
    /// A division by zero and the like.
    Fpe,
    /// `abort`.
    Abrt,
}

impl CrashSignal {
    pub(crate) const ALL: [Self; 5] = [Self::Segv, Self::Bus, Self::Ill, Self::Fpe, Self::Abrt];

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Segv => libc::SIGSEGV,
            Self::Bus => libc::SIGBUS,
            Self::Ill => libc::SIGILL,
            Self::Fpe => libc::SIGFPE,
            Self::Abrt => libc::SIGABRT,
        }
    }

    /// Its name, such as `SIGSEGV`. Async-signal-safe.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Segv => "SIGSEGV",
            Self::Bus => "SIGBUS",
            Self::Ill => "SIGILL",
            Self::Fpe => "SIGFPE",
            Self::Abrt => "SIGABRT",
        }
    }

    pub(crate) fn of(number: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|signal| signal.number() == number)
    }

    /// What a code of `siginfo_t` means for this signal. Async-signal-safe.
    ///
    /// # Source
    /// sigaction(2) and the kernel's `asm-generic/siginfo.h`.
    pub(crate) const fn reason(self, code: i32) -> &'static str {
        match (self, code) {
            (_, 0) => "sent by kill",
            (_, -1) => "sent by sigqueue",
            (_, -6) => "sent by tgkill",
            (_, i32::MIN..=-1) => "sent by a process",
            (Self::Segv, 0x80) => "address not canonical, or a protected instruction",
            (_, 0x80) => "sent by the kernel",
            (Self::Segv, 1) => "address not mapped",
            (Self::Segv, 2) => "access not permitted",
            (Self::Segv, 3) => "bounds check failed",
            (Self::Segv, 4) => "protection key denies access",
            (Self::Bus, 1) => "address not aligned",
            (Self::Bus, 2) => "no such memory, perhaps a mapped file that was cut",
            (Self::Bus, 3) => "hardware error",
            (Self::Bus, 4 | 5) => "memory error",
            (Self::Ill, 1) => "no such instruction",
            (Self::Ill, 2) => "no such operand",
            (Self::Ill, 3) => "no such addressing mode",
            (Self::Ill, 4) => "no such trap",
            (Self::Ill, 5 | 6) => "privileged instruction",
            (Self::Ill, 7) => "coprocessor error",
            (Self::Ill, 8) => "internal stack error",
            (Self::Fpe, 1) => "integer division by zero",
            (Self::Fpe, 2) => "integer overflow",
            (Self::Fpe, 3) => "floating-point division by zero",
            (Self::Fpe, 4) => "floating-point overflow",
            (Self::Fpe, 5) => "floating-point underflow",
            (Self::Fpe, 6) => "floating-point inexact result",
            (Self::Fpe, 7) => "invalid floating-point operation",
            (Self::Fpe, 8) => "subscript out of range",
            _ => "unknown cause",
        }
    }
}
