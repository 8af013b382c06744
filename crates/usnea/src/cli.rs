//! The command line.

mod image;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
pub(crate) use image::{
    ExportArguments, ImageCommand, ImportArguments, ListArguments, OutputFormat, PruneArguments,
    PullArguments, RemoveArguments,
};

use crate::config::UNPACK_LAYER;

/// Rootless Kubernetes pods.
#[derive(Debug, Parser)]
#[command(name = "usnea", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Configuration file [default: $XDG_CONFIG_HOME/usnea/config.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the CRI; starts the node when it does not run.
    Serve,
    /// The namespaces that everything of Usnea lives in.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Say what this host offers, with the remedy for what is missing; exit code 1 if something essential is.
    Check {
        /// One JSON array instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Images: pull, list, remove.
    #[command(subcommand)]
    Image(ImageCommand),
    /// What unpacks one layer; the daemon starts it.
    #[command(name = UNPACK_LAYER, hide = true)]
    UnpackLayer {
        /// What the daemon says.
        arguments: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Make the node's namespaces and hold them until SIGTERM.
    Hold,
    /// Run a command inside the node, as its root.
    Exec {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Show the running node as JSON; exit code 1 if there is none.
    Status,
}
