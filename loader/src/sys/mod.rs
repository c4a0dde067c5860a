//! The only FFI and address casts of the loader, one system facility a file.

pub(crate) mod mapping;
