//! Its init panics.

use plug_api::Context;

plug_api::plugin! {
    name: "init-panics",
    version: "1.0.0",
    description: "panics while it starts",
    license: "MIT OR Apache-2.0",
    init: init,
    exit: exit,
}

fn init(_: &Context) -> plug_api::Result {
    panic!("init gives up");
}

fn exit() {}
