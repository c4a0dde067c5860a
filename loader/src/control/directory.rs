//! Where sockets lie: a folder that only this user can enter.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, mkdir, open, stat};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};

use super::socket;

/// The folders in which sockets of this user's hosts may lie, the first one being where a host
/// started with this environment puts its own.
///
/// `$XDG_RUNTIME_DIR/plug` and `/run/user/UID/plug`, each where the folder above it exists and
/// belongs to this user, and `/tmp/plug-UID`.
#[must_use]
pub fn directories() -> Vec<PathBuf> {
    let uid = geteuid().as_raw();
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let mut found: Vec<PathBuf> = runtime
        .into_iter()
        .chain([PathBuf::from(format!("/run/user/{uid}"))])
        .filter(|base| base.is_absolute() && is_own(base))
        .map(|base| base.join("plug"))
        .collect();
    found.push(PathBuf::from(format!("/tmp/plug-{uid}")));
    found.dedup();
    found
}

fn is_own(path: &Path) -> bool {
    stat(path).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && stat.st_uid == geteuid().as_raw()
    })
}

/// Makes the first of the folders where there is none, and checks it.
///
/// # Errors
/// In words, with the remedy.
pub(super) fn prepare() -> Result<PathBuf, String> {
    let path = directories().into_iter().next().unwrap_or_default();
    make(&path)?;
    Ok(path)
}

fn make(path: &Path) -> Result<(), String> {
    match mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(format!("{path:?}: {error}")),
    }
    // O_NOFOLLOW: what is checked is what is there, not what a link of somebody's points to.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty())
        .map_err(|error| format!("{path:?}: expected a folder, found none: {error}"))?;
    let stat = fstat(&folder).map_err(|error| format!("{path:?}: {error}"))?;
    let (uid, mode) = (stat.st_uid, stat.st_mode & 0o777);
    let own = geteuid().as_raw();
    if uid != own {
        return Err(format!(
            "{path:?}: expected owner {own}, found {uid}; remove it or choose a socket yourself"
        ));
    }
    if mode != 0o700 {
        return Err(format!(
            "{path:?}: expected mode 0700, found {mode:04o}; change it or choose a socket yourself"
        ));
    }
    Ok(())
}

/// Removes sockets of processes that are gone.
///
/// One whose process is not seen but that somebody listens on stays: it may belong to another
/// namespace of processes.
pub(super) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let Some(pid) = pid_of(&entry.file_name()) else {
            continue;
        };
        let dead = test_kill_process(pid) == Err(Errno::SRCH);
        if dead && socket::is_deserted(&entry.path()) {
            remove(&entry.path());
        }
    }
}

/// Removes a socket; that somebody else did is as good.
pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::debug!(target: "plug::control", path = %path.display(), %error, "socket stays");
        }
    }
}

/// The process that a socket named `NAME.PID.sock` belongs to.
fn pid_of(name: &OsStr) -> Option<Pid> {
    let (_, pid) = name.to_str()?.strip_suffix(".sock")?.rsplit_once('.')?;
    Pid::from_raw(pid.parse().ok().filter(|pid| *pid > 0)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn pid_of_reads_own_names_only() {
        let pid = |name: &str| pid_of(OsStr::new(name)).map(|pid| pid.as_raw_nonzero().get());
        assert_eq!(pid("host.42.sock"), Some(42));
        assert_eq!(pid("a.b.42.sock"), Some(42));
        for name in [
            "host.sock",
            "host.-1.sock",
            "host.0.sock",
            "host.x.sock",
            "host.42",
        ] {
            assert_eq!(pid(name), None, "{name}");
        }
    }

    #[test]
    fn make_refuses_links_and_open_folders() {
        let base = env::temp_dir().join(format!("plug-control-test-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let folder = base.join("plug");
        make(&folder).unwrap();
        make(&folder).unwrap();
        let link = base.join("link");
        symlink(&folder, &link).unwrap();
        assert!(make(&link).unwrap_err().contains("expected a folder"));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(
            make(&folder)
                .unwrap_err()
                .contains("expected mode 0700, found 0755")
        );
        assert!(
            make(&base.join("a/b"))
                .unwrap_err()
                .contains("No such file")
        );
        fs::remove_dir_all(&base).unwrap();
    }
}
