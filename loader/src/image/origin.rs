//! Where a file lies, who could replace it, and whether somebody has.
//!
//! Thread context. What is loaded is the file that was opened, whatever its path leads to by now;
//! the path decides which rules count and what operators are told.

#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat, stat};
use rustix::process::{getegid, geteuid};

use super::admission::{Judged, judge};
use crate::policy::{Matter, Rules};

/// Where an open file lies, without symbolic links; none for one that has no name any more.
pub(super) fn location(file: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    // Memory files and deleted ones have texts there that lead nowhere.
    path.is_absolute()
        .then_some(path)
        .filter(|path| path.exists())
}

/// Who else could replace the file at the absolute `path`: the first place on the way that allows
/// it.
///
/// Costs one `stat` for each folder on the way.
pub(crate) fn exposure(path: &Path, rules: &Rules) -> Option<Judged> {
    let mut places: Vec<&Path> = path.ancestors().collect();
    places.reverse();
    places.into_iter().find_map(|place| {
        let why = objection(&stat(place).ok()?)?;
        let expected = "nobody else who may write";
        let place = place.display().to_string();
        Some(judge(rules, Matter::Path, place, expected, why))
    })
}

/// What is wrong with a folder or file, if others than this user and root may change it.
fn objection(stat: &Stat) -> Option<String> {
    const STICKY: u32 = 0o1000;
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    if stat.st_uid != 0 && stat.st_uid != user {
        return Some(format!("owned by user {}", stat.st_uid));
    }
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_folder && stat.st_mode & STICKY != 0 {
        return None;
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o002 != 0 {
        return Some(format!("mode {mode:04o}: everybody may write"));
    }
    if mode & 0o020 != 0 && stat.st_gid != 0 && stat.st_gid != group {
        return Some(format!("mode {mode:04o}: group {} may write", stat.st_gid));
    }
    None
}

/// Which version of a file it is, as cheaply as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    dev: u64,
    ino: u64,
    size: i64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        #[expect(
            clippy::allow_attributes,
            reason = "the types of these fields differ between machines"
        )]
        #[allow(
            clippy::useless_conversion,
            clippy::unnecessary_cast,
            reason = "as above"
        )]
        let nanoseconds = |value| value as i64;
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size,
            written: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    /// That of the file at `path` at this moment.
    pub(crate) fn now(path: &Path) -> Option<Self> {
        stat(path).ok().as_ref().map(Self::of)
    }

    /// Whether a file with another size than this one's cannot have the same bytes.
    pub(crate) fn has_size_of(&self, other: &Self) -> bool {
        self.size == other.size
    }
}
