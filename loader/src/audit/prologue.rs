//! How far a function's stack pointer is below its frame pointer, told by its code.
//!
//! A thread that is blocked in the kernel shows its stack pointer and no other register. Functions
//! that keep a frame pointer find their caller by that alone; where they move the stack pointer
//! once, by a constant, the one follows from the other.

#![forbid(unsafe_code)]

/// Bytes from the stack pointer to the frame pointer while the function waits for a call to return
/// to its byte number `at`; none where it keeps no frame pointer from its first instruction on, or
/// may move the stack pointer by what it computes, or by what it pushes for calls.
///
/// # Source
/// Intel SDM volume 2: PUSH, SUB, ADD, AND, MOV and LEA with the stack pointer. ENTER is no
/// compiler's.
#[cfg(target_arch = "x86_64")]
pub(super) fn depth(function: &[u8], at: usize) -> Option<usize> {
    let mut rest = function;
    let mut take = |bytes: &[u8]| match rest.strip_prefix(bytes) {
        Some(after) => {
            rest = after;
            true
        }
        None => false,
    };
    // endbr64, where there is one; push rbp; mov rbp, rsp.
    take(&[0xf3, 0x0f, 0x1e, 0xfa]);
    if !take(&[0x55]) || !take(&[0x48, 0x89, 0xe5]) && !take(&[0x48, 0x8b, 0xec]) {
        return None;
    }
    let mut depth = 0_usize;
    // Any register but the two pointers.
    while let [0x50..=0x53 | 0x56 | 0x57, after @ ..] | [0x41, 0x50..=0x57, after @ ..] = rest {
        depth = depth.wrapping_add(8);
        rest = after;
    }
    let mut constant = 0;
    if let Some((down, after)) = moved(rest).filter(|(down, _)| *down > 0) {
        constant = down;
        depth = depth.checked_add(usize::try_from(down).ok()?)?;
        rest = after;
    }
    // What was pushed for a call that does not return is never taken back: nothing tells of it.
    let returns = !matches!(
        function.get(at..),
        None | Some([] | [0x0f, 0x0b, ..] | [0xcc, ..])
    );
    (returns && is_fixed(rest, constant)).then_some(depth)
}

/// Not told here.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn depth(_function: &[u8], _at: usize) -> Option<usize> {
    None
}

/// By how much the instruction at the start of `code` lowers the stack pointer by a constant, and
/// what follows it.
#[cfg(target_arch = "x86_64")]
fn moved(code: &[u8]) -> Option<(i64, &[u8])> {
    Some(match code {
        [0x48, 0x83, 0xec, by, after @ ..] => (i64::from(by.cast_signed()), after),
        [0x48, 0x83, 0xc4, by, after @ ..] => (-i64::from(by.cast_signed()), after),
        [0x48, 0x81, 0xec, a, b, c, d, after @ ..] => {
            (i64::from(i32::from_le_bytes([*a, *b, *c, *d])), after)
        }
        [0x48, 0x81, 0xc4, a, b, c, d, after @ ..] => {
            (-i64::from(i32::from_le_bytes([*a, *b, *c, *d])), after)
        }
        _ => return None,
    })
}

/// Whether no bytes of `code` could be an instruction that moves the stack pointer, but for a push,
/// a pop, and taking back what the function lowered it by at its start.
///
/// Instructions are not told apart: bytes in the middle of one count as well.
#[cfg(target_arch = "x86_64")]
fn is_fixed(code: &[u8], constant: i64) -> bool {
    let mut at = code;
    while let [_, after @ ..] = at {
        // Something that names the stack pointer as what is written, in the form of two registers.
        let writes = |modes: u8| modes >> 6 == 3 && modes & 7 == 4;
        let moves = match at {
            // sub, and, xchg and mov with a register.
            [0x48 | 0x4c, 0x29 | 0x21 | 0x87 | 0x89, modes, ..] => writes(*modes),
            // The same in the other direction, and lea: the stack pointer stands in the middle.
            [0x48..=0x4b, 0x2b | 0x23 | 0x8b, modes, ..] => modes & 0x38 == 0x20,
            // lea, but for the one that goes back to a constant below the frame pointer.
            [0x48..=0x4b, 0x8d, modes, ..] => modes & 0x38 == 0x20 && !matches!(modes, 0x65 | 0xa5),
            // and with a constant.
            [0x48, 0x81 | 0x83, 0xe4, ..] => true,
            // What is pushed for a call is taken back after it in this way.
            _ => moved(at).is_some_and(|(down, _)| down != -constant),
        };
        if moves {
            return false;
        }
        at = after;
    }
    true
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    const BEGIN: [u8; 4] = [0x55, 0x48, 0x89, 0xe5];

    fn of(parts: &[&[u8]]) -> Option<usize> {
        depth(&parts.concat(), 5)
    }

    #[test]
    fn a_fixed_frame_is_its_pushes_and_its_constant() {
        let rest: &[u8] = &[0x48, 0x8b, 0x7d, 0xf8, 0xe8, 1, 2, 3, 4, 0xc9, 0xc3];
        assert_eq!(of(&[&BEGIN, rest]), Some(0));
        let pushes: &[u8] = &[0x41, 0x57, 0x41, 0x56, 0x53, 0x50];
        assert_eq!(of(&[&BEGIN, pushes, rest]), Some(32));
        let endbr: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
        let sub: &[u8] = &[0x48, 0x83, 0xec, 0x28];
        assert_eq!(of(&[endbr, &BEGIN, pushes, sub, rest]), Some(72));
        let long: &[u8] = &[0x48, 0x81, 0xec, 0, 1, 0, 0];
        assert_eq!(of(&[&BEGIN, long, rest]), Some(256));
        // A hundred and twenty-eight bytes fit the short form only this way.
        let add: &[u8] = &[0x48, 0x83, 0xc4, 0x80];
        assert_eq!(of(&[&BEGIN, add, rest]), Some(128));
        let back: &[u8] = &[0x48, 0x83, 0xc4, 0x28];
        assert_eq!(
            of(&[&BEGIN, &[0x48, 0x83, 0xec, 0x28], rest, back]),
            Some(40)
        );
    }

    #[test]
    fn a_frame_that_is_computed_is_not_told() {
        assert_eq!(
            of(&[&[0x53], &BEGIN, &[0x90, 0xc3]]),
            None,
            "no frame pointer at once"
        );
        let never_back: &[u8] = &[0x90, 0x0f, 0x0b];
        assert_eq!(of(&[&BEGIN, never_back]), None, "the call does not return");
        let sub_rax: &[u8] = &[0x48, 0x29, 0xc4];
        let mov_rax: &[u8] = &[0x48, 0x89, 0xc4];
        let align: &[u8] = &[0x48, 0x83, 0xe4, 0xe0];
        let again: &[u8] = &[0x90, 0x48, 0x83, 0xec, 0x10];
        let lea: &[u8] = &[0x48, 0x8d, 0x24, 0x01];
        let back: &[u8] = &[0x48, 0x83, 0xc4, 0x10];
        for moves in [sub_rax, mov_rax, align, again, lea, back] {
            assert_eq!(of(&[&BEGIN, &[0x90], moves, &[0xc3]]), None, "{moves:x?}");
        }
    }
}
