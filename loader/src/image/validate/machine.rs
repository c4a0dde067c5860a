//! The relocation types of each machine, as far as a shared object for it has them.

#![forbid(unsafe_code)]

/// A machine whose relocations are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// The one this process runs on.
    pub(super) const HOST: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };
}

/// What a relocation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    None,
    /// Stores bias + addend.
    Relative,
    /// Stores what a function returns.
    Irelative,
    /// Stores the address of a function that is called through it.
    JumpSlot,
    /// Stores something of a symbol, in 4 or 8 bytes.
    Symbolic(u64),
    /// Stores something of a thread-local, in so many bytes.
    ThreadLocal(u64),
}

impl Kind {
    /// How many bytes it writes.
    pub(super) fn width(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Relative | Self::Irelative | Self::JumpSlot => 8,
            Self::Symbolic(width) | Self::ThreadLocal(width) => width,
        }
    }
}

/// What the type `number` does on `machine`; none for one that no intact shared object has.
///
/// # Source
/// System V ABI, AMD64 supplement, table 4.9, and ELF for the Arm 64-bit architecture, as far as
/// glibc's `elf_machine_rela` knows them. `COPY` is for executables.
pub(super) fn kind(machine: Machine, number: u32) -> Option<Kind> {
    let kind = match machine {
        Machine::X86_64 => match number {
            0 => Kind::None,
            // 64, GLOB_DAT, PC64, SIZE64.
            1 | 6 | 24 | 33 => Kind::Symbolic(8),
            // PC32, 32, 32S, SIZE32.
            2 | 10 | 11 | 32 => Kind::Symbolic(4),
            7 => Kind::JumpSlot,
            8 | 38 => Kind::Relative,
            // DTPMOD64, DTPOFF64, TPOFF64.
            16..=18 => Kind::ThreadLocal(8),
            // TLSDESC.
            36 => Kind::ThreadLocal(16),
            37 => Kind::Irelative,
            _ => return None,
        },
        Machine::Aarch64 => match number {
            0 | 256 => Kind::None,
            // ABS64, GLOB_DAT.
            257 | 1025 => Kind::Symbolic(8),
            1026 => Kind::JumpSlot,
            1027 => Kind::Relative,
            // TLS_DTPMOD, TLS_DTPREL, TLS_TPREL.
            1028..=1030 => Kind::ThreadLocal(8),
            // TLSDESC.
            1031 => Kind::ThreadLocal(16),
            1032 => Kind::Irelative,
            _ => return None,
        },
    };
    Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_machines_know_what_dynamic_linkers_do() {
        for (machine, relative, jump, descriptor, copy) in [
            (Machine::X86_64, 8, 7, 36, 5),
            (Machine::Aarch64, 1027, 1026, 1031, 1024),
        ] {
            assert_eq!(kind(machine, relative), Some(Kind::Relative));
            assert_eq!(kind(machine, jump), Some(Kind::JumpSlot));
            assert_eq!(kind(machine, descriptor), Some(Kind::ThreadLocal(16)));
            assert_eq!(kind(machine, copy), None, "{machine:?}");
            assert_eq!(kind(machine, 0).map(Kind::width), Some(0));
            assert_eq!(kind(machine, 9999), None);
        }
    }
}
