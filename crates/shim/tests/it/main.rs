//! The built shim, talked to as the daemon does.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::tests_outside_test_module,
    reason = "a crate of tests, whose skips say why"
)]

mod containers;
mod execs;
mod fixture;
mod harness;
mod pod;
