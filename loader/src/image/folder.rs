//! The process's private folder in which staged copies get their names.
//!
//! Thread context. A name is used once and never again, since ld.so takes a known name for the
//! known file, whatever has become of it. Folders that dead processes left are swept at first use.

#![forbid(unsafe_code)]

use std::collections::hash_map::RandomState;
use std::env;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat,
    readlink, statat, unlinkat,
};
use rustix::io::{Errno, Result};
use rustix::process::{geteuid, getpid};

use crate::deadline::{Deadline, lock_until};

/// A private folder, held open and locked while this process lives.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
    /// Who made it: after a fork the child makes its own.
    pid: String,
}

/// What a folder is for, and with it where it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Names of copies in memory: links alone, wherever they are made fastest.
    Links,
    /// Copies themselves, which are executed from where they are: not in memory that containers
    /// like to mount without that right.
    Copies,
}

/// The current folders, each made at first use. Lock order: leaves, held during a few system calls.
static FOLDERS: [Mutex<Option<Arc<Folder>>>; 2] = [Mutex::new(None), Mutex::new(None)];

impl Purpose {
    fn folder(self) -> &'static Mutex<Option<Arc<Folder>>> {
        let [links, copies] = &FOLDERS;
        match self {
            Self::Links => links,
            Self::Copies => copies,
        }
    }

    /// Where the folder may be, the best place first.
    fn places(self) -> impl Iterator<Item = PathBuf> {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let memory = (self == Self::Links).then(|| PathBuf::from("/dev/shm"));
        let runtime = runtime.filter(|path| path.is_absolute());
        let places = runtime.into_iter().chain(memory);
        places.chain([PathBuf::from("/tmp")])
    }
}

/// Numbers given out by [`next_nonce`]. Writers and readers: every thread that loads.
static NONCE: AtomicU64 = AtomicU64::new(0);

/// Keeps everybody from the folders' names, for a fork.
pub(crate) fn hold_stage_folders(deadline: Deadline) -> Option<impl Sized> {
    let held = FOLDERS.iter().map(|folder| lock_until(folder, deadline));
    held.collect::<Option<Vec<_>>>()
}

/// A number that this process never gets again: names of copies are made of it.
pub fn next_nonce() -> u64 {
    // Relaxed: only that each caller gets another number counts, and nothing rides on it.
    NONCE.fetch_add(1, Ordering::Relaxed)
}

/// Removes this process's folders with all names in them; for the end of a process.
///
/// What is loaded stays loaded, but debuggers no longer find it by name. A later load makes a new
/// folder.
///
/// # Errors
/// What the system says to removing it.
pub fn remove_stage_folder() -> io::Result<()> {
    let mut removed = Ok(());
    for folder in &FOLDERS {
        let taken = folder.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(folder) = taken.filter(|folder| folder.pid == own_pid()) {
            removed = removed.and(folder.remove());
        }
    }
    removed
}

/// The process's number as `/proc` has it, which in a PID namespace may not be `getpid`'s.
pub(super) fn proc_pid() -> Option<String> {
    let pid = readlink("/proc/self", Vec::new())
        .ok()?
        .into_string()
        .ok()?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then_some(pid)
}

fn own_pid() -> String {
    proc_pid().unwrap_or_else(|| getpid().as_raw_nonzero().to_string())
}

impl Folder {
    /// This process's folder, made if there is none or if it has been removed.
    pub(super) fn get(purpose: Purpose) -> io::Result<Arc<Self>> {
        let mut current = purpose
            .folder()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let pid = own_pid();
        if let Some(folder) = &*current
            && folder.pid == pid
            && statat(CWD, &folder.path, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|there| fstat(&folder.fd).is_ok_and(|own| own.st_ino == there.st_ino))
        {
            return Ok(Arc::clone(folder));
        }
        let folder = Arc::new(Self::create(purpose, pid)?);
        *current = Some(Arc::clone(&folder));
        Ok(folder)
    }

    fn create(purpose: Purpose, pid: String) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for base in purpose.places() {
            sweep(&base);
            match Self::create_in(&base, &pid) {
                Ok(folder) => return Ok(folder),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn create_in(base: &Path, pid: &str) -> io::Result<Self> {
        let nonce = RandomState::new().build_hasher().finish();
        let path = base.join(format!("plug-{pid}-{nonce:016x}"));
        mkdirat(CWD, &path, Mode::RWXU)?;
        let fd = open_folder(&path)?;
        let stat = fstat(&fd)?;
        if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(io::Error::other("the new stage folder is not private"));
        }
        // The lock tells sweepers in other PID namespaces that somebody lives here. A file system
        // without locks leaves them the PID.
        if let Err(error) = flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            tracing::debug!(target: "loader::stage", %error, "stage folder not locked");
        }
        Ok(Self {
            path,
            fd,
            pid: pid.to_owned(),
        })
    }

    fn remove(&self) -> io::Result<()> {
        empty(&self.fd)?;
        Ok(unlinkat(CWD, &self.path, AtFlags::REMOVEDIR)?)
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

/// Removes the files and links in a folder; it has no folders in it.
fn empty(folder: &OwnedFd) -> Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            unlinkat(folder, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(())
}

/// Removes the folders that dead processes of this user left in `base`. Best effort.
fn sweep(base: &Path) {
    if proc_pid().is_none() {
        return;
    }
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(pid_of).is_some_and(is_dead) {
            sweep_one(&entry.path());
        }
    }
}

fn sweep_one(path: &Path) {
    let is_own = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && stat.st_uid == geteuid().as_raw()
    });
    if !is_own {
        return;
    }
    let Ok(folder) = open_folder(path) else {
        return;
    };
    if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    let removed = empty(&folder).and_then(|()| unlinkat(CWD, path, AtFlags::REMOVEDIR));
    tracing::debug!(target: "loader::stage", ?path, ?removed, "swept a dead process's folder");
}

fn is_dead(pid: u32) -> bool {
    let proc = format!("/proc/{pid}");
    statat(CWD, proc, AtFlags::empty()).is_err_and(|error| error == Errno::NOENT)
}

/// The PID in a folder's name, if it is one of ours.
fn pid_of(name: &str) -> Option<u32> {
    let (pid, nonce) = name.strip_prefix("plug-")?.split_once('-')?;
    let is_nonce = nonce.len() == 16 && nonce.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_nonce { pid.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_of_reads_only_own_names() {
        assert_eq!(pid_of("plug-42-0123456789abcdef"), Some(42));
        for other in [
            "plug-42",
            "plug-42-01",
            "plugin-42-0123456789abcdef",
            "plug-x-0123456789abcdef",
        ] {
            assert_eq!(pid_of(other), None, "{other}");
        }
    }

    #[test]
    fn sweep_removes_folders_of_the_dead_only() {
        let base = env::temp_dir().join(format!("plug-sweep-test-{}", own_pid()));
        // No PID is that high: the kernel's limit is 2^22.
        let dead = base.join("plug-4194999-0123456789abcdef");
        let alive = base.join(format!("plug-{}-0123456789abcdef", own_pid()));
        let other = base.join("plug-4194999-other");
        for folder in [&dead, &alive, &other] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("link.so"), b"").unwrap();
        }
        sweep(&base);
        assert!(!dead.exists());
        assert!(alive.exists() && other.exists());
        fs::remove_dir_all(base).unwrap();
    }
}
