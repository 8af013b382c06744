//! What the reader of the show sees.
#![expect(clippy::print_stdout, reason = "the show is the program's purpose")]

use std::io::{IsTerminal, stdout};

/// Begins a part of the show.
pub(crate) fn heading(text: &str) {
    let (bold, plain) = if stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    println!("\n{bold}== {text}{plain}");
}

/// Explains.
pub(crate) fn note(text: &str) {
    println!("{text}");
}

/// A command that is about to run.
pub(crate) fn command(text: &str) {
    println!("  $ {text}");
}

/// What a command printed, or a file contains.
pub(crate) fn output(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}
