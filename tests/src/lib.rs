//! The kit of the integration tests.

pub mod child;
pub mod host;
pub mod process;
pub mod standalone;
pub mod varlink;
