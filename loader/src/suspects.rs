//! The state folder: what a host writes down so that its successor knows what crashed it.
//!
//! Before any code of a plugin runs, a record names it by its digest; the record goes when the load
//! has ended, well or not. One whose host is gone was left by a host that ended in the middle of
//! that load: the plugin is quarantined. So is one that crashed a probe. A plugin in quarantine is
//! refused until somebody clears it.
//!
//! ```text
//! loading/DIGEST.PID.N    locked by the process that loads it
//! quarantine/DIGEST       why it is refused
//! probed/DIGEST.VERSION   what a probe said that found nothing wrong
//! ```
//!
//! Files appear under their names whole, by rename, so that several hosts can share a folder.
//! Thread context.

#![forbid(unsafe_code)]

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::sys::task;

/// Bytes that a record may have; more is not ours.
const MAX_RECORD: u64 = 64 << 10;

/// The kernel's number of this boot, which changes when the machine starts.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Numbers of files of this process, so that each has a name of its own. Written and read by
/// whoever makes one (Relaxed: only that the numbers differ counts).
static MADE: AtomicU64 = AtomicU64::new(0);

/// A state folder.
#[derive(Clone, Debug)]
pub struct Quarantine {
    dir: PathBuf,
}

/// A plugin that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The file, whatever its names.
    pub digest: Digest,
    /// Its name.
    pub plugin: String,
    /// Where it was loaded from.
    pub path: String,
    /// What it did.
    pub why: String,
}

/// A load that is on its way; the record goes with this.
#[derive(Debug)]
#[must_use = "the record goes with it"]
pub(crate) struct Loading {
    path: PathBuf,
    /// Its lock tells others that this process lives.
    _file: File,
}

impl Drop for Loading {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(target: "plug::quarantine", path = ?self.path, %error, "record not removed");
        }
    }
}

impl Quarantine {
    /// Opens the state folder `dir`, which is made if it is not there, for this user alone.
    ///
    /// # Errors
    /// [`ErrorKind::State`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref().to_owned();
        for folder in ["loading", "quarantine", "probed"] {
            let folder = dir.join(folder);
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            let made = builder.create(&folder);
            made.map_err(|error| unusable(&folder, error))?;
        }
        Ok(Self { dir })
    }

    /// Quarantines what hosts that are gone were loading when they ended; returns it.
    ///
    /// A record from before the machine's last start is dropped: what ended its host is not known.
    ///
    /// # Errors
    /// [`ErrorKind::State`].
    pub fn sweep(&self) -> Result<Vec<Entry>, Error> {
        let folder = self.dir.join("loading");
        let mut found = Vec::new();
        for path in files(&folder)? {
            let Ok(file) = File::options().read(true).write(true).open(&path) else {
                // Its load has ended meanwhile.
                continue;
            };
            // Locks of this kind end with the process that holds them, and a forked child has none.
            if fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            // A load that ended meanwhile took the name away before it let the lock go.
            let is_there = fs::metadata(&path)
                .is_ok_and(|there| file.metadata().is_ok_and(|own| own.ino() == there.ino()));
            if !is_there {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let record = name.split('.').next().and_then(|d| d.parse().ok());
            let record = record.and_then(|digest| Record::read(&path, digest));
            if let Some(record) = record
                && record.boot == boot()
            {
                let Entry { digest, .. } = record.entry;
                self.write("quarantine", &digest, &record.text())?;
                found.push(record.entry);
            }
            fs::remove_file(&path).map_err(|error| unusable(&path, error))?;
        }
        Ok(found)
    }

    /// All that is refused, by digest.
    ///
    /// # Errors
    /// [`ErrorKind::State`].
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let paths = files(&self.dir.join("quarantine"))?;
        let entries = paths.iter().filter_map(|path| {
            let digest = path.file_name()?.to_str()?.parse().ok()?;
            Record::read(path, digest).map(|record| record.entry)
        });
        let mut entries: Vec<Entry> = entries.collect();
        entries.sort_by_key(|entry| entry.digest);
        Ok(entries)
    }

    /// Lets a plugin in again; false if it was not refused.
    ///
    /// # Errors
    /// [`ErrorKind::State`].
    pub fn clear(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.dir.join("quarantine").join(digest.to_string());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(unusable(&path, error)),
        }
    }

    /// Whether this file may be loaded.
    ///
    /// # Errors
    /// [`ErrorKind::Quarantined`].
    pub(crate) fn check(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.dir.join("quarantine").join(digest.to_string());
        if !path.exists() {
            return Ok(());
        }
        let why = match Record::read(&path, *digest) {
            Some(record) => record.entry.why,
            None => "its record cannot be read".to_owned(),
        };
        let message = format!(
            "in quarantine: {why}; repair it, or let it in by plugctl quarantine clear {digest}"
        );
        Err(Error::new(ErrorKind::Quarantined, message))
    }

    /// Refuses this file from now on.
    pub(crate) fn add(&self, entry: Entry) -> Result<(), Error> {
        let digest = entry.digest;
        let boot = boot();
        self.write("quarantine", &digest, &Record { entry, boot }.text())
    }

    /// Writes down that the file is about to run code in this process.
    ///
    /// # Errors
    /// [`ErrorKind::State`].
    pub(crate) fn begin(&self, digest: Digest, plugin: &str, path: &str) -> Result<Loading, Error> {
        let pid = task::process();
        let entry = Entry {
            digest,
            plugin: plugin.to_owned(),
            path: path.to_owned(),
            why: format!("process {pid} ended while it was loading it"),
        };
        let boot = boot();
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{digest}.{pid}.{n}");
        let path = self.dir.join("loading").join(name);
        // Locked before it has its name, so that nobody finds it without.
        let file = self.place(&path, &Record { entry, boot }.text())?;
        Ok(Loading { path, _file: file })
    }

    /// What a probe said of this file that found nothing wrong.
    pub(crate) fn probed(&self, digest: &Digest) -> Option<String> {
        read(&self.dir.join("probed").join(probed(digest)))
    }

    /// Keeps what a probe said.
    pub(crate) fn keep_probed(&self, digest: &Digest, text: &str) -> Result<(), Error> {
        let path = self.dir.join("probed").join(probed(digest));
        self.place(&path, text).map(drop)
    }

    fn write(&self, folder: &str, digest: &Digest, text: &str) -> Result<(), Error> {
        let path = self.dir.join(folder).join(digest.to_string());
        self.place(&path, text).map(drop)
    }

    /// Makes a file that has its name only when it is whole; locked.
    fn place(&self, path: &Path, text: &str) -> Result<File, Error> {
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let partial = self.dir.join(format!(".{}.{n}", task::process()));
        let make = || {
            let mut file = File::create(&partial)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            // A file system without locks: a sweep finds the record while its host lives.
            if let Err(error) = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                tracing::debug!(target: "plug::quarantine", %error, "record not locked");
            }
            file.write_all(text.as_bytes())?;
            fs::rename(&partial, path)?;
            Ok(file)
        };
        make().map_err(|error| {
            // What is left of it is nobody's.
            let _removed = fs::remove_file(&partial);
            unusable(path, error)
        })
    }
}

/// A record as it is written: `key value` lines.
struct Record {
    entry: Entry,
    boot: String,
}

impl Record {
    fn text(&self) -> String {
        let line = |text: &str| text.replace(char::is_control, " ");
        format!(
            "plugin {}\npath {}\nwhy {}\nboot {}\n",
            line(&self.entry.plugin),
            line(&self.entry.path),
            line(&self.entry.why),
            self.boot
        )
    }

    fn read(path: &Path, digest: Digest) -> Option<Self> {
        let text = read(path)?;
        let value = |key: &str| {
            let lines = text.lines().filter_map(|line| line.split_once(' '));
            let mut values = lines.filter(|(found, _)| *found == key);
            values.next().map(|(_, value)| value.to_owned())
        };
        Some(Self {
            entry: Entry {
                digest,
                plugin: value("plugin")?,
                path: value("path")?,
                why: value("why")?,
            },
            boot: value("boot")?,
        })
    }
}

/// A small file's text.
fn read(path: &Path) -> Option<String> {
    let is_small = fs::metadata(path).ok()?.len() <= MAX_RECORD;
    fs::read_to_string(path).ok().filter(|_| is_small)
}

/// Another version of the loader has its own probes made.
fn probed(digest: &Digest) -> String {
    format!("{digest}.{}", env!("CARGO_PKG_VERSION"))
}

fn boot() -> String {
    let boot = fs::read_to_string(BOOT).unwrap_or_default();
    boot.trim().to_owned()
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(|error| unusable(folder, error))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn unusable(path: &Path, error: io::Error) -> Error {
    let message = format!("state folder: {}: {error}", path.display());
    Error::new(ErrorKind::State, message).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_living_loads_stay_and_those_of_other_boots_are_dropped() {
        let dir = std::env::temp_dir().join(format!("plug-quarantine-{}", task::process()));
        let quarantine = Quarantine::open(&dir).unwrap();
        let digest = Digest::of(b"plugin");
        let loading = quarantine.begin(digest, "name", "/a\nb").unwrap();
        assert_eq!(files(&dir.join("loading")).unwrap().len(), 1);
        drop(loading);
        assert_eq!(files(&dir.join("loading")).unwrap().len(), 0);

        let left = |boot: &str, n: u32| {
            let entry = Entry {
                digest,
                plugin: "name".into(),
                path: "/a\nb".into(),
                why: "it did".into(),
            };
            let boot = boot.to_owned();
            let path = dir.join(format!("loading/{digest}.1.{n}"));
            fs::write(path, Record { entry, boot }.text()).unwrap();
        };
        left("another", 0);
        assert_eq!(quarantine.sweep().unwrap(), []);
        left(&boot(), 1);
        let swept = quarantine.sweep().unwrap();
        assert_eq!(swept.len(), 1);
        assert_eq!(quarantine.list().unwrap(), swept);
        assert_eq!(swept[0].path, "/a b");
        assert!(quarantine.check(&digest).is_err());
        assert!(quarantine.clear(&digest).unwrap());
        assert!(!quarantine.clear(&digest).unwrap());
        quarantine.check(&digest).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
