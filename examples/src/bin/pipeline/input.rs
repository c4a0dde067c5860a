//! The text that is streamed: a file, standard input, or the one in this repository.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Read};

/// Bytes a filter is given at once.
pub const BLOCK: usize = 64 * 1024;

static HARBOUR_BOOK: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/data/harbour-book.txt"
));

/// The whole input, in memory because every worker streams it again and again.
#[derive(Debug)]
pub struct Input {
    pub name: String,
    bytes: Cow<'static, [u8]>,
}

impl Input {
    /// Reads `file`; `-` is standard input, none the repository's own text.
    pub fn read(file: Option<&str>) -> io::Result<Self> {
        let (name, bytes) = match file {
            None => ("harbour-book.txt", Cow::Borrowed(HARBOUR_BOOK)),
            Some("-") => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes)?;
                ("standard input", Cow::Owned(bytes))
            }
            Some(path) => (path, Cow::Owned(fs::read(path)?)),
        };
        Ok(Self {
            name: name.to_owned(),
            bytes,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.bytes.len().div_ceil(BLOCK)
    }

    /// Block `n`; the last may be shorter.
    pub fn block(&self, n: usize) -> &[u8] {
        let start = n * BLOCK;
        &self.bytes[start..self.bytes.len().min(start + BLOCK)]
    }
}
