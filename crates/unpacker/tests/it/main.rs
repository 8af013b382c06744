//! Unpackers as processes: this program, started anew by [`Unpacker`](unpacker::Unpacker), is the child.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first thing that does not hold, and says what it leaves out"
)]

mod confinement;
mod layers;
mod measure;
mod misbehaving;
mod node;
mod unpacking;

use std::{ffi::OsString, panic::UnwindSafe, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

/// What makes this program unpack a layer.
const UNPACK: &str = "unpack-layer";
/// What makes this program confine itself and try something.
const PROBE: &str = "probe";
/// What makes this program give up a capability and then unpack a layer.
const WEAK: &str = "without";
/// What makes this program hide newer system calls and then unpack a layer.
const OLD: &str = "before";
/// What makes this program enter a user namespace and check something there.
const NODE: &str = "in-node";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == UNPACK => return unpacker::child(rest),
        Some((first, rest)) if first == PROBE => return confinement::probe(rest),
        Some((first, rest)) if first == WEAK => return node::unpack_without(rest),
        Some((first, rest)) if first == OLD => return node::unpack_before(rest),
        Some((first, rest)) if first == NODE => return node::check(rest),
        _ => {}
    }
    let trials = [
        unpacking::trials(),
        misbehaving::trials(),
        confinement::trials(),
        node::trials(),
        measure::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A named test that fails by a panic.
fn trial(name: &str, test: impl FnOnce() + Send + UnwindSafe + 'static) -> Trial {
    Trial::test(name, move || {
        std::panic::catch_unwind(test).map_err(|cause| {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Failed::from(text.unwrap_or_default())
        })
    })
}
