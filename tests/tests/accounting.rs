//! What plugins hold, counted by their own calls; the oracle is what they say themselves.

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use plug_loader::{Accounting, Balance, ErrorKind, LeakSite, Params, Plugin, Source};
use plug_tests::host::Host;
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, c_plugin, cpp_plugin, rust_plugin};

/// Takes a number and gives one.
type Act = unsafe extern "C" fn(u64) -> u64;

fn load(host: &Host, path: &Path, name: &str, accounting: Accounting) -> Plugin {
    let source = Source::path(path).named(name).accounted(accounting);
    host.loader
        .load(&host.trust, source, &Params::new())
        .expect("loads")
}

fn call(plugin: &Plugin, name: &str, argument: u64) -> u64 {
    let function = plugin.function::<Act>(name).expect("exported");
    // SAFETY: the signature is the plugin's.
    unsafe { function.call((argument,)) }.expect("live")
}

fn heap(plugin: &Plugin) -> (u64, u64) {
    let balance = plugin.balance().expect("accounted");
    (balance.heap_blocks, balance.heap_bytes)
}

const C: &str = r##"
#define _GNU_SOURCE
#include "plugin_api.h"
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>
static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("counted", "1.0.0", "for a test", "MIT", init, stop);

static void *volatile sink;
static void *keep(void *block) { sink = block; return block; }

/* Leaks a block by every way there is. */
PLUG_EXPORT(uint64_t, leak_each, (uint64_t none)) {
    void *aligned = NULL;
    keep(malloc(100));
    keep(calloc(10, 20));
    keep(realloc(keep(malloc(10)), 300));
    keep(reallocarray(NULL, 5, 7));
    if (posix_memalign(&aligned, 64, 128)) return 0;
    keep(aligned);
    keep(aligned_alloc(32, 96));
    keep(memalign(64, 11));
    keep(valloc(13));
    keep(strdup("four"));
    keep(strndup("abcdef", 3));
    return none + 100 + 200 + 300 + 35 + 128 + 96 + 11 + 13 + 5 + 4;
}

/* Takes a block by every way there is and gives it back by each. */
PLUG_EXPORT(uint64_t, balanced, (uint64_t none)) {
    void *aligned = NULL;
    free(keep(malloc(100)));
    free(keep(realloc(keep(calloc(10, 20)), 7)));
    if (posix_memalign(&aligned, 64, 128)) return 0;
    free(keep(aligned));
    free(keep(reallocarray(keep(malloc(3)), 1000, 1000)));
    free(NULL);
    /* These fail and change nothing. */
    if (keep(malloc((size_t)-1 - none)) || keep(calloc((size_t)-1 - none, 2))) return 0;
    void *held = keep(malloc(50));
    if (keep(realloc(held, (size_t)-1 - none)) || keep(reallocarray(held, (size_t)-1 - none, 4))) return 0;
    /* To nothing: freed. */
    if (keep(realloc(held, none))) return 0;
    return 1;
}

PLUG_EXPORT(uint64_t, free_that, (uint64_t block)) { free((void *)block); return 1; }
PLUG_EXPORT(uint64_t, regrow, (uint64_t block)) { return (uint64_t)realloc((void *)block, 500); }
PLUG_EXPORT(uint64_t, take, (uint64_t size)) { return (uint64_t)keep(malloc(size)); }
PLUG_EXPORT(uint64_t, allocator, (uint64_t none)) { return none + (uint64_t)&malloc; }

__attribute__((noinline)) static void *deeper(size_t size) { return keep(malloc(size)); }
PLUG_EXPORT(uint64_t, leak_three, (uint64_t size)) {
    for (int i = 0; i < 3; i++) { if (!deeper(size)) return 0; }
    return 3;
}

/* Two pages stay, and one that was mapped a second time. */
PLUG_EXPORT(uint64_t, map_some, (uint64_t none)) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *one = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (one == MAP_FAILED) return 0;
    one[2 * page] = 1;
    one = mremap(one, 3 * page, 2 * page, 0);
    char *two = mmap(NULL, 100, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (one == MAP_FAILED || two == MAP_FAILED || munmap(two, 100)) return 0;
    char *three = mmap(NULL, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (three == MAP_FAILED || mmap(NULL, 0, PROT_READ, MAP_PRIVATE, -1, 0) != MAP_FAILED) return 0;
    return none + 3 * page;
}

/* Opens a dozen, closes some, and tells how many are left. */
PLUG_EXPORT(uint64_t, open_some, (uint64_t none)) {
    int pair[2], both[2], more[2];
    int null = open("/dev/null", O_RDONLY);
    int made = openat(AT_FDCWD, "/tmp", O_TMPFILE | O_RDWR, 0600);
    if (pipe(pair) || pipe2(both, O_CLOEXEC) || socketpair(AF_UNIX, SOCK_STREAM, 0, more)) return 0;
    int all[] = {null, made, dup(null), fcntl(null, F_DUPFD_CLOEXEC, 0), eventfd(0, 0), epoll_create1(0),
                 timerfd_create(CLOCK_MONOTONIC, 0), memfd_create("m", 0), socket(AF_UNIX, SOCK_DGRAM, 0)};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) { if (all[i] < 0) return 0; }
    /* Over one that is its own already: as many as before. */
    if (dup2(pair[0], both[0]) != both[0] || dup3(pair[1], both[1], O_CLOEXEC) != both[1]) return 0;
    if (close(null) || close(more[0]) || close(more[1]) || close(-1) == 0) return 0;
    return none + 9 + 6 - 3;
}

PLUG_EXPORT(uint64_t, close_that, (uint64_t descriptor)) { return (uint64_t)close((int)descriptor); }

/* What the child of a fork does is nothing to the parent's account, nor what the child of a vfork closes. */
PLUG_EXPORT(uint64_t, fork_some, (uint64_t descriptor)) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 100; i++) { keep(malloc(1000)); }
        free(keep(malloc(1)));
        int other = open("/dev/null", O_RDONLY);
        _exit(other >= 0 && close((int)descriptor) == 0 ? 7 : 1);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 7) return 0;
    child = vfork();
    if (child == 0) {
        int other = open("/dev/null", O_RDONLY);
        _exit(other >= 0 && close((int)descriptor) == 0 ? 8 : 1);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 8) return 0;
    return 1;
}

/* Each thread keeps one of a hundred, and passes every tenth to the next one to free. */
static void *_Atomic given[64];
static void *storm(void *number) {
    const uint64_t me = (uint64_t)number;
    for (uint64_t i = 0; i < 20000; i++) {
        void *block = malloc(16 + i % 200);
        if (i % 100 == 0) { keep(block); continue; }
        if (i % 10 == 1) { block = __atomic_exchange_n(&given[(me + i) % 64], block, __ATOMIC_SEQ_CST); }
        free(i % 3 ? block : realloc(block, 300));
    }
    return NULL;
}
PLUG_EXPORT(uint64_t, storm_of, (uint64_t n)) {
    pthread_t threads[64];
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < n; i++) { if (pthread_create(&threads[i], NULL, storm, (void *)i)) return 0; }
    for (uint64_t i = 0; i < n; i++) { pthread_join(threads[i], NULL); }
    for (uint64_t i = 0; i < 64; i++) { free(__atomic_exchange_n(&given[i], NULL, __ATOMIC_SEQ_CST)); }
    for (uint64_t i = 0; i < 20000; i += 100) { bytes += 16 + i % 200; }
    return bytes * n;
}

/* In a handler, over itself. */
static volatile sig_atomic_t handled;
static void handler(int signal) {
    (void)signal;
    int descriptor = open("/dev/null", O_RDONLY);
    void *page = mmap(NULL, 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page, 1);
    close(descriptor);
    handled = handled + 1;
}
PLUG_EXPORT(uint64_t, interrupted, (uint64_t n)) {
    struct sigaction act, before;
    memset(&act, 0, sizeof act);
    act.sa_handler = handler;
    act.sa_flags = SA_RESTART;
    if (sigaction(SIGALRM, &act, &before)) return 0;
    ualarm(200, 200);
    while ((uint64_t)handled < n) {
        free(keep(malloc(20)));
        close(open("/dev/null", O_RDONLY));
    }
    ualarm(0, 0);
    sigaction(SIGALRM, &before, NULL);
    return 1;
}
"##;

fn c(scratch: &Scratch) -> PathBuf {
    c_plugin(scratch, "counted", &C.replace("-std=c11", "-std=gnu11"))
}

#[test]
fn a_c_plugin_is_counted_to_the_byte() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("counted");
        let plugin = load(&host, &c(&scratch), "counted", Accounting::Counts);
        assert_eq!(plugin.balance(), Some(Balance::default()));
        assert_eq!(call(&plugin, "balanced", 0), 1);
        assert_eq!(plugin.balance(), Some(Balance::default()));
        let bytes = call(&plugin, "leak_each", 0);
        assert_eq!(heap(&plugin), (10, bytes));
        let mapped = call(&plugin, "map_some", 0);
        let open = call(&plugin, "open_some", 0);
        let balance = plugin.balance().expect("accounted");
        assert_eq!((balance.mappings, balance.mapped_bytes), (2, mapped));
        assert_eq!(balance.descriptors, open);
        assert_eq!(balance.freed_of_others, 0);
        assert!(!balance.is_even());

        let leaks = host.unload("counted").leaks.expect("leaked");
        assert_eq!(leaks.balance, balance);
        assert_eq!(leaks.sites, []);
        assert_eq!(plugin.balance(), None);
        let text = format!(
            "10 blocks of together {bytes} bytes, 2 mappings of {mapped} bytes, {open} descriptors"
        );
        assert_eq!(leaks.to_string(), text);
    });
}

#[test]
fn one_that_is_not_accounted_for_calls_the_allocator_itself() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("off");
        let path = c(&scratch);
        let off = host.load(&path).expect("loads");
        let on = load(&host, &path, "on", Accounting::Counts);
        let own = libc::malloc as *const () as u64;
        assert_eq!(call(&off, "allocator", 0), own);
        assert_ne!(call(&on, "allocator", 0), own);
        assert_eq!(off.balance(), None);
        assert_eq!(call(&off, "leak_three", 10), 3);
        assert_eq!(heap(&on), (0, 0));
        assert!(host.unload("counted").leaks.is_none());
        // Nothing held, nothing told.
        assert!(host.unload("on").leaks.is_none());
    });
}

#[test]
fn what_others_own_is_not_the_plugins() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("others");
        let path = c(&scratch);
        let one = load(&host, &path, "one", Accounting::Counts);
        let two = load(&host, &path, "two", Accounting::Counts);
        // SAFETY: any size may be asked for.
        let taken = || unsafe { libc::malloc(64) }.addr() as u64;

        // The host's blocks and descriptors: never less than nothing.
        assert_eq!(call(&one, "free_that", taken()), 1);
        let grown = call(&one, "regrow", taken());
        assert_ne!(grown, 0);
        assert_eq!(heap(&one), (1, 500));
        assert_eq!(one.balance().expect("accounted").freed_of_others, 2);
        // SAFETY: a new descriptor, which the plugin closes.
        let descriptor = unsafe { libc::dup(2) };
        assert_eq!(call(&one, "close_that", descriptor as u64), 0);
        assert_eq!(one.balance().expect("accounted").descriptors, 0);

        // Another plugin's: taken from that one.
        assert_eq!(call(&two, "free_that", grown), 1);
        assert_eq!((heap(&one), heap(&two)), ((0, 0), (0, 0)));
        assert_eq!(two.balance().expect("accounted").freed_of_others, 0);

        // The host frees the plugin's: found out when the address is given out again.
        let block = call(&one, "take", 5000);
        assert_eq!(heap(&one), (1, 5000));
        // SAFETY: the plugin's block, freed once.
        unsafe { libc::free(block as *mut c_void) };
        while call(&one, "take", 5000) != block {}
        let (blocks, bytes) = heap(&one);
        assert_eq!(bytes, 5000 * blocks);
        let more = call(&one, "take", 1);
        assert_eq!(heap(&one), (blocks + 1, 5000 * blocks + 1));
        call(&one, "free_that", more);
        assert_eq!(heap(&one), (blocks, 5000 * blocks));

        // What one leaves is not the next one's.
        host.unload("one");
        let again = load(&host, &path, "one", Accounting::Counts);
        assert_eq!(again.balance(), Some(Balance::default()));
        call(&again, "free_that", block);
        assert_eq!(heap(&again), (0, 0));
    });
}

#[test]
fn children_count_for_themselves() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("children");
        let plugin = load(&host, &c(&scratch), "counted", Accounting::Counts);
        let open = call(&plugin, "open_some", 0);
        let before = plugin.balance();
        // The last one that it opened.
        let descriptor = (3..1000_i32).rev().find(|descriptor| {
            // SAFETY: asks for flags.
            unsafe { libc::fcntl(*descriptor, libc::F_GETFD) >= 0 }
        });
        let descriptor = descriptor.expect("open") as u64;
        let going = AtomicBool::new(true);
        thread::scope(|scope| {
            // Others allocate at the moment of each fork.
            let noisy = scope.spawn(|| {
                while going.load(Ordering::Relaxed) {
                    assert_eq!(call(&plugin, "balanced", 0), 1);
                }
            });
            for _ in 0..100 {
                assert_eq!(call(&plugin, "fork_some", descriptor), 1);
            }
            going.store(false, Ordering::Relaxed);
            noisy.join().expect("ends");
        });
        assert_eq!(plugin.balance(), before);
        assert_eq!(plugin.balance().map(|b| b.descriptors), Some(open));
    });
}

#[test]
fn a_storm_of_threads_is_counted_exactly() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("storm");
        let plugin = load(&host, &c(&scratch), "counted", Accounting::Counts);
        let bytes = call(&plugin, "storm_of", 8);
        assert_eq!(heap(&plugin), (8 * 200, bytes));
        assert_eq!(plugin.balance().map(|b| b.freed_of_others), Some(0));
    });
}

#[test]
fn handlers_may_open_close_and_map() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("handlers");
        let plugin = load(&host, &c(&scratch), "counted", Accounting::Counts);
        assert_eq!(call(&plugin, "interrupted", 500), 1);
        assert_eq!(plugin.balance(), Some(Balance::default()));
    });
}

#[test]
fn a_leak_names_who_allocated_it() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("sites");
        let plugin = load(&host, &c(&scratch), "counted", Accounting::Sites);
        assert_eq!(call(&plugin, "balanced", 0), 1);
        assert_eq!(call(&plugin, "leak_three", 1000), 3);
        assert_ne!(call(&plugin, "take", 10), 0);
        let leaks = host.unload("counted").leaks.expect("leaked");
        assert_eq!(leaks.balance.heap_blocks, 4);
        let sites: Vec<_> = leaks.sites.iter().map(told).collect();
        assert_eq!(sites, [("deeper", 3, 3000), ("take", 1, 10)]);
    });
}

fn told(site: &LeakSite) -> (&str, u64, u64) {
    (&site.symbol, site.blocks, site.bytes)
}

#[test]
fn accounts_are_limited_and_given_back() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("many");
        let path = c(&scratch);
        for n in 0..64 {
            let plugin = load(&host, &path, &format!("p{n}"), Accounting::Counts);
            assert_eq!(call(&plugin, "leak_three", n + 1), 3);
        }
        let source = Source::path(&path).named("more");
        let source = source.accounted(Accounting::Counts);
        let error = host
            .loader
            .load(&host.trust, source, &Params::new())
            .expect_err("too many");
        assert_eq!(error.kind(), ErrorKind::TooManyPlugins);
        for n in 0..64 {
            let plugin = host.loader.plugin(&format!("p{n}")).expect("live");
            assert_eq!(heap(&plugin), (3, 3 * (n + 1)));
        }
        for n in (0..64).rev() {
            let leaks = host.unload(&format!("p{n}")).leaks.expect("leaked");
            assert_eq!(leaks.balance.heap_bytes, 3 * (n + 1));
        }
        let plugin = load(&host, &path, "more", Accounting::Counts);
        assert_eq!(plugin.balance(), Some(Balance::default()));
    });
}

const CPP: &str = r#"
#include "plugin_api.h"
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>
static int32_t init(const plug_host_context *) { return PLUG_OK; }
static void stop(void) {}
PLUG_PLUGIN("plussy", "1.0.0", "for a test", "MIT", init, stop);

struct alignas(128) Wide { char bytes[256]; };
struct Small { long a, b, c; };
static void *volatile sink;
template <typename T> static T *keep(T *block) { sink = block; return block; }

/* Leaks by every operator there is. */
PLUG_EXPORT(uint64_t, leak_each, (uint64_t none)) {
    keep(new Small);
    keep(new char[100]);
    keep(new (std::nothrow) Small);
    keep(new (std::nothrow) char[100]);
    keep(new Wide);
    keep(new Wide[2]);
    keep(new (std::nothrow) Wide);
    keep(new (std::nothrow) Wide[2]);
    return none + 2 * (24 + 100 + 256 + 512);
}

PLUG_EXPORT(uint64_t, balanced, (uint64_t none)) {
    delete keep(new Small);
    delete[] keep(new std::string[10]);
    delete keep(new Wide);
    delete[] keep(new Wide[3]);
    operator delete(keep(operator new(10)));
    operator delete[](keep(operator new[](10, std::nothrow)), std::nothrow);
    operator delete(keep(operator new(64, std::align_val_t(64))), std::align_val_t(64));
    {
        std::map<int, std::string> map;
        std::vector<std::unique_ptr<Small>> all;
        for (int i = 0; i < 1000; i++) { map[i] = std::string(50, 'x'); all.push_back(std::make_unique<Small>()); }
    }
    try { keep(operator new((size_t)-1 - none)); return 0; } catch (const std::bad_alloc &) {}
    if (keep(operator new((size_t)-1 - none, std::nothrow))) return 0;
    return 1;
}
"#;

#[test]
fn a_cpp_plugin_is_counted_by_its_operators() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("plussy");
        let path = cpp_plugin(&scratch, "plussy", CPP);
        let plugin = load(&host, &path, "plussy", Accounting::Sites);
        let begun = heap(&plugin);
        assert_eq!(call(&plugin, "balanced", 0), 1);
        assert_eq!(heap(&plugin), begun);
        let bytes = call(&plugin, "leak_each", 0);
        assert_eq!(heap(&plugin), (begun.0 + 8, begun.1 + bytes));
        let leaks = host.unload("plussy").leaks.expect("leaked");
        assert_eq!(leaks.sites.first().map(told), Some(("leak_each", 8, bytes)));
    });
}

const RUST: &str = r#"
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

plug_api::plugin! {
    name: "rusty", version: "1.0.0", description: "for a test", license: "MIT",
    init: |_| Ok(()), exit: || (),
}

struct Counting;
static BLOCKS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BLOCKS.fetch_add(1, SeqCst);
        BYTES.fetch_add(layout.size() as u64, SeqCst);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        BLOCKS.fetch_add(1, SeqCst);
        BYTES.fetch_add(layout.size() as u64, SeqCst);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BLOCKS.fetch_sub(1, SeqCst);
        BYTES.fetch_sub(layout.size() as u64, SeqCst);
        unsafe { System.dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        BYTES.fetch_add(size as u64, SeqCst);
        BYTES.fetch_sub(layout.size() as u64, SeqCst);
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[repr(align(256))]
struct Wide(#[allow(dead_code)] [u8; 300]);

plug_api::export! {
    pub fn work(n: u64) -> u64 {
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(move || {
            let mut all = std::collections::BTreeMap::new();
            for i in 0..n { all.insert(i, format!("{i:>100}").repeat(3)); }
            drop(Box::new(Wide([1; 300])));
            vec![0u8; n as usize].len() + all.len()
        })).collect();
        threads.into_iter().map(|thread| thread.join().unwrap() as u64).sum()
    }
}

plug_api::export! {
    pub fn leak_wide(n: u64) -> u64 {
        for _ in 0..n { std::mem::forget(Box::new(Wide([1; 300]))); }
        std::mem::forget(vec![1u8; 1000]);
        n
    }
}

plug_api::export! {
    pub fn blocks(none: u64) -> u64 { none + BLOCKS.load(SeqCst) }
}

plug_api::export! {
    pub fn bytes(none: u64) -> u64 { none + BYTES.load(SeqCst) }
}

plug_api::export! {
    pub fn files(n: u64) -> u64 {
        for _ in 0..n { std::mem::forget(std::fs::File::open("/dev/null").unwrap().try_clone().unwrap()); }
        std::mem::forget(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        n + 1
    }
}
"#;

#[test]
fn a_rust_plugin_is_counted_as_its_own_allocator_counts() {
    isolated!({
        let host = Host::new();
        let scratch = Scratch::new("rusty");
        let path = rust_plugin(&scratch, "rusty", RUST);
        let plugin = load(&host, &path, "rusty", Accounting::Sites);
        let own = || (call(&plugin, "blocks", 0), call(&plugin, "bytes", 0));
        assert_eq!(call(&plugin, "work", 500), 4 * 1000);
        assert_eq!(heap(&plugin), own());
        let before = heap(&plugin);
        assert_eq!(call(&plugin, "leak_wide", 7), 7);
        assert_eq!(heap(&plugin), own());
        assert_eq!(heap(&plugin).0, before.0 + 8);
        assert_eq!(call(&plugin, "files", 5), 6);
        let balance = plugin.balance().expect("accounted");
        assert_eq!(balance.descriptors, 6);
        let leaks = host.unload("rusty").leaks.expect("leaked");
        // Wide is 512 bytes long.
        let (symbol, blocks, bytes) = leaks.sites.first().map(told).expect("sites");
        assert_eq!((blocks, bytes), (8, 7 * 512 + 1000), "{:?}", leaks.sites);
        assert!(symbol.contains("leak_wide"), "{:?}", leaks.sites);
    });
}
