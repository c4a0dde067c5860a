//! Something to do between reads.

use std::hint::black_box;

/// A piece of work: about 80 ns that need no memory.
#[inline]
pub fn piece() -> u64 {
    let mut value = black_box(1_u64);
    for _ in 0..100 {
        value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 1;
    }
    value
}
