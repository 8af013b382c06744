//! What black-box tests of Usnea need: an ordinary user, a daemon of its own, requests, images, and the leak audit.
//!
//! Knows the product only from outside: its binaries, its directories and CRI. Links none of its crates but the
//! generated `cri-api` and, for one system call, `sys`, so that a test cannot pass by sharing a mistake with the code it tests. Ships with nothing.
//!
//! A fixture that cannot be set up panics with the reason, which fails the test that asked for it; what a machine
//! does not offer is a [`Skip`], which says why.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a fixture that cannot be set up ends the test that asked for it"
)]

mod account;
pub mod audit;
mod client;
pub mod docker_registry;
pub mod hostile;
pub mod image;
mod instance;
pub mod processes;
pub mod registry;
mod requests;
mod stage;
pub mod valve;

pub use account::Account;
pub use client::{Cri, connect};
pub use instance::{Instance, Options};
pub use requests::{ContainerSpec, PodSpec, container, pod};

/// Why something cannot be tested here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip(pub String);

impl Skip {
    /// A reason for people.
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}
