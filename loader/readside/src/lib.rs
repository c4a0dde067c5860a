//! Lock-free readers.
#![cfg_attr(not(plug_loom), no_std)]
