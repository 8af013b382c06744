//! `usnea check`

use std::process::ExitCode;

use node::check::{Check, State};

use crate::{Outcome, config::Config, node_config};

pub(crate) fn run(config: &Config, json: bool) -> Outcome {
    let checks = node::check::check(&node_config(config));
    if json {
        println!("{}", serde_json::to_string_pretty(&checks)?);
    } else {
        checks.iter().for_each(|check| println!("{}", line(check)));
    }
    Ok(if node::check::verdict(&checks) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(check: &Check) -> String {
    let state = match check.state {
        State::Ok => "ok     ",
        State::Warning => "warning",
        State::Missing => "MISSING",
    };
    let remedy = check.remedy.as_ref().map_or_else(String::new, |remedy| format!(" -> {remedy}"));
    format!("{state} {}: {}{remedy}", check.name, check.found)
}
