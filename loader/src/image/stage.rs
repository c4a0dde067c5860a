//! A private, sealed copy of a plugin's file under a name that never comes again.
//!
//! Thread context. The file is opened once and read once; from then on only the copy counts, so
//! nobody can swap or overwrite what was checked. Nothing of the plugin runs here.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, MemfdFlags, Mode, OFlags, SealFlags, Stat, fchmod, fcntl_add_seals, fstat,
    linkat, memfd_create, open, openat, readlink, sendfile, stat, statat, symlinkat, unlinkat,
};
use rustix::io::{Errno, Result as SysResult, pread, pwrite};

use super::bytes::Bytes;
use super::error::ImageError;
use super::folder::{Folder, Purpose, next_nonce, proc_pid};
use super::info::is_name;
use super::origin::{self, Stamp};
use super::rewrite::Edit;
use crate::sys::clock;
use crate::sys::mapping::Mapping;

/// Largest file that is staged by default: no plugin comes near, and a copy costs memory.
pub const DEFAULT_MAX_SIZE: u64 = 4 << 30;

/// Which file it is, whatever its names. Known before anything is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// The device.
    pub dev: u64,
    /// The inode on it.
    pub ino: u64,
}

impl FileKey {
    /// That of the file that a path leads to; none where there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        stat(path).ok().map(|found| key(&found))
    }
}

/// Where a private copy lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backing {
    /// In sealed memory: nobody can change it, this process included.
    Memory,
    /// In a file of the private folder: only this user's processes can change it.
    File,
}

/// A plugin's file, opened and identified. Nothing has been read yet.
#[derive(Debug)]
pub struct Opened {
    file: OwnedFd,
    path: PathBuf,
    /// Whether it was opened by that path.
    is_named: bool,
    stat: Stat,
    /// Of what it is a copy, if it is one.
    original: Option<Original>,
}

/// The file of which another one is a copy: what the copy's bytes do not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Original {
    /// As [`Opened::key`].
    pub(crate) key: FileKey,
    /// As [`Opened::folder`].
    pub(crate) folder: Option<PathBuf>,
    /// As [`Opened::location`].
    pub(crate) location: Option<PathBuf>,
}

impl Opened {
    /// Opens the regular file at `path`, up to [`DEFAULT_MAX_SIZE`].
    ///
    /// # Errors
    /// [`ImageError::Read`], [`ImageError::NotRegular`], [`ImageError::TooLarge`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImageError> {
        Self::open_limited(path.as_ref(), DEFAULT_MAX_SIZE)
    }

    /// Opens the regular file at `path`, up to `limit` bytes.
    ///
    /// # Errors
    /// As [`Opened::open`].
    pub fn open_limited(path: &Path, limit: u64) -> Result<Self, ImageError> {
        // NONBLOCK, so that a pipe at that path does not hold the caller.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open(path, flags, Mode::empty()).map_err(|error| ImageError::Read {
            path: path.to_owned(),
            source: error.into(),
        })?;
        Self::identify(file, path.to_owned(), limit, true)
    }

    /// Takes over a descriptor that somebody else opened for reading; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Opened::open`].
    pub fn from_fd(
        file: OwnedFd,
        path: impl Into<PathBuf>,
        limit: u64,
    ) -> Result<Self, ImageError> {
        Self::identify(file, path.into(), limit, false)
    }

    /// Takes over a descriptor of a copy that somebody made of `original`: whatever depends on where
    /// the file lies is told of that.
    ///
    /// # Errors
    /// As [`Opened::open`].
    pub(crate) fn copy_of(
        original: Original,
        file: OwnedFd,
        path: PathBuf,
        limit: u64,
    ) -> Result<Self, ImageError> {
        let mut opened = Self::identify(file, path, limit, false)?;
        opened.original = Some(original);
        Ok(opened)
    }

    /// What somebody who loads a copy must know of this file.
    pub(crate) fn original(&self) -> Original {
        Original {
            key: self.key(),
            folder: self.folder(),
            location: self.location(),
        }
    }

    fn identify(
        file: OwnedFd,
        path: PathBuf,
        limit: u64,
        is_named: bool,
    ) -> Result<Self, ImageError> {
        let stat = match fstat(&file) {
            Ok(stat) => stat,
            Err(error) => {
                return Err(ImageError::Read {
                    path,
                    source: error.into(),
                });
            }
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ImageError::NotRegular { path });
        }
        let size = size(&stat);
        if size > limit {
            return Err(ImageError::TooLarge { path, size, limit });
        }
        Ok(Self {
            file,
            path,
            is_named,
            stat,
            original: None,
        })
    }

    /// Which file it is.
    pub fn key(&self) -> FileKey {
        let original = self.original.as_ref();
        original.map_or_else(|| key(&self.stat), |original| original.key)
    }

    /// Its size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        size(&self.stat)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that the file lies in, as it was named; for a file that was opened by somebody
    /// else, as the kernel names it. None for one that lies nowhere.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        if let Some(original) = &self.original {
            return original.folder.clone();
        }
        let path = if self.is_named {
            absolute(&self.path).ok()?
        } else {
            let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let path = PathBuf::from(OsString::from_vec(
                readlink(link, Vec::new()).ok()?.into_bytes(),
            ));
            // The kernel adds a word to the name of a file that was removed.
            let there = stat(&path).ok()?;
            (key(&there) == self.key()).then_some(path)?
        };
        path.parent().map(Path::to_owned)
    }

    /// Where it lies, without symbolic links; none for one that has no name any more.
    pub fn location(&self) -> Option<PathBuf> {
        if let Some(original) = &self.original {
            return original.location.clone();
        }
        origin::location(self.file.as_fd())
    }

    /// Which version of the file it was when it was opened.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::of(&self.stat)
    }

    /// Copies the file into sealed memory, or where there is none into the private folder.
    ///
    /// `name` is what `/proc/self/maps` shows.
    ///
    /// # Errors
    /// [`ImageError::Changed`] if the file changed meanwhile, else what the system says.
    pub fn stage(&self, name: &str) -> Result<Staged, ImageError> {
        match create_memory(name) {
            Ok(file) => self.fill(file, None),
            Err(error) => {
                tracing::debug!(target: "loader::stage", %error, "no memfd, staging in a file");
                self.stage_in(name, Backing::File)
            }
        }
    }

    /// Copies the file into this backing and no other.
    ///
    /// # Errors
    /// As [`Opened::stage`].
    pub fn stage_in(&self, name: &str, backing: Backing) -> Result<Staged, ImageError> {
        match backing {
            Backing::Memory => {
                let file = create_memory(name)
                    .map_err(|error| ImageError::stage("create a memfd", error))?;
                self.fill(file, None)
            }
            Backing::File => {
                let (file, entry) = create_file()?;
                self.fill(file, Some(entry))
            }
        }
    }

    fn fill(&self, file: OwnedFd, entry: Option<Entry>) -> Result<Staged, ImageError> {
        let size = self.size();
        let copied = copy(self.file.as_fd(), file.as_fd(), size).map_err(|error| match error {
            Fault::Read(source) => ImageError::Read {
                path: self.path.clone(),
                source,
            },
            Fault::Write(source) => ImageError::stage("write the staged copy", source),
        })?;
        let changed = |what| {
            Err(ImageError::Changed {
                path: self.path.clone(),
                what,
            })
        };
        if copied != size {
            return changed(format!("{copied} of {size} bytes are left"));
        }
        let after = fstat(&self.file).map_err(|error| ImageError::Read {
            path: self.path.clone(),
            source: error.into(),
        })?;
        if self::size(&after) != size {
            return changed(format!(
                "it grew to {} from {size} bytes",
                self::size(&after)
            ));
        }
        let written = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        if written(&after) != written(&self.stat) {
            return changed("it was written to".into());
        }
        if entry.is_none() {
            // Before it is mapped: bytes that cannot vanish cannot raise SIGBUS.
            fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)
                .map_err(|error| ImageError::stage("seal the size of the staged copy", error))?;
        }
        let len = usize::try_from(size).map_err(|_| ImageError::TooLarge {
            path: self.path.clone(),
            size,
            limit: u64::try_from(usize::MAX).unwrap_or(u64::MAX),
        })?;
        let bytes = Bytes::of(file.as_fd(), len)?;
        Ok(Staged {
            bytes,
            file,
            entry,
            is_sealed: false,
        })
    }
}

/// A private copy: readable as bytes, editable until it is sealed. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    /// Before `file`, so that it is unmapped first.
    bytes: Bytes,
    file: OwnedFd,
    /// The copy's name in the private folder, if it is a file there.
    entry: Option<Entry>,
    is_sealed: bool,
}

impl Staged {
    /// The bytes of the copy, edits included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the copy lies.
    pub fn backing(&self) -> Backing {
        if self.entry.is_some() {
            Backing::File
        } else {
            Backing::Memory
        }
    }

    /// Which file the copy is: what `/proc/self/maps` shows once it is loaded.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn key(&self) -> Result<FileKey, ImageError> {
        fstat(&self.file)
            .map(|stat| key(&stat))
            .map_err(|error| ImageError::stage("look at the staged copy", error))
    }

    /// Applies the edits.
    ///
    /// # Errors
    /// [`ImageError::Edit`] for one outside of the copy, before any is applied, or after the seal.
    pub fn edit(&mut self, edits: &[Edit]) -> Result<(), ImageError> {
        for Edit {
            offset,
            bytes,
            what,
            ..
        } in edits
        {
            let end = usize::try_from(*offset)
                .ok()
                .and_then(|at| at.checked_add(bytes.len()));
            if self.is_sealed || end.is_none_or(|end| end > self.bytes.len()) {
                let what = format!("outside of it or sealed ({what})");
                return Err(ImageError::Edit { what });
            }
        }
        // Most edits lie side by side in the dynamic section: what is near is written at once.
        const NEAR: usize = 512;
        let mut left = edits;
        while let Some(first) = left.first() {
            let mut patch = first.bytes.clone();
            let mut n = 1;
            while let Some(next) = left.get(n)
                && let Some(gap) = self.between(first, patch.len(), next, NEAR)
            {
                patch.extend_from_slice(gap);
                patch.extend_from_slice(&next.bytes);
                n += 1;
            }
            write_all(self.file.as_fd(), &patch, first.offset)
                .map_err(|error| ImageError::stage("edit the staged copy", error))?;
            self.bytes.edit(first.offset, &patch);
            left = left.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    /// The bytes between the first `len` ones of `edit` and the one at `next`, if they are few.
    fn between(&self, edit: &Edit, len: usize, next: &Edit, most: usize) -> Option<&[u8]> {
        let end = usize::try_from(edit.offset).ok()?.checked_add(len)?;
        let next = usize::try_from(next.offset).ok()?;
        let gap = self.bytes.get(end..next)?;
        (gap.len() <= most).then_some(gap)
    }

    /// Makes the copy unchangeable, for this process too; a copy in a file, merely read-only.
    ///
    /// # Errors
    /// What the system says.
    pub fn seal(&mut self) -> Result<(), ImageError> {
        if self.is_sealed {
            return Ok(());
        }
        let sealed = match self.entry {
            None => {
                let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
                add_seals(self.file.as_fd(), all)
            }
            Some(_) => fchmod(&self.file, Mode::RUSR | Mode::XUSR),
        };
        sealed.map_err(|error| ImageError::stage("seal the staged copy", error))?;
        self.is_sealed = true;
        Ok(())
    }

    /// Seals the copy if need be and gives it a path that no other load has had or will have.
    ///
    /// The bytes are given up: what is still needed of them has been read before.
    ///
    /// # Errors
    /// What the system says; `EEXIST` if somebody else made the name in this process's folder.
    pub fn link(self, name: &str, build_id: Option<&[u8]>) -> Result<StageLink, ImageError> {
        self.link_and_keep(name, build_id).map(|(link, _)| link)
    }

    /// As [`Staged::link`], with the bytes.
    ///
    /// # Errors
    /// As [`Staged::link`].
    pub(crate) fn link_and_keep(
        mut self,
        name: &str,
        build_id: Option<&[u8]>,
    ) -> Result<(StageLink, Bytes), ImageError> {
        self.seal()?;
        let Self {
            bytes, file, entry, ..
        } = self;
        let link_name = link_name(name, build_id);
        let backing = if entry.is_some() {
            Backing::File
        } else {
            Backing::Memory
        };
        if let Some(entry) = entry {
            let link = StageLink::of_file(file, &entry, link_name)?;
            return Ok((link, bytes));
        }
        let folder = Folder::get(Purpose::Links);
        let folder = folder.map_err(|error| ImageError::stage(MAKE_FOLDER, error))?;
        let link = match link_memory(&file, &folder, &link_name) {
            Ok(entry) => StageLink::new(file, entry, backing),
            // Somebody made our name in our own folder: not a thing to work around.
            Err(Errno::EXIST) => Err(ImageError::stage("link the staged copy", Errno::EXIST)),
            Err(error) => {
                tracing::debug!(target: "loader::stage", %error, "no /proc, copying to a file");
                let (copied, entry) = create_file()?;
                write_all(copied.as_fd(), &bytes, 0)
                    .and_then(|()| fchmod(&copied, Mode::RUSR | Mode::XUSR))
                    .map_err(|error| ImageError::stage("write the staged copy", error))?;
                StageLink::of_file(copied, &entry, link_name)
            }
        };
        Ok((link?, bytes))
    }
}

/// A sealed copy of `bytes`, which the loader made itself, under a path of its own.
///
/// # Errors
/// What the system says.
pub(crate) fn stage_made(name: &str, bytes: &[u8]) -> Result<StageLink, ImageError> {
    let written = |error| ImageError::stage("write the staged copy", error);
    let (file, entry) = match create_memory(name) {
        Ok(file) => (file, None),
        Err(_) => create_file().map(|(file, entry)| (file, Some(entry)))?,
    };
    write_all(file.as_fd(), bytes, 0).map_err(written)?;
    let staged = Staged {
        bytes: Bytes::of(file.as_fd(), bytes.len())?,
        file,
        entry,
        is_sealed: false,
    };
    staged.link(name, None)
}

/// Adds seals, waiting for those who hold a page of the copy for a moment.
///
/// The kernel refuses to seal against writing while anybody but the page cache holds a page: its
/// own batches of pages to be listed, or a scan of the memory in use. It waits 150 ms by itself.
///
/// # Source
/// `memfd_wait_for_pins` in mm/memfd.c.
fn add_seals(file: BorrowedFd<'_>, seals: SealFlags) -> Result<(), Errno> {
    /// Eight seconds in all, most of them the kernel's own waiting.
    const TRIES: u32 = 50;
    for _ in 1..TRIES {
        match fcntl_add_seals(file, seals) {
            Err(Errno::BUSY) => clock::nap(Duration::from_millis(10)),
            done => return done,
        }
    }
    fcntl_add_seals(file, seals)
}

/// The path by which ld.so opens a copy. Dropping removes the path and closes the copy: keep it
/// for as long as anything of the plugin is mapped.
#[derive(Debug)]
pub struct StageLink {
    path: CString,
    file: OwnedFd,
    /// Removes the name when dropped.
    entry: Entry,
    /// As `entry`, for the other names.
    aliases: Vec<Entry>,
    backing: Backing,
}

impl StageLink {
    fn new(file: OwnedFd, entry: Entry, backing: Backing) -> Result<Self, ImageError> {
        let path = CString::new(entry.path().into_os_string().into_vec())
            .map_err(|error| ImageError::stage("name the staged copy", error))?;
        Ok(Self {
            path,
            file,
            entry,
            aliases: Vec::new(),
            backing,
        })
    }

    fn of_file(file: OwnedFd, made: &Entry, name: String) -> Result<Self, ImageError> {
        let folder = Arc::clone(&made.folder);
        linkat(
            &made.folder.fd,
            &made.name,
            &folder.fd,
            &name,
            AtFlags::empty(),
        )
        .map_err(|error| ImageError::stage("link the staged copy", error))?;
        Self::new(file, Entry { folder, name }, Backing::File)
    }

    /// The path as `dlopen` takes it, and as `dl_iterate_phdr` then shows it.
    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// Gives the copy one more name, `alias`, in the folder of its path.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn also_as(&mut self, alias: &str) -> Result<(), ImageError> {
        let folder = Arc::clone(&self.entry.folder);
        let named = match self.backing {
            Backing::Memory => link_memory(&self.file, &folder, alias),
            Backing::File => linkat(
                &folder.fd,
                &self.entry.name,
                &folder.fd,
                alias,
                AtFlags::empty(),
            )
            .map(|()| Entry {
                folder,
                name: alias.to_owned(),
            }),
        };
        let named = named.map_err(|error| ImageError::stage("name the staged copy", error))?;
        self.aliases.push(named);
        Ok(())
    }

    /// The folder of its path, where ld.so is to look for its aliases; none where that cannot be
    /// written into a search path.
    pub(crate) fn folder(&self) -> Option<&str> {
        let folder = self.entry.folder.path.to_str()?;
        (!folder.contains(['$', ':'])).then_some(folder)
    }

    /// The path as Rust's library takes it.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.path.to_bytes()))
    }

    /// The bytes of the copy, mapped anew for as long as the result lives.
    ///
    /// # Errors
    /// What `fstat` or `mmap` says.
    pub(crate) fn bytes(&self) -> io::Result<Mapping> {
        let stat = fstat(&self.file)?;
        Mapping::of_file(self.file.as_fd(), usize::try_from(size(&stat)).unwrap_or(0))
    }

    /// Where the copy lies.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Which file the copy is: what `/proc/self/maps` shows once it is loaded.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn key(&self) -> Result<FileKey, ImageError> {
        fstat(&self.file)
            .map(|stat| key(&stat))
            .map_err(|error| ImageError::stage("look at the staged copy", error))
    }
}

impl AsFd for StageLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A name in the private folder; dropping removes it.
#[derive(Debug)]
struct Entry {
    folder: Arc<Folder>,
    name: String,
}

impl Entry {
    fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Gone already when the folder was removed at shutdown.
        if let Err(error) = unlinkat(&self.folder.fd, &self.name, AtFlags::empty())
            && error != Errno::NOENT
        {
            tracing::debug!(target: "loader::stage", %error, name = %self.name, "name not removed");
        }
    }
}

const MAKE_FOLDER: &str = "make the private stage folder";

/// `name-buildid-number.so`: people see what it is, and the number never comes again.
fn link_name(name: &str, build_id: Option<&[u8]>) -> String {
    let name = if is_name(name) { name } else { "plugin" };
    let mut id: String = build_id
        .unwrap_or_default()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if id.is_empty() {
        id.push_str("none");
    }
    format!("{name}-{id}-{}.so", next_nonce())
}

fn create_memory(name: &str) -> SysResult<OwnedFd> {
    let name = if is_name(name) { name } else { "plugin" };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know NOEXEC_SEAL; mapping code does not need the file's x bits.
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, flags),
        result => result,
    }
}

fn create_file() -> Result<(OwnedFd, Entry), ImageError> {
    let folder = Folder::get(Purpose::Copies);
    let folder = folder.map_err(|error| ImageError::stage(MAKE_FOLDER, error))?;
    let name = format!("copy-{}", next_nonce());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(&folder.fd, &name, flags, Mode::RWXU)
        .map_err(|error| ImageError::stage("create the staged copy", error))?;
    Ok((file, Entry { folder, name }))
}

/// Links to the descriptor in `/proc`, and makes sure that it leads to this very file: with a
/// `/proc` of another PID namespace it may lead to nothing or to somebody else's.
fn link_memory(file: &OwnedFd, folder: &Arc<Folder>, name: &str) -> SysResult<Entry> {
    let pid = proc_pid().ok_or(Errno::NOENT)?;
    let target = format!("/proc/{pid}/fd/{}", file.as_raw_fd());
    symlinkat(target, &folder.fd, name)?;
    let entry = Entry {
        folder: Arc::clone(folder),
        name: name.to_owned(),
    };
    let there = statat(&folder.fd, name, AtFlags::empty())?;
    if key(&there) != key(&fstat(file)?) {
        return Err(Errno::STALE);
    }
    Ok(entry)
}

enum Fault {
    Read(io::Error),
    Write(io::Error),
}

/// Copies up to `size` bytes from the start of one file to that of the other; returns how many
/// there were.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<u64, Fault> {
    let mut done = 0u64;
    while done < size {
        let want = usize::try_from(size.saturating_sub(done))
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match sendfile(to, from, Some(&mut done), want) {
            Ok(0) => return Ok(done),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::INVAL | Errno::NOSYS) => return copy_through(from, to, done, size),
            Err(error) => return Err(Fault::Read(error.into())),
        }
    }
    Ok(done)
}

/// Copies the rest through a buffer, for file systems without `sendfile`.
fn copy_through(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut done: u64,
    size: u64,
) -> Result<u64, Fault> {
    let mut buffer = vec![0u8; 256 * 1024];
    while done < size {
        let n = match pread(from, buffer.as_mut_slice(), done) {
            Ok(0) => break,
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(Fault::Read(error.into())),
        };
        let left = usize::try_from(size.saturating_sub(done)).unwrap_or(usize::MAX);
        let part = buffer.get(..n.min(left)).unwrap_or_default();
        write_all(to, part, done).map_err(|error| Fault::Write(error.into()))?;
        done = done.saturating_add(u64::try_from(part.len()).unwrap_or(0));
    }
    Ok(done)
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> SysResult<()> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                at = at.saturating_add(u64::try_from(n).unwrap_or(0));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn key(stat: &Stat) -> FileKey {
    FileKey {
        dev: stat.st_dev,
        ino: stat.st_ino,
    }
}

/// Sizes of regular files are never negative.
fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_name_shows_name_and_build_id_and_never_repeats() {
        let first = link_name("codec", Some(&[0xab, 1, 2, 3, 4]));
        assert!(
            first.starts_with("codec-ab010203-") && first.ends_with(".so"),
            "{first}"
        );
        assert_ne!(first, link_name("codec", Some(&[0xab, 1, 2, 3, 4])));
        assert!(link_name("../x", None).starts_with("plugin-none-"));
    }
}
