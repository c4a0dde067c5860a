//! What plugin authors build against.
pub mod abi;
