//! Starts of functions from `.eh_frame_hdr`, the sorted table of unwind entries that every file
//! has, for addresses that no symbol covers.
//!
//! # Source
//! Linux Standard Base, "Exception Frames": the table that `--eh-frame-hdr` writes.

/// Pointer encodings of the table as all linkers write it: relative to the field, a count, and
/// pairs relative to the header.
const ENCODINGS: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
const HEADER: usize = 12;
const ENTRY: usize = 8;

fn word(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok()
}

/// The function that contains the link-time address `svma`: its start, and where the next begins.
///
/// `header` are the bytes of `.eh_frame_hdr`, which lies at the link-time address `at`. None before
/// the first function, after the start of the last one's successor, which nobody knows, and for a
/// table in other encodings. Async-signal-safe; a search by halving.
#[must_use]
pub fn find(header: &[u8], at: u64, svma: u64) -> Option<(u64, u64)> {
    if header.get(..4)? != ENCODINGS {
        return None;
    }
    let n = u32::from_le_bytes(word(header, 8)?) as usize;
    let table = header.get(HEADER..)?;
    let n = n.min(table.len().checked_div(ENTRY)?);
    let start = |entry: usize| {
        let offset = i32::from_le_bytes(word(table, entry.checked_mul(ENTRY)?)?);
        Some(at.wrapping_add_signed(i64::from(offset)))
    };
    // The number of functions that start at or before the address.
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = low.wrapping_add(high.wrapping_sub(low) / 2);
        if start(middle)? <= svma {
            low = middle.wrapping_add(1);
        } else {
            high = middle;
        }
    }
    Some((start(low.checked_sub(1)?)?, start(low).filter(|_| low < n)?))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::find;

    fn table(starts: &[i32]) -> Vec<u8> {
        let mut bytes = Vec::from(super::ENCODINGS);
        bytes.extend(0_i32.to_le_bytes());
        bytes.extend(u32::try_from(starts.len()).unwrap().to_le_bytes());
        for start in starts {
            bytes.extend(start.to_le_bytes());
            bytes.extend(0_i32.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn find_between_first_and_last_names_the_function() {
        let table = table(&[-0x1000, -0xf00, -0x800]);
        assert_eq!(find(&table, 0x3000, 0x1fff), None);
        assert_eq!(find(&table, 0x3000, 0x2000), Some((0x2000, 0x2100)));
        assert_eq!(find(&table, 0x3000, 0x20ff), Some((0x2000, 0x2100)));
        assert_eq!(find(&table, 0x3000, 0x2100), Some((0x2100, 0x2800)));
        assert_eq!(find(&table, 0x3000, 0x2800), None);
    }

    #[test]
    fn find_in_cut_or_strange_tables_answers_none() {
        let whole = table(&[0x100, 0x200, 0x300]);
        for len in 0..whole.len() {
            let _ = find(&whole[..len], 0, 0x150);
        }
        let mut strange = whole;
        strange[3] = 0;
        assert_eq!(find(&strange, 0, 0x150), None);
    }
}
