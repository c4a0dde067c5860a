//! Storms of publications and loads, and the workers that live through them.
//!
//! The loader has the first processor to itself, with its drainer and the threads it makes; workers
//! have the others. What a worker notices of a load is thus what the load does to it (interrupts,
//! cache lines, waiting) and not that two threads want one processor.

mod disturbance;
mod files;
mod workers;

pub use disturbance::{Disturber, Kind};
pub use workers::{Sample, Workers};
