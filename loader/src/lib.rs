//! Loads, publishes, quiesces and truly unloads native plugins in a running process.

pub mod image;
mod sys;
