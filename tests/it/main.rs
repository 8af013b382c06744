//! Black-box tests: the built daemon, run by an ordinary user, driven through CRI.
//!
//! `scripts/test` builds the daemon and runs them all; `cargo test -p it -- exec::` runs those of a module.
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

mod bad_input;
mod check;
mod clients;
mod command;
mod command_images;
mod command_pull;
mod cycles;
mod exec;
mod exits;
mod hostile_images;
mod image_volumes;
mod images;
mod isolation;
mod lifecycle;
mod logs;
mod mounts;
mod namespaces;
mod node;
mod pulls;
mod restart;
mod stats;
mod stops;
mod unimplemented;
mod users;
mod without_cgroups;

use std::process::ExitCode;

fn main() -> ExitCode {
    let modules = [
        bad_input::tests(),
        check::tests(),
        clients::tests(),
        command::tests(),
        command_images::tests(),
        command_pull::tests(),
        cycles::tests(),
        exec::tests(),
        exits::tests(),
        hostile_images::tests(),
        image_volumes::tests(),
        images::tests(),
        isolation::tests(),
        lifecycle::tests(),
        logs::tests(),
        mounts::tests(),
        namespaces::tests(),
        node::tests(),
        pulls::tests(),
        restart::tests(),
        stats::tests(),
        stops::tests(),
        unimplemented::tests(),
        users::tests(),
        without_cgroups::tests(),
    ];
    it::run(modules.into_iter().flatten().collect())
}
