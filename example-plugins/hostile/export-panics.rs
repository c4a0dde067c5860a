//! Its functions panic.

use plug_api::{Context, Status};

plug_api::plugin! {
    name: "export-panics",
    version: "1.0.0",
    description: "panics when it is called",
    license: "MIT OR Apache-2.0",
    init: init,
    exit: exit,
}

plug_api::export! {
    /// Panics with a text.
    pub fn panics() -> Status {
        panic!("the export gives up");
    }

    /// Panics with a formatted text; returns a number when it does not (`n` is 0).
    pub fn panics_with(n: u64) -> u64 {
        assert!(n == 0, "cannot take {n}");
        42
    }

    /// Panics with a payload that is not text, and that panics again when it is dropped.
    pub fn panics_with_payload() -> Status {
        struct Again;
        impl Drop for Again {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        std::panic::panic_any(Again);
    }

    /// Does not panic.
    pub fn works(a: u64) -> u64 {
        a + 1
    }
}

fn init(_: &Context) -> plug_api::Result {
    Ok(())
}

fn exit() {}
