//! `cargo run -p xtask -- tidy`: the invariants of docs/architecture.md that no compiler checks.
//!
//! Owns: which crate may depend on which, who may contain `unsafe`, and what no file may contain. Never: building.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for people")]

mod edges;
mod text;

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments != ["tidy"] {
        eprintln!("usage: xtask tidy");
        return ExitCode::from(2);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let findings: Vec<String> = edges::check(&root).into_iter().chain(text::check(&root)).collect();
    for finding in &findings {
        eprintln!("{finding}");
    }
    println!("tidy: {} findings", findings.len());
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
