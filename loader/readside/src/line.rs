//! Text of bounded length, put together without an allocator and without `core::fmt`.

/// Up to `N` bytes of text; what does not fit is cut off and said to be.
#[derive(Clone, Copy, Debug)]
pub struct Line<const N: usize> {
    bytes: [u8; N],
    len: usize,
    cut: bool,
}

impl<const N: usize> Default for Line<N> {
    fn default() -> Self {
        Self::new()
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl<const N: usize> Line<N> {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
            cut: false,
        }
    }

    /// What was put in. Async-signal-safe.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Bytes that still fit. Async-signal-safe.
    #[must_use]
    pub const fn room(&self) -> usize {
        N.saturating_sub(self.len)
    }

    /// Whether something did not fit. Async-signal-safe.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Empties the line. Async-signal-safe.
    pub const fn clear(&mut self) {
        self.len = 0;
        self.cut = false;
    }

    /// Appends bytes as they are. Async-signal-safe.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let n = bytes.len().min(self.room());
        let end = self.len.saturating_add(n);
        if let (Some(to), Some(from)) = (self.bytes.get_mut(self.len..end), bytes.get(..n)) {
            to.copy_from_slice(from);
            self.len = end;
        }
        self.cut |= n < bytes.len();
        self
    }

    /// Appends text. Async-signal-safe.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Appends a number in decimal. Async-signal-safe.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.padded(number, 10, 1)
    }

    /// Appends a number in decimal, with zeros in front to be `digits` long. Async-signal-safe.
    pub fn zeros(&mut self, number: u64, digits: usize) -> &mut Self {
        self.padded(number, 10, digits)
    }

    /// Appends `0x` and a number in hexadecimal. Async-signal-safe.
    pub fn hex(&mut self, number: u64) -> &mut Self {
        self.text("0x").padded(number, 16, 1)
    }

    /// Appends `0x` and all sixteen digits of an address. Async-signal-safe.
    pub fn address(&mut self, address: usize) -> &mut Self {
        self.text("0x").padded(address as u64, 16, 16)
    }

    /// Appends bytes as two hexadecimal digits each. Async-signal-safe.
    pub fn hex_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.padded(u64::from(*byte), 16, 2);
        }
        self
    }

    fn padded(&mut self, mut number: u64, base: u64, digits: usize) -> &mut Self {
        // 20 digits hold every u64 in decimal, and so in hexadecimal.
        let mut text = [b'0'; 20];
        let mut used: usize = 0;
        for place in text.iter_mut().rev() {
            if number == 0 && used >= digits {
                break;
            }
            let digit = number.checked_rem(base).unwrap_or(0);
            let digit = usize::try_from(digit).unwrap_or(0);
            *place = DIGITS.get(digit).copied().unwrap_or(b'?');
            number = number.checked_div(base).unwrap_or(0);
            used = used.saturating_add(1);
        }
        let start = text.len().saturating_sub(used);
        self.bytes(text.get(start..).unwrap_or(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_their_limits_are_written_in_full() {
        let mut line = Line::<128>::new();
        line.number(0).text(" ").number(u64::MAX).text(" ");
        line.hex(0).text(" ").hex(u64::MAX).text(" ").zeros(7, 3);
        assert_eq!(
            line.as_bytes(),
            b"0 18446744073709551615 0x0 0xffffffffffffffff 007"
        );
        line.clear();
        line.address(0x1f).text(" ").hex_bytes(&[0, 0xab]);
        assert_eq!(line.as_bytes(), b"0x000000000000001f 00ab");
        assert!(!line.is_cut());
    }

    #[test]
    fn text_that_does_not_fit_is_cut_and_said_so() {
        let mut line = Line::<4>::new();
        line.text("ab").text("cde").text("f");
        assert_eq!(line.as_bytes(), b"abcd");
        assert!(line.is_cut());
        assert_eq!(line.room(), 0);
    }
}
