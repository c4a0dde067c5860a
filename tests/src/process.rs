//! What the process itself says, asked of the kernel and of ld.so and never of the loader.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_int, c_void};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, process, thread};

/// One line of `/proc/self/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// First address.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// `r-xp` and so on.
    pub rights: String,
    /// Inode, 0 for anonymous memory.
    pub inode: u64,
    /// The path as the kernel shows it.
    pub path: String,
}

/// The process's mappings.
pub fn maps() -> Vec<Mapped> {
    fs::read_to_string("/proc/self/maps")
        .expect("procfs")
        .lines()
        .filter_map(parse)
        .collect()
}

/// `count` words from `address` on, whatever they are: as the kernel has them.
pub fn words(address: usize, count: usize) -> Vec<usize> {
    let mut bytes = vec![0; count * size_of::<usize>()];
    let memory = fs::File::open("/proc/self/mem").expect("procfs");
    memory
        .read_exact_at(&mut bytes, address as u64)
        .expect("mapped");
    let (words, _) = bytes.as_chunks();
    words
        .iter()
        .map(|word| usize::from_ne_bytes(*word))
        .collect()
}

fn parse(line: &str) -> Option<Mapped> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?.to_owned();
    let inode = fields.nth(2)?.parse().ok()?;
    Some(Mapped {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        rights,
        inode,
        path: fields.collect::<Vec<_>>().join(" "),
    })
}

/// Inodes of everything mapped from memory files at or above `start` and below `end`.
pub fn inodes_in(start: usize, end: usize) -> BTreeSet<u64> {
    maps()
        .into_iter()
        .filter(|m| m.start < end && m.end > start && m.inode != 0)
        .map(|m| m.inode)
        .collect()
}

/// Whether any mapping is backed by `inode` of a memory file.
pub fn is_mapped(inode: u64) -> bool {
    maps()
        .iter()
        .any(|m| m.inode == inode && m.path.contains("memfd"))
}

/// One object that ld.so knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The name it was opened by; empty for the program.
    pub name: String,
    /// Run-time address minus link-time address.
    pub bias: usize,
}

/// All objects that ld.so knows, in its own order.
pub fn link_map() -> Vec<Object> {
    unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the list below, alive for the call.
        let objects = unsafe { &mut *data.cast::<Vec<Object>>() };
        // SAFETY: ld.so passes a valid record.
        let info = unsafe { &*info };
        if !info.dlpi_name.is_null() {
            // SAFETY: terminated.
            let name = unsafe { CStr::from_ptr(info.dlpi_name) };
            objects.push(Object {
                name: name.to_string_lossy().into_owned(),
                bias: usize::try_from(info.dlpi_addr).expect("64 bits"),
            });
        }
        0
    }
    let mut objects = Vec::new();
    // SAFETY: the callback only reads.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut objects).cast()) };
    objects
}

/// The names of all objects that ld.so knows.
pub fn objects() -> BTreeSet<String> {
    link_map().into_iter().map(|object| object.name).collect()
}

/// Open descriptors of the process.
pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// Threads of the process.
pub fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("procfs").count()
}

/// What must be as before when everything that was loaded is gone again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// The objects that ld.so knows.
    pub objects: BTreeSet<String>,
    /// Mappings of memory files, which staged plugins are.
    pub memory_files: usize,
    /// Names of staged plugins.
    pub links: usize,
}

/// The process's footprint at this moment.
pub fn footprint() -> Footprint {
    Footprint {
        descriptors: descriptors(),
        threads: threads(),
        objects: objects(),
        memory_files: maps().iter().filter(|m| m.path.contains("memfd")).count(),
        links: links(),
    }
}

/// Waits a little until the footprint is `before`: a joined thread may still be on its way out of
/// the kernel's list.
pub fn assert_footprint(before: &Footprint) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while footprint() != *before && Instant::now() < deadline {
        thread::yield_now();
    }
    assert_eq!(footprint(), *before);
}

/// Names in this process's stage folders.
fn links() -> usize {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = format!("plug-{}-", process::id());
    [
        Some(PathBuf::from("/tmp")),
        Some(PathBuf::from("/dev/shm")),
        runtime,
    ]
    .into_iter()
    .flatten()
    .filter_map(|base| fs::read_dir(base).ok())
    .flatten()
    .filter_map(Result::ok)
    .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
    .filter_map(|folder| fs::read_dir(folder.path()).ok())
    .map(Iterator::count)
    .sum()
}

/// Resident memory in KiB.
pub fn resident_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kb| kb.parse().ok())
        .expect("VmRSS")
}

/// Bytes of all blocks that malloc has given out and not got back.
pub fn heap_bytes() -> usize {
    // SAFETY: only counts.
    unsafe { libc::mallinfo2() }.uordblks
}

/// Keys for thread-specific data that are in use: all that there can be, less those that are left.
pub fn keys_in_use() -> usize {
    const KEYS: usize = 1024;
    let mut made = Vec::new();
    let mut key = 0;
    // SAFETY: keys without destructors, given back below.
    while unsafe { libc::pthread_key_create(&raw mut key, None) } == 0 {
        made.push(key);
    }
    for key in &made {
        // SAFETY: made above.
        unsafe { libc::pthread_key_delete(*key) };
    }
    KEYS - made.len()
}
