//! How the black-box suite runs: tests by name, each with a daemon, cleaned up and audited.
//!
//! Most tests share one daemon, because starting one costs more than most tests do; those that kill it ask for their
//! own. Each test's pods carry its name in their namespace, so that whatever it leaves can be removed after it, failed or not.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a step that fails ends the test that took it"
)]
#![expect(
    clippy::large_futures,
    reason = "requests are large, and a test has few of them at a time"
)]

mod log;
mod scenario;
mod suite;

pub use log::{LogLine, parse_log};
pub use scenario::{Executed, Scenario};
pub use suite::{Outcome, Test, run};

/// Declares the tests of a module: `tests!("module": first, second);` makes a function `tests`.
#[macro_export]
macro_rules! tests {
    ($module:literal: $($name:ident),+ $(,)?) => {
        pub(crate) fn tests() -> Vec<$crate::Test> {
            vec![$($crate::Test::new(concat!($module, "::", stringify!($name)), $name)),+]
        }
    };
}

/// The image that most containers run: static busybox, see [`testkit::image::ImageBuilder::busybox`].
pub const BUSYBOX: &str = "usnea.test/busybox:1";
