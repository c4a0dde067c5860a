//! The kit of the integration tests.

pub mod standalone;
