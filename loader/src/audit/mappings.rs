//! What is mapped where, as far as stacks are concerned.

#![forbid(unsafe_code)]

use std::fs;
use std::ops::Range;

/// The mappings that can be written to, by address, as they were when this was read.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    /// Disjoint and ascending.
    writable: Vec<Range<usize>>,
    /// The stack of the process's first thread.
    pub(super) first_stack: Range<usize>,
}

impl Mappings {
    /// Asks the kernel; about a microsecond a mapping. By the running thread: the first one may have
    /// ended, and shows none.
    pub(super) fn read() -> Self {
        let maps = fs::read("/proc/thread-self/maps").unwrap_or_default();
        let mut mappings = Self::default();
        for line in maps.split(|byte| *byte == b'\n') {
            let Some((range, rights)) = parse(line) else {
                continue;
            };
            if line.ends_with(b"[stack]") {
                mappings.first_stack = range.clone();
            }
            if !rights.starts_with(b"rw") {
                continue;
            }
            match mappings.writable.last_mut() {
                Some(before) if before.end == range.start => before.end = range.end,
                _ => mappings.writable.push(range),
            }
        }
        mappings
    }

    /// The mapping, and what follows it without a gap, that covers `address`.
    pub(super) fn find(&self, address: usize) -> Option<Range<usize>> {
        let after = self
            .writable
            .partition_point(|range| range.start <= address);
        let range = self.writable.get(after.checked_sub(1)?)?;
        range.contains(&address).then(|| range.clone())
    }
}

/// `start-end rights ...`.
fn parse(line: &[u8]) -> Option<(Range<usize>, &[u8])> {
    let (start, rest) = hex(line)?;
    let (end, rest) = hex(rest.strip_prefix(b"-")?)?;
    Some((start..end, rest.strip_prefix(b" ")?))
}

/// A number at the start of `text`, and what follows it.
pub(super) fn hex(text: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    let mut digits = 0;
    for byte in text {
        let Some(digit) = char::from(*byte).to_digit(16) else {
            break;
        };
        value = value.checked_mul(16)?.checked_add(digit as usize)?;
        digits += 1;
    }
    (digits > 0).then(|| (value, text.split_at(digits).1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_and_the_heap_are_found_and_code_is_not() {
        let here = 0_usize;
        let mappings = Mappings::read();
        let find = |address: usize| mappings.find(address);
        assert!(find((&raw const here).addr()).is_some());
        let heap = Box::new(0_u8);
        assert!(find((&raw const *heap).addr()).is_some());
        assert!(find(parse as *const () as usize).is_none());
        assert!(find(0).is_none());
        assert!(!mappings.first_stack.is_empty());
    }
}
