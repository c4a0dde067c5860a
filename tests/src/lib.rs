//! The kit of the integration tests.

pub mod actors;
pub mod allocations;
pub mod child;
pub mod confinement;
pub mod ending;
pub mod host;
pub mod journal;
pub mod libraries;
pub mod matrix;
pub mod mutation;
pub mod oracle;
pub mod process;
pub mod relay;
pub mod standalone;
pub mod storm;
pub mod varlink;
pub mod warnings;

/// The pages for authors of plugins and of hosts, whose code is compiled here.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../docs/authors.md")]
    struct Authors;
    #[doc = include_str!("../../docs/hosts.md")]
    struct Hosts;
}
