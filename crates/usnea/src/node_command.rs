//! `usnea node …`

use std::process::ExitCode;

use node::HolderCommand;

use crate::{Outcome, cli::NodeCommand, config::Config, node_config};

pub(crate) fn run(config: &Config, holder: &HolderCommand, command: &NodeCommand) -> Outcome {
    let config = node_config(config);
    match command {
        NodeCommand::Hold => {
            node::hold(&config)?;
            Ok(ExitCode::SUCCESS)
        }
        NodeCommand::Exec { command } => match node::exec(&config, holder, command)? {},
        NodeCommand::Status => match node::find(&config)? {
            Some(node) => {
                println!("{}", serde_json::to_string_pretty(node.facts())?);
                Ok(ExitCode::SUCCESS)
            }
            None => {
                eprintln!("usnea: no node runs; `usnea serve` starts one");
                Ok(ExitCode::FAILURE)
            }
        },
    }
}
