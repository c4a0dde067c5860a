//! A host whose own segments leave gaps between them: audits its first thread, on whose stack calls of
//! the plugin left words behind.
//!
//! `gaps-host PLUGIN`, which exports `deep`

use std::env;
use std::hint;
use std::mem::{self, MaybeUninit};
use std::ops::Range;

use plug_loader::Unloaded;
use plug_tests::host::{Host, seconds};
use plug_tests::process;

type Deep = unsafe extern "C" fn(u64) -> u64;

fn main() {
    let path = env::args_os().nth(1).expect("a plugin's path");
    let host = Host::new();
    let plugin = host.load(path).expect("loads");
    let deep = plugin.address_of("deep").expect("exported");
    // SAFETY: the fixture's own signature.
    let deep: Deep = unsafe { mem::transmute(deep) };
    // SAFETY: as above; the plugin is there.
    assert!(unsafe { deep(60) } > 0);
    let (start, end) = plugin.range();
    above_what_was(&(start..end), || {
        let holders = host.loader.audit(&plugin, seconds(5));
        println!("{} holders {holders:?}", holders.len());
        let verdict = host.loader.unload(plugin.name(), seconds(5));
        println!("gone: {}", matches!(verdict, Ok(Unloaded::Gone(_))));
    });
}

/// Runs `job` below a buffer that nobody wrote to, and tells how many words lead into `code`.
#[inline(never)]
fn above_what_was(code: &Range<usize>, job: impl FnOnce()) {
    let mut room = [const { MaybeUninit::<usize>::uninit() }; 512];
    let start = hint::black_box(room.as_mut_ptr());
    let words = process::words(start.addr(), room.len());
    let words = words.iter().filter(|word| code.contains(word));
    println!("{} words left", words.count());
    job();
    hint::black_box(&mut room);
}
