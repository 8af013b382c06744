//! The child: confine, unpack, answer.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::RawFd;
use std::process::ExitCode;

use image::{UnpackOptions, unpack_layer_recording};
use sys::{fd::adopt_inherited, process::SingleThreaded};

use crate::answer::{Answer, chain};
use crate::confine::confine;

/// The blob's bytes.
pub(crate) const INPUT: RawFd = 0;
/// Where the answer goes.
pub(crate) const OUTPUT: RawFd = 1;
/// Nowhere: what a layer makes us say belongs into the answer.
pub(crate) const ERRORS: RawFd = 2;
/// The directory to unpack into.
pub(crate) const TARGET: RawFd = 3;
/// The file for the transcript.
pub(crate) const TRANSCRIPT: RawFd = 4;

/// What the program that [`Unpacker`](crate::Unpacker) starts has to do: unpack one layer.
///
/// `arguments` are those after the ones that were given to [`Unpacker::new`](crate::Unpacker::new).
/// Must be called before the process has a second thread, and once.
pub fn child(arguments: &[OsString]) -> ExitCode {
    let Some(mut output) = adopt_inherited(OUTPUT).map(File::from) else {
        return ExitCode::FAILURE;
    };
    let answer = run(arguments).unwrap_or_else(|message| Answer::Failed { message });
    let written = serde_json::to_vec(&answer).ok().map(|json| output.write_all(&json));
    if matches!(written, Some(Ok(()))) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(arguments: &[OsString]) -> Result<Answer, String> {
    let [options] = arguments else { return Err("one argument is expected".to_owned()) };
    let options = options.to_str().ok_or_else(|| "options are no text".to_owned())?;
    let options: UnpackOptions =
        serde_json::from_str(options).map_err(|error| format!("options: {error}"))?;
    let blob = adopt_inherited(INPUT).map(File::from).ok_or("no input")?;
    let target = adopt_inherited(TARGET).ok_or("no directory")?;
    let transcript = adopt_inherited(TRANSCRIPT).map(File::from).ok_or("no transcript")?;
    let alone = SingleThreaded::prove().map_err(|error| chain(&error))?;
    confine(alone, &target, &options.limits).map_err(|error| chain(&error))?;
    Ok(Answer::of(unpack_layer_recording(blob, target, transcript, &options)))
}
