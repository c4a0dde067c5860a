//! Everybody else who turns addresses into symbols and names into addresses.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::path::Path;
use std::ptr;

use blazesym::Pid;
use blazesym::symbolize::source::{Elf, Process, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer, cache};

#[repr(C)]
struct FoundObject {
    flags: u64,
    start: *mut c_void,
    end: *mut c_void,
    link_map: *mut c_void,
    eh_frame: *mut c_void,
    reserved: [u64; 7],
}

unsafe extern "C" {
    fn _dl_find_object(address: *mut c_void, result: *mut FoundObject) -> c_int;
}

/// Address to object, no symbol.
#[inline]
pub fn find_object(address: usize) -> Option<usize> {
    let mut found = MaybeUninit::<FoundObject>::uninit();
    // SAFETY: there is room for a result.
    let failed = unsafe { _dl_find_object(address as *mut c_void, found.as_mut_ptr()) };
    if failed != 0 {
        return None;
    }
    // SAFETY: success means that it was written.
    Some(unsafe { found.assume_init_ref() }.start as usize)
}

/// Path of the object and start of the symbol.
#[inline]
#[expect(clippy::disallowed_methods, reason = "what is compared with")]
pub fn dladdr(address: usize) -> Option<(*const c_char, usize)> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: there is room for a result.
    let found = unsafe { libc::dladdr(address as *const c_void, info.as_mut_ptr()) };
    if found == 0 {
        return None;
    }
    // SAFETY: other than 0 means that it was written.
    let info = unsafe { info.assume_init_ref() };
    Some((info.dli_fname, info.dli_saddr as usize))
}

/// Length of the name that backtrace-rs gives to an address; 0 where it has none.
pub fn backtrace(address: usize) -> usize {
    let mut len = 0;
    // It takes return addresses, which lie behind the call.
    let after = address.wrapping_add(1) as *mut c_void;
    ::backtrace::resolve(after, |symbol| {
        len = symbol.name().map_or(0, |name| name.as_bytes().len());
    });
    len
}

/// blazesym on the running process or on one file.
pub struct Blazesym {
    symbolizer: Symbolizer,
    source: Source<'static>,
}

impl Blazesym {
    fn symbolizer() -> Symbolizer {
        Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_code_info(false)
            .enable_inlined_fns(false)
            .enable_demangling(false)
            .build()
    }

    /// Takes addresses of this process; its mappings are read once, here.
    pub fn process() -> Result<Self, String> {
        let symbolizer = Self::symbolizer();
        let cache = cache::Process::new(Pid::Slf);
        symbolizer
            .cache(&cache::Cache::from(cache))
            .map_err(|error| error.to_string())?;
        let mut process = Process::new(Pid::Slf);
        process.debug_syms = false;
        process.perf_map = false;
        Ok(Self {
            symbolizer,
            source: Source::Process(process),
        })
    }

    /// Takes link-time addresses of the file at `path`.
    pub fn file(path: &Path) -> Self {
        let mut elf = Elf::new(path);
        elf.debug_syms = false;
        Self {
            symbolizer: Self::symbolizer(),
            source: Source::Elf(elf),
        }
    }

    /// Length of the name.
    pub fn name_of(&self, address: usize) -> Result<usize, String> {
        let address = address as u64;
        let input = match &self.source {
            Source::Elf(_) => Input::VirtOffset(address),
            _ => Input::AbsAddr(address),
        };
        match self.symbolizer.symbolize_single(&self.source, input) {
            Ok(Symbolized::Sym(symbol)) => Ok(symbol.name.len()),
            Ok(Symbolized::Unknown(reason)) => Err(reason.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The number at the address or the last one before it.
#[inline]
pub fn search(table: &[(u64, u32)], address: u64) -> Option<u32> {
    let after = table.partition_point(|entry| entry.0 <= address);
    Some(table.get(after.checked_sub(1)?)?.1)
}

/// A handle of ld.so's; closed when dropped.
pub struct Handle(*mut c_void);

// SAFETY: ld.so takes handles from any thread.
unsafe impl Sync for Handle {}

impl Handle {
    /// Opens the library at `path`.
    pub fn open(path: &CStr) -> Result<Self, String> {
        Self::with(path, libc::RTLD_NOW | libc::RTLD_LOCAL)
    }

    /// That of the object around `address`, which is loaded already.
    pub fn around(address: usize) -> Result<Self, String> {
        let (path, _) = dladdr(address).ok_or("no object there")?;
        // SAFETY: dladdr gives a string that stays as long as the object.
        let path = unsafe { CStr::from_ptr(path) };
        Self::with(path, libc::RTLD_NOW | libc::RTLD_NOLOAD)
    }

    fn with(path: &CStr, flags: c_int) -> Result<Self, String> {
        // SAFETY: the libraries are ours; their constructors are the compiler's.
        let handle = unsafe { libc::dlopen(path.as_ptr(), flags) };
        if handle.is_null() {
            return Err(format!("dlopen refuses {path:?}"));
        }
        Ok(Self(handle))
    }

    #[inline]
    pub fn symbol(&self, name: &CStr) -> Option<usize> {
        // SAFETY: the handle is open.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address as usize)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: opened by this value and closed once.
        unsafe { libc::dlclose(self.0) };
    }
}

/// A sealed copy of a file, as a loader needs it that cannot trust the file to stay.
pub struct Staged {
    fd: c_int,
}

impl Staged {
    pub fn copy(path: &CStr) -> Self {
        // SAFETY: a path that ends in a zero byte.
        let from = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        assert!(from >= 0);
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: there is room for a result.
        let failed = unsafe { libc::fstat(from, stat.as_mut_ptr()) };
        assert_eq!(failed, 0);
        // SAFETY: written, as it did not fail.
        let mut left = unsafe { stat.assume_init_ref() }.st_size as usize;
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: a name that ends in a zero byte.
        let fd = unsafe { libc::memfd_create(c"staged".as_ptr(), flags) };
        assert!(fd >= 0);
        while left > 0 {
            // SAFETY: two descriptors of ours; no offset is given.
            let n = unsafe { libc::sendfile(fd, from, ptr::null_mut(), left) };
            assert!(n > 0);
            left -= n as usize;
        }
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
        // SAFETY: a descriptor of ours.
        let failed = unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) };
        assert_eq!(failed, 0);
        // SAFETY: a descriptor of ours, closed once.
        unsafe { libc::close(from) };
        Self { fd }
    }

    pub fn open(&self) -> Result<Handle, String> {
        let path = CString::new(format!("/proc/self/fd/{}", self.fd)).expect("no zero byte");
        Handle::open(&path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // SAFETY: opened by this value and closed once.
        unsafe { libc::close(self.fd) };
    }
}

/// Keeps the compiler from guessing what is asked or leaving out the answer.
#[inline]
pub fn ask<Q, A>(lookup: impl Fn(Q) -> A) -> impl Fn(Q) {
    move |question| {
        black_box(lookup(black_box(question)));
    }
}
