//! The registers of an interrupted thread, by the numbers that unwind tables use.

use std::ffi::c_void;

/// Registers that unwind tables may name, with the program counter last.
#[cfg(target_arch = "x86_64")]
const COUNT: usize = 17;
/// The frame pointer (x86-64 psABI, figure 3.36).
#[cfg(target_arch = "x86_64")]
pub(crate) const FRAME: u16 = 6;
/// The stack pointer.
#[cfg(target_arch = "x86_64")]
pub(crate) const STACK: u16 = 7;
/// The return address, which is a frame's program counter.
#[cfg(target_arch = "x86_64")]
pub(crate) const RETURN: u16 = 16;

/// As above (DWARF for the Arm 64-bit architecture, §4.1), with room for the program counter.
#[cfg(target_arch = "aarch64")]
const COUNT: usize = 33;
/// The frame pointer.
#[cfg(target_arch = "aarch64")]
pub(crate) const FRAME: u16 = 29;
/// The stack pointer.
#[cfg(target_arch = "aarch64")]
pub(crate) const STACK: u16 = 31;
/// The link register.
#[cfg(target_arch = "aarch64")]
pub(crate) const RETURN: u16 = 30;

/// The registers of one frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers([usize; COUNT]);

impl Registers {
    /// All zero.
    pub(crate) const NONE: Self = Self([0; COUNT]);

    /// What a register holds of which nothing is known: no address, and none near it either.
    pub(crate) const UNKNOWN: usize = 0x4000_0000_0000_0000;

    /// As [`Registers::at`], with all others [`Registers::UNKNOWN`], so that what is computed from
    /// one of them is no address.
    pub(crate) fn only_at(pc: usize, stack: usize) -> Self {
        let mut registers = Self([Self::UNKNOWN; COUNT]);
        registers.set(STACK, stack);
        registers.set_pc(pc);
        registers
    }

    /// The registers that carry the arguments of a system call, in their order.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const ARGUMENTS: [u16; 6] = [5, 4, 1, 10, 8, 9];
    /// As above.
    #[cfg(target_arch = "aarch64")]
    pub(crate) const ARGUMENTS: [u16; 6] = [0, 1, 2, 3, 4, 5];

    /// Those of the running function that its caller counts on, at the moment of the call; none on
    /// machines where they are not read. The others are [`Registers::UNKNOWN`].
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn here() -> Option<Self> {
        let mut registers = Self([Self::UNKNOWN; COUNT]);
        // SAFETY: writes eight words of the array at `to`, by their numbers, and a scratch register.
        unsafe {
            std::arch::asm!(
                "mov [{to} + 24], rbx",
                "mov [{to} + 48], rbp",
                "mov [{to} + 56], rsp",
                "mov [{to} + 96], r12",
                "mov [{to} + 104], r13",
                "mov [{to} + 112], r14",
                "mov [{to} + 120], r15",
                "lea {pc}, [rip]",
                "mov [{to} + 128], {pc}",
                to = in(reg) registers.0.as_mut_ptr(),
                pc = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
        Some(registers)
    }

    /// They are not read here.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn here() -> Option<Self> {
        None
    }

    /// One register; 0 for one that is not kept.
    pub(crate) fn get(&self, register: u16) -> usize {
        self.0.get(usize::from(register)).copied().unwrap_or(0)
    }

    /// Sets one register; nothing for one that is not kept.
    pub(crate) fn set(&mut self, register: u16, value: usize) {
        if let Some(place) = self.0.get_mut(usize::from(register)) {
            *place = value;
        }
    }

    /// Where the frame is.
    pub(crate) fn pc(&self) -> usize {
        self.0.last().copied().unwrap_or(0)
    }

    /// Moves to a caller at `pc`.
    pub(crate) fn set_pc(&mut self, pc: usize) {
        if let Some(place) = self.0.last_mut() {
            *place = pc;
        }
    }

    /// Those of a thread of which only the program counter and the stack pointer are known.
    pub(crate) fn at(pc: usize, stack: usize) -> Self {
        let mut registers = Self::NONE;
        registers.set(STACK, stack);
        registers.set_pc(pc);
        registers
    }

    /// Those that the kernel saved when it delivered a signal.
    ///
    /// # Safety
    /// - `context` is the third argument of a running handler.
    #[cfg(target_arch = "x86_64")]
    pub(crate) unsafe fn of(context: *const c_void) -> Self {
        // In the order of the unwind tables' numbers, then the program counter.
        const ORDER: [i32; COUNT] = [
            libc::REG_RAX,
            libc::REG_RDX,
            libc::REG_RCX,
            libc::REG_RBX,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_RBP,
            libc::REG_RSP,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
            libc::REG_RIP,
        ];
        // SAFETY: passed on to our caller.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        let mut registers = Self::NONE;
        for (to, from) in registers.0.iter_mut().zip(ORDER) {
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let saved = context.uc_mcontext.gregs.get(from).copied().unwrap_or(0);
            *to = usize::from_ne_bytes(saved.to_ne_bytes());
        }
        registers
    }

    /// Those that the kernel saved when it delivered a signal.
    ///
    /// # Safety
    /// - `context` is the third argument of a running handler.
    #[cfg(target_arch = "aarch64")]
    pub(crate) unsafe fn of(context: *const c_void) -> Self {
        // SAFETY: passed on to our caller.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        let saved = &context.uc_mcontext;
        let all = saved.regs.iter().chain([&saved.sp, &saved.pc]);
        let mut registers = Self::NONE;
        for (to, from) in registers.0.iter_mut().zip(all) {
            *to = usize::from_ne_bytes(from.to_ne_bytes());
        }
        registers
    }
}
