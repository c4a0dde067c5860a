//! What a stream of output was, in 128 bits and its length, however it was cut.
//!
//! Outputs of any size are compared without being kept. Made for accidents, not for forgers.

const WIDTH: usize = 16;
const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd6e8_feb8_6659_fd93;

/// A stream so far.
#[derive(Clone, Debug)]
pub struct Digest {
    lanes: [u64; 2],
    /// Bytes of an incomplete word.
    carry: [u8; WIDTH],
    carried: usize,
    len: u64,
}

/// A whole stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    lanes: [u64; 2],
    len: u64,
}

impl Digest {
    pub fn new() -> Self {
        Self {
            lanes: [K0, K1],
            carry: [0; WIDTH],
            carried: 0,
            len: 0,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        if self.carried > 0 {
            let n = bytes.len().min(WIDTH - self.carried);
            let (head, rest) = bytes.split_at(n);
            self.carry[self.carried..self.carried + n].copy_from_slice(head);
            self.carried += n;
            bytes = rest;
            if self.carried < WIDTH {
                return;
            }
            self.word(self.carry);
            self.carried = 0;
        }
        let (words, rest) = bytes.as_chunks::<WIDTH>();
        for word in words {
            self.word(*word);
        }
        self.carry[..rest.len()].copy_from_slice(rest);
        self.carried = rest.len();
    }

    /// The digest of everything taken.
    pub fn value(mut self) -> Value {
        if self.carried > 0 {
            self.carry[self.carried..].fill(0);
            self.word(self.carry);
        }
        Value {
            lanes: self.lanes,
            len: self.len,
        }
    }

    fn word(&mut self, word: [u8; WIDTH]) {
        let word = u128::from_le_bytes(word);
        let (low, high) = (word as u64, (word >> 64) as u64);
        let [a, b] = self.lanes;
        self.lanes = [
            fold(a ^ low, high ^ K0).wrapping_add(b),
            fold(b ^ high, low ^ K1).wrapping_add(a.rotate_left(23)),
        ];
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn digest_any_cut_is_the_same() {
        let bytes: Vec<u8> = (0..200u8).collect();
        let mut whole = Digest::new();
        whole.update(&bytes);
        let whole = whole.value();
        for cut in 1..bytes.len() {
            let mut digest = Digest::new();
            bytes.chunks(cut).for_each(|piece| digest.update(piece));
            assert_eq!(digest.value(), whole, "pieces of {cut}");
        }
    }

    #[test]
    fn digest_any_changed_byte_differs() {
        let mut bytes = vec![0u8; 100];
        let of = |bytes: &[u8]| {
            let mut digest = Digest::new();
            digest.update(bytes);
            digest.value()
        };
        let zeroes = of(&bytes);
        for at in 0..bytes.len() {
            bytes[at] = 1;
            assert_ne!(of(&bytes), zeroes, "byte {at}");
            bytes[at] = 0;
        }
        assert_ne!(of(&bytes[..99]), zeroes);
    }
}
