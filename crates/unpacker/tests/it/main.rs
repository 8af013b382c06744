//! Unpackers as processes: this program, started anew by [`Unpacker`], is the child.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first thing that does not hold"
)]

mod confinement;
mod unpacking;

use std::{ffi::OsString, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

/// What makes this program unpack a layer.
const UNPACK: &str = "unpack-layer";
/// What makes this program confine itself and try something.
const PROBE: &str = "probe";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == UNPACK => return unpacker::child(rest),
        Some((first, rest)) if first == PROBE => return confinement::probe(rest),
        _ => {}
    }
    let trials = [unpacking::trials(), confinement::trials()].concat_all();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A named test that fails by a panic.
fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        std::panic::catch_unwind(test).map_err(|cause| {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Failed::from(text.unwrap_or_default())
        })
    })
}

trait ConcatAll {
    fn concat_all(self) -> Vec<Trial>;
}

impl<const N: usize> ConcatAll for [Vec<Trial>; N] {
    fn concat_all(self) -> Vec<Trial> {
        self.into_iter().flatten().collect()
    }
}
