//! Starting another program, by `posix_spawn`: no copy of this process's memory is made and none of
//! its locks can be found held, however large it is and whatever its threads are doing.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Pid;

/// A list of what the new process does with its descriptors; freed when dropped.
struct Actions(libc::posix_spawn_file_actions_t);

/// How the new process begins; freed when dropped.
struct Attributes(libc::posix_spawnattr_t);

fn check(status: c_int) -> io::Result<()> {
    match status {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: there is room for it.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: initialised, as it did not fail.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    /// Opens `path` as `fd`.
    fn open(&mut self, fd: c_int, path: &CStr, flags: c_int) -> io::Result<()> {
        let (actions, path) = (&raw mut self.0, path.as_ptr());
        // SAFETY: initialised in new(); the path is copied.
        check(unsafe { libc::posix_spawn_file_actions_addopen(actions, fd, path, flags, 0) })
    }

    fn duplicate(&mut self, from: c_int, to: c_int) -> io::Result<()> {
        // SAFETY: initialised in new().
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }

    /// Closes `first` and all above.
    fn close_from(&mut self, first: c_int) -> io::Result<()> {
        // SAFETY: initialised in new().
        check(unsafe { libc::posix_spawn_file_actions_addclosefrom_np(&raw mut self.0, first) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in new(), and not used any more.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

impl Attributes {
    /// A process group of its own, no signal blocked, and none of this process's handlers or
    /// ignored signals.
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: there is room for it.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: initialised, as it did not fail.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let own = &raw mut attributes.0;
        let mut none = MaybeUninit::uninit();
        // SAFETY: there is room for a set.
        unsafe { libc::sigemptyset(none.as_mut_ptr()) };
        let mut all = MaybeUninit::uninit();
        // SAFETY: there is room for a set.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: initialised above, both.
        check(unsafe { libc::posix_spawnattr_setsigmask(own, none.as_ptr()) })?;
        // SAFETY: initialised above, both.
        check(unsafe { libc::posix_spawnattr_setsigdefault(own, all.as_ptr()) })?;
        // SAFETY: initialised above.
        check(unsafe { libc::posix_spawnattr_setpgroup(own, 0) })?;
        let flags = libc::POSIX_SPAWN_SETPGROUP
            | libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: initialised above.
        check(unsafe { libc::posix_spawnattr_setflags(own, flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in new(), and not used any more.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

fn pointers(texts: &[CString]) -> Vec<*mut c_char> {
    let texts = texts.iter().map(|text| text.as_ptr().cast_mut());
    texts.chain([ptr::null_mut()]).collect()
}

/// Starts `program` in a process group of its own. It gets `/dev/null` as its standard streams,
/// `descriptors` from 3 on, and no other descriptor of this process's.
///
/// # Errors
/// The operating system's: the program is not there, or no process could be made.
///
/// # Source
/// `__spawni_child` in sysdeps/unix/sysv/linux/spawni.c: failures up to and with `exec` are told.
pub(crate) fn spawn(
    program: &CStr,
    arguments: &[CString],
    environment: &[CString],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<Pid> {
    const FIRST: c_int = 3;
    let above = FIRST.saturating_add(c_int::try_from(descriptors.len()).unwrap_or(c_int::MAX));
    // Above where they go, so that none is overwritten before it is copied.
    let copies = descriptors
        .iter()
        .map(|fd| fcntl_dupfd_cloexec(fd, above))
        .collect::<Result<Vec<OwnedFd>, _>>()?;
    let mut actions = Actions::new()?;
    actions.open(0, c"/dev/null", libc::O_RDONLY)?;
    actions.open(1, c"/dev/null", libc::O_WRONLY)?;
    actions.duplicate(1, 2)?;
    for (to, copy) in (FIRST..above).zip(&copies) {
        actions.duplicate(copy.as_raw_fd(), to)?;
    }
    actions.close_from(above)?;
    let attributes = Attributes::new()?;
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let mut pid = 0;
    // SAFETY: all are initialised, the arrays end in null, and nothing is kept after the call.
    let status = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    check(status)?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("posix_spawn gave no process"))
}
