//! The only calls into libc and ld.so, and the only address casts.

pub(crate) mod actions;
pub(crate) mod alternate_stack;
pub(crate) mod arguments;
pub(crate) mod clock;
pub(crate) mod code;
pub(crate) mod data;
pub(crate) mod descriptor;
pub(crate) mod dl;
pub(crate) mod inherited;
pub(crate) mod link_map;
pub(crate) mod mapping;
pub(crate) mod membarrier;
pub(crate) mod notices;
pub(crate) mod objects;
pub(crate) mod pages;
pub(crate) mod process_exit;
pub(crate) mod slots;
pub(crate) mod spawn;
pub(crate) mod task;
pub(crate) mod thread;
pub(crate) mod thread_exit;
pub(crate) mod timer;
