//! The `usnea` command: configuration, wiring, command line.
//!
//! Never: domain logic. What a command does is crate `node`'s, `engine`'s, `image`'s or `server`'s business.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for people")]

mod check;
mod cli;
mod config;
mod image_command;
mod node_command;
mod serve;

use std::{error::Error, ffi::OsString, path::Path, process::ExitCode};

use clap::Parser;
use node::{HolderCommand, NodeConfig, NodeError};

use cli::{Cli, Command};
use config::Config;

/// What a command ends with: an exit code, or an error of any of the crates, which is printed with its causes.
type Outcome = Result<ExitCode, Box<dyn Error>>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("usnea: {}", chain(&*error));
            error
                .downcast_ref()
                .map_or(ExitCode::FAILURE, |error: &NodeError| ExitCode::from(error.exit_code()))
        }
    }
}

fn run(cli: &Cli) -> Outcome {
    if let Command::UnpackLayer { arguments } = &cli.command {
        return Ok(unpacker::child(arguments));
    }
    let config = Config::load(cli.config.as_deref())?;
    let holder = holder(cli.config.as_deref())?;
    match &cli.command {
        Command::Serve => serve::run(&config, &holder),
        Command::Node(command) => node_command::run(&config, &holder, command),
        Command::Check { json } => check::run(&config, *json),
        Command::Image(command) => image_command::run(&config, &holder, command),
        // Needs no configuration, and must not read any.
        Command::UnpackLayer { .. } => Ok(ExitCode::FAILURE),
    }
}

/// How the node's holder is started: this program, with the same configuration.
fn holder(config: Option<&Path>) -> Result<HolderCommand, Box<dyn Error>> {
    let mut arguments: Vec<OsString> = vec!["node".into(), "hold".into()];
    if let Some(path) = config {
        arguments.extend(["--config".into(), path.canonicalize()?.into()]);
    }
    Ok(HolderCommand { exe: std::env::current_exe()?, arguments })
}

fn node_config(config: &Config) -> NodeConfig {
    NodeConfig {
        runtime_dir: config.runtime_dir.clone(),
        data_dir: config.data_dir.clone(),
        writable_dirs: config.node.writable_dirs.clone(),
    }
}

/// An error and its causes, joined by `: `.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
