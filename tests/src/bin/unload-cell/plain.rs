//! A cell with plain `dlopen` and `dlclose`.

use std::sync::atomic::Ordering;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use plug_tests::actors::Act;
use plug_tests::matrix::Column;

use crate::aftermath;
use crate::crew::Crew;
use crate::{Cell, WORDS, is_anything_left, own_objects, say};

pub fn run(cell: &Cell) {
    aftermath::prepare();
    let mut crew = Crew::start(cell.column, None);
    let before = own_objects();
    // SAFETY: runs the plugin's constructors.
    let library = match unsafe { Library::open(Some(&cell.library), RTLD_NOW | RTLD_LOCAL) } {
        Ok(library) => library,
        Err(error) => return say("failed", format!("does not load: {error}")),
    };
    // SAFETY: the signature is the plugin's own.
    let listen = unsafe { library.get::<extern "C" fn(u64) -> u32>(b"listen_at\0") };
    if let Ok(listen) = listen {
        listen(WORDS.as_ptr().addr() as u64);
    }
    // SAFETY: as above.
    let act = unsafe { library.get::<Act>(b"act\0") }.expect("exported");
    if !crew.act(*act, cell.what) {
        return say("failed", "it did not do it");
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
    say("mapped", u32::from(is_anything_left(&before)));
    WORDS[1].store(1, Ordering::SeqCst);
    crew.end();
    say("ended", "");
}
