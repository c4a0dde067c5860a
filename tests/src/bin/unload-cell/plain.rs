//! A cell with plain `dlopen` and `dlclose`.

use std::path::Path;
use std::sync::atomic::Ordering;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use plug_tests::actors::Act;
use plug_tests::matrix::Column;

use crate::aftermath;
use crate::crew::Crew;
use crate::{Cell, WORDS, is_anything_left, own_objects, say};

/// Loads a plugin and has it act; nothing, and said, where that fails.
fn act(crew: &Crew, cell: &Cell, path: &Path) -> Option<Library> {
    // SAFETY: runs the plugin's constructors.
    let library = match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) } {
        Ok(library) => library,
        Err(error) => {
            say("failed", format!("does not load: {error}"));
            return None;
        }
    };
    // SAFETY: the signature is the plugin's own.
    let listen = unsafe { library.get::<extern "C" fn(u64) -> u32>(b"listen_at\0") };
    if let Ok(listen) = listen {
        listen(WORDS.as_ptr().addr() as u64);
    }
    // SAFETY: as above.
    let act = unsafe { library.get::<Act>(b"act\0") }.expect("exported");
    if !crew.act(*act, cell.what) {
        say("failed", "wrong answer");
        return None;
    }
    Some(library)
}

pub fn run(cell: &Cell) {
    aftermath::prepare();
    let mut crew = Crew::start(cell.column, None);
    let before = own_objects();
    let Some(library) = act(&crew, cell, &cell.library) else {
        return;
    };
    if let Some(beside) = &cell.beside {
        match act(&crew, cell, beside).map(Library::close) {
            Some(Ok(())) => {}
            Some(Err(error)) => return say("failed", error),
            None => return,
        }
    }
    say("acted", "");
    if cell.column == Column::Joined {
        crew.end();
    }
    // What a loader of plugins would do of itself.
    // SAFETY: as above.
    if let Ok(stop) = unsafe { library.get::<Act>(b"stop\0") } {
        // SAFETY: it is still there.
        unsafe { stop(0) };
    }
    match library.close() {
        Ok(()) => say("verdict", "unloaded"),
        Err(error) => say("verdict", format!("refused {error}")),
    }
    aftermath::go_on();
    say("mapped", u32::from(is_anything_left(cell, &before)));
    WORDS[1].store(1, Ordering::SeqCst);
    crew.end();
    say("ended", "");
}
