//! `usnea-shim`, the one process per pod: parent of its containers, writer of their logs, witness of their exits.
//!
//! The daemon starts it from a sealed memfd and may come and go; the shim stays. It has one thread and one event
//! loop. The same program is the short-lived helper in which libcontainer makes a container.
//!
//! Never: tokio, CRI, policy. What a container may do has been decided when its specification was written.

mod bundle;
mod cgroups;
mod connection;
mod container;
mod create;
mod error;
mod event_loop;
mod exec;
mod log;
mod log_file;
mod output;
mod pause;
mod pod;
mod processes;
mod requests;
mod shim;
mod state;
mod token;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    process::ExitCode,
};

const USAGE: &str = "\
usage: usnea-shim pod <pod id>    serve a pod; descriptor 3 is the listening socket
       usnea-shim create          make a container, as the first form asks
";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let arguments: Vec<Option<&str>> =
        arguments.iter().map(|argument| OsStr::to_str(argument)).collect();
    match arguments.as_slice() {
        // The id is for people who look at the list of processes.
        [Some("pod"), Some(_id)] => match event_loop::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                error.report();
                ExitCode::FAILURE
            }
        },
        [Some("create")] => runtime::create::helper_main(),
        _ => {
            // Without standard error there is nobody to tell.
            io::stderr().write_all(USAGE.as_bytes()).ok();
            ExitCode::from(2)
        }
    }
}
