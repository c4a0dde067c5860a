//! An answer that is a list of any length, made row by row as fast as the client reads.

#![forbid(unsafe_code)]

use std::fmt;

use super::wire::{self, Fault};

/// Most bytes of one reply of several.
const CHUNK: usize = 60 * 1024;

/// Most bytes of an answer in one reply.
const WHOLE: usize = 1 << 20;

/// The rows that are still to be sent.
pub(super) struct Listing {
    key: &'static str,
    rows: Box<dyn Iterator<Item = String> + Send>,
    /// A row that did not fit into the reply before.
    held: Option<String>,
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listing({})", self.key)
    }
}

impl Listing {
    /// A list under the name `key` whose rows are JSON already.
    pub(super) fn new(
        key: &'static str,
        rows: impl Iterator<Item = String> + Send + 'static,
    ) -> Self {
        Self {
            key,
            rows: Box::new(rows),
            held: None,
        }
    }

    /// The next reply of several, and whether it is the last.
    pub(super) fn next(&mut self) -> (Vec<u8>, bool) {
        let rows = self.collect(CHUNK);
        let last = self.held.is_none();
        (wire::list(self.key, &rows, !last), last)
    }

    /// Everything in one reply.
    ///
    /// # Errors
    /// [`Fault::ExpectedMore`] when it does not fit.
    pub(super) fn whole(mut self) -> Result<Vec<u8>, Fault> {
        let rows = self.collect(WHOLE);
        match self.held {
            None => Ok(wire::list(self.key, &rows, false)),
            Some(_) => Err(Fault::ExpectedMore),
        }
    }

    /// As much as fits one reply, and how many rows that is: for lists whose caller knows how to
    /// ask for the rest.
    pub(super) fn first(mut self, continues: bool) -> (Vec<u8>, usize) {
        let rows = self.collect(CHUNK);
        (wire::list(self.key, &rows, continues), rows.len())
    }

    /// Rows of together at most `limit` bytes, but at least one; the next one is held back.
    fn collect(&mut self, limit: usize) -> Vec<String> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while let Some(row) = self.held.take().or_else(|| self.rows.next()) {
            bytes += row.len() + 1;
            if bytes > limit && !rows.is_empty() {
                self.held = Some(row);
                break;
            }
            rows.push(row);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Listing {
        Listing::new("r", (0..n).map(|n| format!("\"{n:0998}\"")))
    }

    #[test]
    fn next_splits_below_the_limit_and_loses_nothing() {
        let mut listing = rows(200);
        let mut seen = 0;
        loop {
            let (text, last) = listing.next();
            assert!(text.len() <= 64 * 1024, "{}", text.len());
            let text = String::from_utf8(text).expect("text");
            assert_eq!(text.contains("\"continues\":true"), !last);
            seen += text.split(',').filter(|row| row.contains("0000")).count();
            if last {
                break;
            }
        }
        assert_eq!(seen, 200);
        let (text, last) = rows(0).next();
        assert!(last);
        assert_eq!(text, b"{\"parameters\":{\"r\":[]}}\0");
    }

    #[test]
    fn whole_refuses_what_does_not_fit() {
        assert!(rows(1000).whole().is_ok());
        assert!(matches!(rows(1100).whole(), Err(Fault::ExpectedMore)));
    }
}
