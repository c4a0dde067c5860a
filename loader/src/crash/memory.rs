//! Reading whatever an address may point at, in a process that may be damaged.
//!
//! Async-signal-safe. In a crash a page is asked of the kernel before it is read the first time.
//! Another thread may unmap it right afterwards: the fault that follows ends the step of the report
//! that reads, and nothing else. Where no handler waits for faults the kernel copies all of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;

use crate::sys::task;

/// The least size of a page.
pub(crate) const PAGE: usize = 4096;

/// Pages remembered as readable: a report touches the program headers, the unwind tables and the
/// code of a few objects and a few pages of stack.
const REMEMBERED: usize = 64;

type Copies = BTreeMap<usize, Option<Box<[u8; PAGE]>>>;

/// Memory of the process, and which pages of it were found readable.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Whether nothing is read but by the kernel.
    by_kernel: bool,
    /// Copies of pages by their numbers, where they are kept; none for one that cannot be read.
    copies: Option<RefCell<Copies>>,
    /// Numbers of pages found readable, at a place given by the number.
    pages: [Cell<usize>; REMEMBERED],
}

impl Memory {
    pub(crate) const fn new() -> Self {
        Self {
            by_kernel: false,
            copies: None,
            pages: [const { Cell::new(0) }; REMEMBERED],
        }
    }

    /// Memory that may go away at any moment, for a thread that must not fault: a system call a
    /// read.
    pub(crate) fn by_kernel() -> Self {
        let mut memory = Self::new();
        memory.by_kernel = true;
        memory
    }

    /// As [`Memory::by_kernel`], with a system call a page: each is copied once, and what is read is
    /// what it held then. Thread context: allocates.
    pub(crate) fn copied() -> Self {
        let mut memory = Self::by_kernel();
        memory.copies = Some(RefCell::new(BTreeMap::new()));
        memory
    }

    /// Takes `bytes` for what is at the page that begins at `address`, whatever is there by now.
    pub(crate) fn keep(&self, address: usize, bytes: &[u8; PAGE]) {
        if let Some(copies) = &self.copies
            && let Ok(mut copies) = copies.try_borrow_mut()
        {
            copies.insert(address / PAGE, Some(Box::new(*bytes)));
        }
    }

    /// Fills `to` from copies of pages.
    fn copy_kept(&self, copies: &RefCell<Copies>, address: usize, to: &mut [u8]) -> Option<()> {
        let mut copies = copies.try_borrow_mut().ok()?;
        let (mut at, mut rest) = (address, to);
        while !rest.is_empty() {
            let (page, first) = (at / PAGE, at % PAGE);
            let copy = copies.entry(page).or_insert_with(|| {
                let mut bytes = Box::new([0; PAGE]);
                let copied = copy_readable(page.wrapping_mul(PAGE), &mut bytes[..]);
                (copied == PAGE).then_some(bytes)
            });
            let from = copy.as_ref()?.get(first..)?;
            let n = from.len().min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(from.get(..n)?);
            at = at.checked_add(n)?;
            rest = later;
        }
        Some(())
    }

    /// Whether the byte at `address` can be read.
    pub(crate) fn is_readable(&self, address: usize) -> bool {
        let page = address / PAGE;
        if page == 0 {
            return false;
        }
        let Some(known) = self.pages.get(page % REMEMBERED) else {
            return false;
        };
        if known.get() == page {
            return true;
        }
        let readable = ask(page.wrapping_mul(PAGE));
        if readable {
            known.set(page);
        }
        readable
    }

    /// Copies the bytes at `address`; none where not all of them can be read.
    pub(crate) fn copy(&self, address: usize, to: &mut [u8]) -> Option<()> {
        if let Some(copies) = &self.copies {
            return self.copy_kept(copies, address, to);
        }
        if self.by_kernel {
            return (copy_readable(address, to) == to.len()).then_some(());
        }
        // No address is on this page.
        let mut page = usize::MAX;
        for (n, to) in to.iter_mut().enumerate() {
            let from = address.checked_add(n)?;
            if from / PAGE != page {
                if !self.is_readable(from) {
                    return None;
                }
                page = from / PAGE;
            }
            let from = std::ptr::with_exposed_provenance::<u8>(from);
            // SAFETY: the page was readable when the kernel was asked. Volatile, since what is
            // read may be anything, another thread's or mapped anew.
            *to = unsafe { from.read_volatile() };
        }
        Some(())
    }

    /// The bytes at `address`.
    pub(crate) fn read<const N: usize>(&self, address: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.copy(address, &mut bytes)?;
        Some(bytes)
    }

    /// The word at `address`.
    pub(crate) fn word(&self, address: usize) -> Option<usize> {
        self.read(address).map(usize::from_ne_bytes)
    }
}

/// Whether the kernel can read the page at `page`.
///
/// The system call copies a set of signals from there and then refuses what it is to do with it,
/// so that nothing changes. Faults are told from refusals by `errno`. It works where
/// `process_vm_readv` is forbidden and needs no descriptor.
fn ask(page: usize) -> bool {
    const NO_SUCH_REQUEST: usize = usize::MAX;
    let before = task::errno();
    // SAFETY: an unknown request changes nothing; the kernel checks the address itself.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            NO_SUCH_REQUEST,
            page as *const c_void,
            std::ptr::null_mut::<c_void>(),
            8_usize,
        )
    };
    let readable = task::errno() == libc::EINVAL;
    task::set_errno(before);
    readable
}

/// Has the kernel copy bytes from `address` on, up to where they can no longer be read; returns how
/// many. None where the kernel is forbidden to.
pub(crate) fn copy_readable(address: usize, to: &mut [u8]) -> usize {
    let before = task::errno();
    let own = libc::iovec {
        iov_base: to.as_mut_ptr().cast(),
        iov_len: to.len(),
    };
    let other = libc::iovec {
        iov_base: address as *mut c_void,
        iov_len: to.len(),
    };
    // The process by this thread of it: the first one may have ended, and has no memory then.
    let process = libc::pid_t::try_from(task::remembered_id()).unwrap_or(0);
    // SAFETY: writes to `to` alone, whose length it is given; the kernel checks the other side.
    let copied =
        unsafe { libc::process_vm_readv(process, &raw const own, 1, &raw const other, 1, 0) };
    task::set_errno(before);
    usize::try_from(copied).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_not_read() {
        for memory in [Memory::new(), Memory::by_kernel(), Memory::copied()] {
            let word = 0x1234_5678_usize;
            let at = (&raw const word).expose_provenance();
            assert_eq!(memory.word(at), Some(word));
            assert!(memory.is_readable(at));
            for nowhere in [0, 8, 0xff8, usize::MAX - 4, 0xdead_beef_dead_beef, 1 << 63] {
                assert_eq!(memory.word(nowhere), None, "{nowhere:#x}");
            }
        }
    }
}
