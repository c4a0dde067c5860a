//! What the benchmarks share: measuring in turns, one process for each group, and verdicts.

pub mod measure;
pub mod scenario;
pub mod verdict;
pub mod work;
