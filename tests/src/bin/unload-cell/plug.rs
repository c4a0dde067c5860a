//! A cell with Plug.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use plug_loader::{Deadline, Lingering, Plugin, Unloaded};
use plug_tests::actors::address;
use plug_tests::host::Host;
use plug_tests::matrix::Column;

use crate::aftermath;
use crate::crew::Crew;
use crate::{Cell, Threads, WORDS, is_anything_left, own_objects, say};

/// How long an unload may wait.
fn patience(threads: Threads) -> Duration {
    match threads {
        Threads::Go => Duration::from_secs(20),
        // Until their end is waited for in vain.
        Threads::Linger | Threads::Stay => Duration::from_millis(100),
    }
}

/// How long a zombie may take that is going to leave, and how often it is looked for at least: on a
/// machine that has no processor for this process, time alone says nothing.
const LONG: (Duration, u32) = (Duration::from_secs(10), 5_000);

/// As long for one that is not.
const SHORT: (Duration, u32) = (Duration::from_millis(200), 100);

/// Waits until the zombie has left. Time during which this thread, which sleeps like the one that
/// collects zombies, was not given the processor that it asked for, is not counted.
fn until_it_leaves(host: &Host, threads: Threads) -> Result<Duration, Box<Option<Lingering>>> {
    const NAP: Duration = Duration::from_micros(500);
    const STARVED: Duration = Duration::from_millis(5);
    let (time, looks) = match threads {
        Threads::Stay => SHORT,
        Threads::Go | Threads::Linger => LONG,
    };
    let (began, mut looked, mut starved) = (Instant::now(), 0, Duration::ZERO);
    loop {
        let left = host.loader.zombies();
        if left.is_empty() {
            return Ok(began.elapsed().saturating_sub(starved));
        }
        if looked > looks && began.elapsed() > time {
            return Err(Box::new(left.into_iter().next()));
        }
        let slept = Instant::now();
        thread::sleep(NAP);
        let over = slept.elapsed().saturating_sub(NAP);
        if over > STARVED {
            starved += over;
        }
        looked += 1;
    }
}

/// Loads a plugin and has it act; nothing, and said, where that fails.
fn act(host: &Host, crew: &Crew, cell: &Cell, library: &Path) -> Option<Plugin> {
    let plugin = match host.load(library) {
        Ok(plugin) => plugin,
        Err(error) => {
            say("failed", format!("does not load: {error:#}"));
            return None;
        }
    };
    if let Some(at) = plugin.address_of("listen_at") {
        // SAFETY: the signature is the plugin's own.
        let listen = unsafe { std::mem::transmute::<usize, extern "C" fn(u64) -> u32>(at) };
        listen(WORDS.as_ptr().addr() as u64);
    }
    if !crew.act(address(&plugin, "act"), cell.what) {
        say("failed", "wrong answer");
        return None;
    }
    Some(plugin)
}

/// Has the other plugin come, act and go, if there is to be one; whether it did.
fn comes_and_goes(host: &Host, crew: &Crew, cell: &Cell) -> bool {
    let Some(library) = &cell.beside else {
        return true;
    };
    let Some(plugin) = act(host, crew, cell, library) else {
        return false;
    };
    let deadline = Deadline::after(LONG.0);
    match host.loader.unload_exactly(&plugin, deadline) {
        Ok(Unloaded::Gone(_)) => true,
        other => {
            say("failed", format!("the second one: {other:?}"));
            false
        }
    }
}

pub fn run(cell: &Cell) {
    aftermath::prepare();
    let host = Host::new();
    let mut crew = Crew::start(cell.column, Some(&host.loader));
    let before = own_objects();
    let Some(plugin) = act(&host, &crew, cell, &cell.library) else {
        return;
    };
    // Beside the first one while that is Live, or, below, while that is a zombie.
    if cell.threads == Threads::Go && !comes_and_goes(&host, &crew, cell) {
        return;
    }
    say("acted", "");
    if cell.column == Column::Joined {
        crew.end();
    }
    let is_zombie = match host
        .loader
        .unload(plugin.name(), Deadline::after(patience(cell.threads)))
    {
        Ok(Unloaded::Gone(_)) => {
            say("verdict", "unloaded");
            false
        }
        Ok(Unloaded::Zombie(left)) => {
            say("verdict", format!("zombie {left}"));
            true
        }
        Ok(Unloaded::Pinned(left)) => {
            say("verdict", format!("pinned {left}"));
            false
        }
        Err(error) => {
            say("verdict", format!("refused {error:#}"));
            false
        }
    };
    if is_zombie {
        if !comes_and_goes(&host, &crew, cell) {
            return;
        }
        WORDS[1].store(1, Ordering::SeqCst);
        // Its own thread may owe the plugin something, too.
        crew.end();
        match until_it_leaves(&host, cell.threads) {
            Ok(took) => say("left", took.as_micros()),
            // What holds it by now.
            Err(left) => {
                if let Some(left) = *left {
                    say("verdict", format!("zombie {left}"));
                }
            }
        }
    }
    aftermath::go_on();
    say("mapped", u32::from(is_anything_left(cell, &before)));
    crew.end();
    say("ended", "");
}
