//! Where the C library keeps its tables of keys and of functions for the process's end, whose entries
//! keep their addresses after they are given back.
//!
//! Neither has a name that is exported. Each is found by an entry of the loader's own in it.
//!
//! # Source
//! `struct pthread_key_struct` in glibc's nptl/descr.h; `struct exit_function_list` in its
//! stdlib/exit.h.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::OnceLock;

use super::RootKind;
use crate::crash::memory::{Memory, copy_readable};
use crate::sys::data;

/// Keys there are.
const KEYS: usize = 1024;

/// Bytes of an entry: how often it was given out and back, and the destructor.
const KEY: usize = 16;

/// Entries of one list of functions.
const EXITS: usize = 32;

/// Bytes of an entry: what it is, the hidden address, the argument, the object.
const EXIT: usize = 32;

/// Bytes of one list: the next one and the number of entries, then those.
const LIST: usize = 16 + EXITS * EXIT;

/// What is known of the tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// The table of keys.
    keys: Range<usize>,
    /// The word that holds the address of the first list of functions.
    exits: Option<usize>,
    /// The list that is part of the C library's data.
    first_list: Range<usize>,
}

/// One function for the process's end.
#[derive(Debug)]
pub(super) struct Exit {
    pub(super) place: usize,
    /// Hidden.
    pub(super) function: usize,
    pub(super) argument: usize,
}

/// Looks for the tables once.
pub(super) fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut tables = Tables::default();
        data::with_marked_key(|mark, key| {
            for_words(&libc_data(), |place, word| {
                if word == mark && tables.keys.is_empty() {
                    let start = place.wrapping_sub(8).wrapping_sub(key.wrapping_mul(KEY));
                    tables.keys = start..start.wrapping_add(KEYS * KEY);
                }
            });
        });
        if let Some(mark) = data::mark_exits() {
            find_exits(&mut tables, mark);
        }
        tables
    })
}

/// Finds the word that leads to the list with `mark`.
fn find_exits(tables: &mut Tables, mark: usize) {
    let libc = libc_data();
    let mut candidates = Vec::new();
    for_words(&libc, |place, word| {
        // Lists lie in the C library's own data or in what malloc() gave.
        if word > 0xffff && word < 1 << 47 && word.is_multiple_of(16) {
            candidates.push((place, word));
        }
    });
    let inside = |list: usize| {
        libc.iter().find_map(|(start, bytes)| {
            let from = list.checked_sub(*start)?;
            bytes.get(from..)?.first_chunk::<LIST>()
        })
    };
    let is_marked =
        |list: usize, bytes: &[u8; LIST]| entries(list, bytes).any(|entry| entry.argument == mark);
    // The first list is in what was copied, and every other one needs a system call.
    let near = candidates
        .iter()
        .find(|(_, list)| inside(*list).is_some_and(|bytes| is_marked(*list, bytes)));
    let mut bytes = [0; LIST];
    let found = near.or_else(|| {
        candidates.iter().find(|(_, list)| {
            inside(*list).is_none()
                && copy_readable(*list, &mut bytes) == LIST
                && is_marked(*list, &bytes)
        })
    });
    tables.exits = found.map(|(place, _)| *place);
    // The list that came first is at the end of all.
    let Some(exits) = tables.exits else { return };
    let last = lists(exits).last().copied();
    if let Some(list) = last.filter(|list| inside(*list).is_some()) {
        tables.first_list = list..list.wrapping_add(LIST);
    }
}

impl Tables {
    /// What a pointer at `place` in the C library's data is; none for one in an entry that is not in
    /// use, or that is looked at elsewhere.
    pub(super) fn kind(&self, place: usize) -> Option<RootKind> {
        if self.first_list.contains(&place) {
            return None;
        }
        if !self.keys.contains(&place) {
            return Some(RootKind::Library);
        }
        let key = place.wrapping_sub(self.keys.start) / KEY;
        let entry = self.keys.start.wrapping_add(key.wrapping_mul(KEY));
        // Odd while it is given out.
        let given = Memory::by_kernel().word(entry)?;
        (given % 2 == 1).then(|| RootKind::Key(u32::try_from(key).unwrap_or(u32::MAX)))
    }
}

/// All functions for the process's end.
pub(super) fn exits() -> Vec<Exit> {
    let Some(exits) = tables().exits else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut bytes = [0; LIST];
    for list in lists(exits) {
        if copy_readable(list, &mut bytes) == LIST {
            found.extend(entries(list, &bytes));
        }
    }
    found
}

/// The addresses of the lists, the newest first.
fn lists(exits: usize) -> Vec<usize> {
    /// More than any process has functions for.
    const MOST: usize = 4096;
    let memory = Memory::by_kernel();
    let next = |list: &usize| memory.word(*list).filter(|next| *next != 0);
    let first = memory.word(exits).filter(|list| *list != 0);
    std::iter::successors(first, next).take(MOST).collect()
}

/// The entries in use of the list at `list`, which was copied to `bytes`.
fn entries(list: usize, bytes: &[u8; LIST]) -> impl Iterator<Item = Exit> {
    let (words, _) = bytes.as_chunks();
    let words: Vec<usize> = words
        .iter()
        .map(|word| usize::from_ne_bytes(*word))
        .collect();
    // With more, it is no list.
    let used = words.get(1).copied().filter(|used| *used <= EXITS);
    let used = used.unwrap_or(0);
    (0..used).filter_map(move |n| {
        let at = 2 + n * (EXIT / 8);
        match words.get(at..at + 3) {
            // 0 is free, 1 is being made.
            Some([2..=4, function, argument]) => Some(Exit {
                place: list.wrapping_add(at * 8),
                function: *function,
                argument: *argument,
            }),
            _ => None,
        }
    })
}

fn is_libc(data: &data::Data<'_>) -> bool {
    data.object.to_bytes().ends_with(b"/libc.so.6")
}

/// The C library's data, each with the address of its first whole word.
fn libc_data() -> Vec<(usize, Vec<u8>)> {
    let mut found = Vec::new();
    data::each(&mut |data| {
        if !is_libc(data) {
            return;
        }
        let mut bytes = vec![0; data.range.len()];
        let start = data.range.start.next_multiple_of(8);
        let copied = copy_readable(start, &mut bytes);
        bytes.truncate(copied);
        found.push((start, bytes));
    });
    found
}

/// Calls `look` for all words of `data`, with their places.
fn for_words(data: &[(usize, Vec<u8>)], mut look: impl FnMut(usize, usize)) {
    for (start, bytes) in data {
        let (words, _) = bytes.as_chunks();
        for (n, word) in words.iter().enumerate() {
            look(start.wrapping_add(n * 8), usize::from_ne_bytes(*word));
        }
    }
}
