//! Nodes that an ordinary user makes, through the example program `node-cli`.
//!
//! As root the tests run it as a user without privileges; as anybody else, as the caller.
#![expect(
    clippy::tests_outside_test_module,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a crate of tests, whose skips say why"
)]

mod directories;
mod entering;
mod holder;
mod hosts;
mod sandbox;
