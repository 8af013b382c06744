//! Imports images that are built here: good ones, and those an attacker would build.

#![expect(
    clippy::tests_outside_test_module,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "an integration test; a skipped one says why"
)]

mod arena;
mod differential;
mod export;
mod fixture;
mod fuzz;
mod good;
mod hostile;
mod hostile_image;
mod iunpack;
mod store;
