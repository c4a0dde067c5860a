//! The functions in the place of those by which a plugin takes memory and descriptors and gives them
//! back: each calls what the plugin was bound to, and counts.
//!
//! Which plugin calls is told by the function called: each account has its own entry to every one of
//! them, a few instructions that add a number to the arguments. The caller's return address would
//! not do, since a plugin's last call of a function may be a jump.
//!
//! Those for mappings and descriptors may be called wherever the originals may: in signal handlers,
//! and in the children of `fork` and `vfork`. Those for the heap take locks, as allocators do.

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::account::{ACCOUNTS, Account, Counters, counters};
use super::blocks::{self, DEPTH, Frames};
use super::descriptors;
use super::hooks::owner;
use crate::error::{Error, ErrorKind};
use crate::image::counted;
use crate::sys::{code, slots, task};

/// The number that an entry adds: the place of the account, and that of the function.
type Entry = c_uint;

/// Bytes of an entry, with room for the longest.
const ENTRY_SIZE: usize = 32;

#[cfg(target_arch = "x86_64")]
macro_rules! argument {
    (0) => {
        "mov edi, offset plug_loader_entry"
    };
    (1) => {
        "mov esi, offset plug_loader_entry"
    };
    (2) => {
        "mov edx, offset plug_loader_entry"
    };
    (3) => {
        "mov ecx, offset plug_loader_entry"
    };
    (4) => {
        "mov r8d, offset plug_loader_entry"
    };
    (5) => {
        "mov r9d, offset plug_loader_entry"
    };
    // All registers are taken: the upper half of the third argument, an int, is free.
    (packed) => {
        "mov edx, edx\nmov r11d, offset plug_loader_entry\nshl r11, 32\nor rdx, r11"
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! jump {
    () => {
        "jmp "
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! argument {
    (packed) => {
        "mov w9, plug_loader_entry\nmov w2, w2\norr x2, x2, x9, lsl 32"
    };
    ($place:tt) => {
        concat!("mov w", stringify!($place), ", plug_loader_entry")
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! jump {
    () => {
        "b "
    };
}

/// Makes the entries: for each function, one for each account, that puts its number behind the
/// arguments that the function has and goes on to the one that counts.
macro_rules! functions {
    ($($name:literal, $place:tt, $hook:ident;)*) => {
        /// Names of the functions, in the order of their entries.
        const NAMES: &[&str] = &[$($name),*];

        std::arch::global_asm!(
            ".pushsection .text.plug_loader_account_entries,\"ax\",@progbits",
            ".balign 32",
            ".globl plug_loader_account_entries",
            ".hidden plug_loader_account_entries",
            "plug_loader_account_entries:",
            ".set plug_loader_function, 0",
            $(concat!(
                ".set plug_loader_entry, plug_loader_function\n",
                ".rept 64\n",
                ".balign 32\n",
                argument!($place), "\n",
                jump!(), "{", stringify!($hook), "}\n",
                ".set plug_loader_entry, plug_loader_entry + 256\n",
                ".endr\n",
                ".set plug_loader_function, plug_loader_function + 1",
            ),)*
            ".popsection",
            sized = sym sized,
            sized_and_one = sym sized_and_one,
            sized_and_two = sym sized_and_two,
            aligned = sym aligned,
            zeroed = sym zeroed,
            resized = sym resized,
            resized_array = sym resized_array,
            aligned_into = sym aligned_into,
            text = sym text,
            text_of_at_most = sym text_of_at_most,
            free = sym free,
            free_and_one = sym free_and_one,
            free_and_two = sym free_and_two,
            map = sym map,
            unmap = sym unmap,
            remap = sym remap,
            open_none = sym open_none,
            open_one = sym open_one,
            open_two = sym open_two,
            open_three = sym open_three,
            open_four = sym open_four,
            open_file = sym open_file,
            open_file_at = sym open_file_at,
            control = sym control,
            pair = sym pair,
            pair_with_flags = sym pair_with_flags,
            pair_of_sockets = sym pair_of_sockets,
            close = sym close,
        );
    };
}

functions! {
    "malloc", 1, sized;
    "valloc", 1, sized;
    "_Znwm", 1, sized;
    "_Znam", 1, sized;
    "_ZnwmRKSt9nothrow_t", 2, sized_and_one;
    "_ZnamRKSt9nothrow_t", 2, sized_and_one;
    "_ZnwmSt11align_val_t", 2, sized_and_one;
    "_ZnamSt11align_val_t", 2, sized_and_one;
    "_ZnwmSt11align_val_tRKSt9nothrow_t", 3, sized_and_two;
    "_ZnamSt11align_val_tRKSt9nothrow_t", 3, sized_and_two;
    "aligned_alloc", 2, aligned;
    "memalign", 2, aligned;
    "calloc", 2, zeroed;
    "realloc", 2, resized;
    "reallocarray", 3, resized_array;
    "posix_memalign", 3, aligned_into;
    "strdup", 1, text;
    "__strdup", 1, text;
    "strndup", 2, text_of_at_most;
    "__strndup", 2, text_of_at_most;
    "free", 1, free;
    "_ZdlPv", 1, free;
    "_ZdaPv", 1, free;
    "_ZdlPvm", 2, free_and_one;
    "_ZdaPvm", 2, free_and_one;
    "_ZdlPvRKSt9nothrow_t", 2, free_and_one;
    "_ZdaPvRKSt9nothrow_t", 2, free_and_one;
    "_ZdlPvSt11align_val_t", 2, free_and_one;
    "_ZdaPvSt11align_val_t", 2, free_and_one;
    "_ZdlPvmSt11align_val_t", 3, free_and_two;
    "_ZdaPvmSt11align_val_t", 3, free_and_two;
    "_ZdlPvSt11align_val_tRKSt9nothrow_t", 3, free_and_two;
    "_ZdaPvSt11align_val_tRKSt9nothrow_t", 3, free_and_two;
    "mmap", packed, map;
    "mmap64", packed, map;
    "munmap", 2, unmap;
    "mremap", 5, remap;
    "inotify_init", 0, open_none;
    "dup", 1, open_one;
    "epoll_create", 1, open_one;
    "epoll_create1", 1, open_one;
    "inotify_init1", 1, open_one;
    "mkstemp", 1, open_one;
    "mkstemp64", 1, open_one;
    "creat", 2, open_two;
    "creat64", 2, open_two;
    "dup2", 2, open_two;
    "eventfd", 2, open_two;
    "memfd_create", 2, open_two;
    "timerfd_create", 2, open_two;
    "mkostemp", 2, open_two;
    "mkostemp64", 2, open_two;
    "socket", 3, open_three;
    "accept", 3, open_three;
    "dup3", 3, open_three;
    "signalfd", 3, open_three;
    "accept4", 4, open_four;
    "open", 3, open_file;
    "open64", 3, open_file;
    "openat", 4, open_file_at;
    "openat64", 4, open_file_at;
    "fcntl", 3, control;
    "fcntl64", 3, control;
    "pipe", 1, pair;
    "pipe2", 2, pair_with_flags;
    "socketpair", 4, pair_of_sockets;
    "close", 1, close;
}

/// How many functions there are at most.
const MOST: usize = 80;

const _: () = assert!(NAMES.len() <= MOST && MOST <= 256 && ACCOUNTS == 64);

/// What each plugin that is accounted for was bound to, with all that it brings; 0 for what none of
/// it imports. Stored before any of its code runs, and read by it (Relaxed: starting the code comes
/// between).
static ORIGINALS: [[AtomicUsize; MOST]; ACCOUNTS] =
    [const { [const { AtomicUsize::new(0) }; MOST] }; ACCOUNTS];

unsafe extern "C" {
    /// The first of the entries.
    static plug_loader_account_entries: u8;
}

/// Where a file keeps the addresses of these functions, as link-time addresses and their numbers
/// among [`NAMES`]; `bytes` are a file's whose facts were read.
pub(crate) fn words(bytes: &[u8]) -> Vec<(u64, usize)> {
    counted::words(bytes, NAMES).unwrap_or_default()
}

/// Forgets what the last plugin that had the account's place was bound to, before
/// [`redirect`].
pub(crate) fn begin(account: Account) {
    for original in ORIGINALS.get(account.place).into_iter().flatten() {
        original.store(0, Ordering::Relaxed);
    }
}

/// Has an object that is mapped at `bias` call the entries of `account` at `words`; `protected` is
/// what ld.so made read-only, in pages' bounds.
///
/// All objects of a load share the entries. A word that is bound to another function than the words
/// of the same name before it stays so, and is not counted: who allocates with one allocator must
/// not free with another.
///
/// # Errors
/// [`ErrorKind::Map`] when the words cannot be made writable.
///
/// # Safety
/// - The object is relocated, none of the load's code has run, and `words` are those of its file.
pub(crate) unsafe fn redirect(
    words: &[(u64, usize)],
    bias: usize,
    protected: (usize, usize),
    account: Account,
) -> Result<(), Error> {
    let own = ORIGINALS.get(account.place);
    let entries = words.iter().filter_map(|(vaddr, function)| {
        let word = code::run_time(bias, *vaddr);
        // SAFETY: a word of the relocated image.
        let bound = unsafe { slots::word(word) };
        let original = own?.get(*function)?;
        match original.load(Ordering::Relaxed) {
            0 => original.store(bound, Ordering::Relaxed),
            before if before == bound => {}
            _ => return None,
        }
        let nth = function * ACCOUNTS + account.place;
        let entry = (&raw const plug_loader_account_entries).wrapping_add(nth * ENTRY_SIZE);
        Some((word, entry.addr()))
    });
    // SAFETY: words that ld.so relocated with the address of the import that each entry stands in
    // for; the rest is our caller's word.
    unsafe { slots::redirect(entries, protected) }.map_err(|error| {
        Error::new(ErrorKind::Map, "the imports cannot be redirected").because(error)
    })
}

/// The account's place, and the address of the original.
fn of(entry: Entry) -> (usize, usize) {
    let (place, function) = ((entry >> 8) as usize, (entry & 255) as usize);
    let original = ORIGINALS.get(place).and_then(|own| own.get(function));
    // Relaxed: see ORIGINALS.
    (place, original.map_or(0, |at| at.load(Ordering::Relaxed)))
}

/// Calls what the plugin was bound to.
macro_rules! original {
    ($address:expr, $type:ty, $($argument:expr),*) => {{
        // SAFETY: ld.so bound the plugin's import of that name to it, which has this type.
        let function = unsafe { transmute::<usize, $type>($address) };
        // SAFETY: passed on as it came.
        unsafe { function($($argument),*) }
    }};
}

/// Keeps what the running thread's `errno` was after the original's call.
struct Errno(i32);

impl Errno {
    fn keep() -> Self {
        Self(task::errno())
    }
}

impl Drop for Errno {
    fn drop(&mut self) {
        task::set_errno(self.0);
    }
}

unsafe extern "C-unwind" {
    fn _Unwind_Backtrace(
        step: unsafe extern "C-unwind" fn(*mut c_void, *mut c_void) -> c_int,
        walk: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

/// A walk up the stack of whoever allocates.
struct Walk {
    /// Whose frames are kept.
    generation: u64,
    frames: Frames,
    found: usize,
    /// Frames looked at.
    seen: usize,
}

unsafe extern "C-unwind" fn step(context: *mut c_void, walk: *mut c_void) -> c_int {
    /// Any but 0 ends the walk.
    const END: c_int = 5;
    /// Frames that are looked at, the loader's own among them.
    const MOST_SEEN: usize = 40;
    // SAFETY: the walk that plugins_frames() passes, alive for the duration.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    // SAFETY: the unwinder's own context.
    let at = unsafe { _Unwind_GetIP(context) };
    walk.seen += 1;
    if owner(at).is_some_and(|owner| owner.generation == walk.generation) {
        if let Some(frame) = walk.frames.get_mut(walk.found) {
            *frame = at;
        }
        walk.found += 1;
    }
    if walk.found == DEPTH || walk.seen == MOST_SEEN {
        END
    } else {
        0
    }
}

/// The frames below the running call that lie in the plugin or in its private dependencies, where
/// the account notes sites. Some microseconds.
fn plugins_frames(counters: &Counters) -> Option<Frames> {
    let mut walk = Walk {
        generation: counters.generation_for_sites()?,
        frames: [0; DEPTH],
        found: 0,
        seen: 0,
    };
    // SAFETY: the walk outlives the call, which hands it to step() alone.
    unsafe { _Unwind_Backtrace(step, (&raw mut walk).cast()) };
    Some(walk.frames)
}

fn allocated(place: usize, block: *mut c_void, size: usize) {
    if !block.is_null() {
        let _errno = Errno::keep();
        let frames = counters(place).and_then(plugins_frames);
        blocks::allocated(place, block.addr(), size, frames);
    }
}

type Block = *mut c_void;

/// `malloc`, `valloc` and `operator new`, which may throw.
unsafe extern "C-unwind" fn sized(size: usize, entry: Entry) -> Block {
    let (place, function) = of(entry);
    let block = original!(function, unsafe extern "C-unwind" fn(usize) -> Block, size);
    allocated(place, block, size);
    block
}

/// `operator new` with an alignment, or one that does not throw.
unsafe extern "C-unwind" fn sized_and_one(size: usize, one: usize, entry: Entry) -> Block {
    type New = unsafe extern "C-unwind" fn(usize, usize) -> Block;
    let (place, function) = of(entry);
    let block = original!(function, New, size, one);
    allocated(place, block, size);
    block
}

/// `operator new` with both.
unsafe extern "C-unwind" fn sized_and_two(
    size: usize,
    one: usize,
    two: usize,
    entry: Entry,
) -> Block {
    type New = unsafe extern "C-unwind" fn(usize, usize, usize) -> Block;
    let (place, function) = of(entry);
    let block = original!(function, New, size, one, two);
    allocated(place, block, size);
    block
}

/// `aligned_alloc` and `memalign`.
unsafe extern "C-unwind" fn aligned(alignment: usize, size: usize, entry: Entry) -> Block {
    type Aligned = unsafe extern "C-unwind" fn(usize, usize) -> Block;
    let (place, function) = of(entry);
    let block = original!(function, Aligned, alignment, size);
    allocated(place, block, size);
    block
}

/// `calloc`.
unsafe extern "C-unwind" fn zeroed(count: usize, size: usize, entry: Entry) -> Block {
    type Zeroed = unsafe extern "C-unwind" fn(usize, usize) -> Block;
    let (place, function) = of(entry);
    let block = original!(function, Zeroed, count, size);
    // The product fits where there is a block.
    allocated(place, block, count.wrapping_mul(size));
    block
}

/// `posix_memalign`.
unsafe extern "C-unwind" fn aligned_into(
    into: *mut Block,
    alignment: usize,
    size: usize,
    entry: Entry,
) -> c_int {
    type Aligned = unsafe extern "C-unwind" fn(*mut Block, usize, usize) -> c_int;
    let (place, function) = of(entry);
    let status = original!(function, Aligned, into, alignment, size);
    if status == 0 {
        // SAFETY: written just now.
        allocated(place, unsafe { into.read() }, size);
    }
    status
}

/// What `resize` does to a block that is to have `size` bytes.
fn resize(place: usize, block: Block, size: usize, resize: impl FnOnce() -> Block) -> Block {
    // Before it may be given to another thread.
    let freed = (!block.is_null()).then(|| {
        let _errno = Errno::keep();
        blocks::freed(place, block.addr())
    });
    let resized = resize();
    match freed {
        // It failed; with size 0 it was freed, as glibc has it.
        Some(freed) if resized.is_null() && size != 0 => {
            let _errno = Errno::keep();
            blocks::kept(place, freed);
        }
        _ => allocated(place, resized, size),
    }
    resized
}

/// `realloc`.
unsafe extern "C-unwind" fn resized(block: Block, size: usize, entry: Entry) -> Block {
    type Resize = unsafe extern "C-unwind" fn(Block, usize) -> Block;
    let (place, function) = of(entry);
    resize(place, block, size, || {
        original!(function, Resize, block, size)
    })
}

/// `reallocarray`.
unsafe extern "C-unwind" fn resized_array(
    block: Block,
    count: usize,
    size: usize,
    entry: Entry,
) -> Block {
    type Resize = unsafe extern "C-unwind" fn(Block, usize, usize) -> Block;
    let (place, function) = of(entry);
    // One that does not fit fails.
    let bytes = count.saturating_mul(size);
    resize(place, block, bytes, || {
        original!(function, Resize, block, count, size)
    })
}

fn length(text: Block) -> usize {
    if text.is_null() {
        return 0;
    }
    // SAFETY: the copy that strdup() made, which ends in a zero byte.
    let length = unsafe { libc::strlen(text.cast::<c_char>()) };
    length.wrapping_add(1)
}

/// `strdup`.
unsafe extern "C-unwind" fn text(text: *const c_char, entry: Entry) -> Block {
    type Copy = unsafe extern "C-unwind" fn(*const c_char) -> Block;
    let (place, function) = of(entry);
    let copy = original!(function, Copy, text);
    allocated(place, copy, length(copy));
    copy
}

/// `strndup`.
unsafe extern "C-unwind" fn text_of_at_most(
    text: *const c_char,
    most: usize,
    entry: Entry,
) -> Block {
    type Copy = unsafe extern "C-unwind" fn(*const c_char, usize) -> Block;
    let (place, function) = of(entry);
    let copy = original!(function, Copy, text, most);
    allocated(place, copy, length(copy));
    copy
}

fn freed(place: usize, block: Block) {
    if !block.is_null() {
        let _errno = Errno::keep();
        let _ours = blocks::freed(place, block.addr());
    }
}

/// `free` and `operator delete`.
unsafe extern "C-unwind" fn free(block: Block, entry: Entry) {
    let (place, function) = of(entry);
    freed(place, block);
    original!(function, unsafe extern "C-unwind" fn(Block), block);
}

/// `operator delete` with a size or an alignment.
unsafe extern "C-unwind" fn free_and_one(block: Block, one: usize, entry: Entry) {
    type Free = unsafe extern "C-unwind" fn(Block, usize);
    let (place, function) = of(entry);
    freed(place, block);
    original!(function, Free, block, one);
}

/// `operator delete` with two of them.
unsafe extern "C-unwind" fn free_and_two(block: Block, one: usize, two: usize, entry: Entry) {
    type Free = unsafe extern "C-unwind" fn(Block, usize, usize);
    let (place, function) = of(entry);
    freed(place, block);
    original!(function, Free, block, one, two);
}

/// Whole pages.
fn pages(bytes: usize) -> i64 {
    let page = rustix::param::page_size();
    i64::try_from(bytes.div_ceil(page).saturating_mul(page)).unwrap_or(i64::MAX)
}

/// `mmap` and `mmap64`. The upper half of `rights` is the entry's number.
unsafe extern "C-unwind" fn map(
    wanted: Block,
    bytes: usize,
    rights: u64,
    flags: c_int,
    file: c_int,
    offset: c_long,
) -> Block {
    type Map = unsafe extern "C-unwind" fn(Block, usize, c_int, c_int, c_int, c_long) -> Block;
    let (place, function) = of((rights >> 32) as Entry);
    // The entry kept the lower half.
    let rights = (rights & 0xffff_ffff) as u32 as c_int;
    let mapped = original!(function, Map, wanted, bytes, rights, flags, file, offset);
    if mapped != libc::MAP_FAILED
        && let Some(counters) = counters(place)
    {
        counters.mapped(1, pages(bytes));
    }
    mapped
}

/// `munmap`.
unsafe extern "C-unwind" fn unmap(block: Block, bytes: usize, entry: Entry) -> c_int {
    type Unmap = unsafe extern "C-unwind" fn(Block, usize) -> c_int;
    let (place, function) = of(entry);
    let status = original!(function, Unmap, block, bytes);
    if status == 0
        && let Some(counters) = counters(place)
    {
        counters.mapped(-1, -pages(bytes));
    }
    status
}

/// `mremap`.
unsafe extern "C-unwind" fn remap(
    block: Block,
    bytes: usize,
    wanted: usize,
    flags: c_int,
    to: Block,
    entry: Entry,
) -> Block {
    type Remap = unsafe extern "C" fn(Block, usize, usize, c_int, ...) -> Block;
    let (place, function) = of(entry);
    let mapped = original!(function, Remap, block, bytes, wanted, flags, to);
    if mapped != libc::MAP_FAILED
        && let Some(counters) = counters(place)
    {
        // From nothing, it maps the same pages a second time.
        let more = i64::from(bytes == 0 || flags & libc::MREMAP_DONTUNMAP != 0);
        let gone = if more == 1 { 0 } else { pages(bytes) };
        counters.mapped(more, pages(wanted).saturating_sub(gone));
    }
    mapped
}

fn opened(place: usize, descriptor: c_int) -> c_int {
    if descriptor >= 0
        && let Some(counters) = counters(place)
    {
        let _errno = Errno::keep();
        descriptors::opened(counters.serial(), descriptor);
    }
    descriptor
}

/// Calls that open a descriptor and have no argument.
unsafe extern "C-unwind" fn open_none(entry: Entry) -> c_int {
    let (place, function) = of(entry);
    opened(
        place,
        original!(function, unsafe extern "C-unwind" fn() -> c_int,),
    )
}

/// Those with one, which may be a pointer.
unsafe extern "C-unwind" fn open_one(one: usize, entry: Entry) -> c_int {
    type Open = unsafe extern "C-unwind" fn(usize) -> c_int;
    let (place, function) = of(entry);
    opened(place, original!(function, Open, one))
}

/// Those with two.
unsafe extern "C-unwind" fn open_two(one: usize, two: usize, entry: Entry) -> c_int {
    type Open = unsafe extern "C-unwind" fn(usize, usize) -> c_int;
    let (place, function) = of(entry);
    opened(place, original!(function, Open, one, two))
}

/// Those with three.
unsafe extern "C-unwind" fn open_three(
    one: usize,
    two: usize,
    three: usize,
    entry: Entry,
) -> c_int {
    type Open = unsafe extern "C-unwind" fn(usize, usize, usize) -> c_int;
    let (place, function) = of(entry);
    opened(place, original!(function, Open, one, two, three))
}

/// Those with four.
unsafe extern "C-unwind" fn open_four(
    one: usize,
    two: usize,
    three: usize,
    four: usize,
    entry: Entry,
) -> c_int {
    type Open = unsafe extern "C-unwind" fn(usize, usize, usize, usize) -> c_int;
    let (place, function) = of(entry);
    opened(place, original!(function, Open, one, two, three, four))
}

/// `open`, whose third argument not all calls have: what is passed on then is not looked at.
unsafe extern "C-unwind" fn open_file(
    path: usize,
    flags: c_int,
    mode: c_uint,
    entry: Entry,
) -> c_int {
    type Open = unsafe extern "C-unwind" fn(usize, c_int, ...) -> c_int;
    let (place, function) = of(entry);
    opened(place, original!(function, Open, path, flags, mode))
}

/// `openat`; as `open`.
unsafe extern "C-unwind" fn open_file_at(
    folder: c_int,
    path: usize,
    flags: c_int,
    mode: c_uint,
    entry: Entry,
) -> c_int {
    type Open = unsafe extern "C-unwind" fn(c_int, usize, c_int, ...) -> c_int;
    let (place, function) = of(entry);
    opened(place, original!(function, Open, folder, path, flags, mode))
}

/// `fcntl`, of whose commands two open a descriptor.
unsafe extern "C-unwind" fn control(
    descriptor: c_int,
    command: c_int,
    argument: usize,
    entry: Entry,
) -> c_int {
    type Control = unsafe extern "C-unwind" fn(c_int, c_int, ...) -> c_int;
    let (place, function) = of(entry);
    let status = original!(function, Control, descriptor, command, argument);
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => opened(place, status),
        _ => status,
    }
}

fn opened_both(place: usize, status: c_int, both: *const c_int) -> c_int {
    if status == 0 {
        // SAFETY: the call succeeded, so it wrote two numbers there.
        for descriptor in unsafe { both.cast::<[c_int; 2]>().read() } {
            opened(place, descriptor);
        }
    }
    status
}

/// `pipe`.
unsafe extern "C-unwind" fn pair(both: *mut c_int, entry: Entry) -> c_int {
    type Pair = unsafe extern "C-unwind" fn(*mut c_int) -> c_int;
    let (place, function) = of(entry);
    let status = original!(function, Pair, both);
    opened_both(place, status, both)
}

/// `pipe2`.
unsafe extern "C-unwind" fn pair_with_flags(both: *mut c_int, flags: c_int, entry: Entry) -> c_int {
    type Pair = unsafe extern "C-unwind" fn(*mut c_int, c_int) -> c_int;
    let (place, function) = of(entry);
    let status = original!(function, Pair, both, flags);
    opened_both(place, status, both)
}

/// `socketpair`.
unsafe extern "C-unwind" fn pair_of_sockets(
    domain: c_int,
    kind: c_int,
    protocol: c_int,
    both: *mut c_int,
    entry: Entry,
) -> c_int {
    type Pair = unsafe extern "C-unwind" fn(c_int, c_int, c_int, *mut c_int) -> c_int;
    let (place, function) = of(entry);
    let status = original!(function, Pair, domain, kind, protocol, both);
    opened_both(place, status, both)
}

/// `close`.
unsafe extern "C-unwind" fn close(descriptor: c_int, entry: Entry) -> c_int {
    let (_, function) = of(entry);
    {
        // Before its number may be given to another thread.
        let _errno = Errno::keep();
        descriptors::closing(descriptor);
    }
    original!(
        function,
        unsafe extern "C-unwind" fn(c_int) -> c_int,
        descriptor
    )
}
