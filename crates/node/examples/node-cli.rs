//! The smallest program around a node: `node-cli RUNTIME_DIR DATA_DIR WRITABLE_DIRS COMMAND …`, with a `:` between
//! directories. The tests of this crate run it as an ordinary user.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line")]

use std::{error::Error, ffi::OsString, path::PathBuf, process::ExitCode};

use node::{HolderCommand, NodeConfig, NodeError};
use sys::{ns::Namespace, process::SingleThreaded};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", chain(&*error));
            error.downcast_ref().map_or(1, NodeError::exit_code).into()
        }
    }
}

fn run(arguments: &[OsString]) -> Result<ExitCode, Box<dyn Error>> {
    let [exe, runtime_dir, data_dir, writable, command, rest @ ..] = arguments else {
        return Err(
            "node-cli RUNTIME_DIR DATA_DIR WRITABLE_DIRS hold|facts|enter|exec|check …".into()
        );
    };
    let config = NodeConfig {
        writable_dirs: std::env::split_paths(writable).collect(),
        ..NodeConfig::new(runtime_dir.into(), data_dir.into())
    };
    let arguments = [runtime_dir, data_dir, writable].map(Clone::clone);
    let arguments = arguments.into_iter().chain(["hold".into()]).collect();
    let holder = HolderCommand { exe: PathBuf::from(exe), arguments };
    match command.to_str() {
        Some("hold") => node::hold(&config)?,
        Some("facts") => {
            let node = node::find_or_start(&config, &holder)?;
            println!("{}", serde_json::to_string(node.facts())?);
        }
        Some("enter") => enter(&config, &holder)?,
        Some("exec") => match node::exec(&config, &holder, rest)? {},
        Some("check") => {
            let checks = node::check::check(&config);
            println!("{}", serde_json::to_string_pretty(&checks)?);
            return Ok(if node::check::verdict(&checks) { 0 } else { 1 }.into());
        }
        _ => return Err("no such command".into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Enters as a daemon does and tells where it is, as JSON.
fn enter(config: &NodeConfig, holder: &HolderCommand) -> Result<(), Box<dyn Error>> {
    let network_before = std::fs::read_link("/proc/self/ns/net")?;
    let node = node::find_or_start(config, holder)?;
    let entered = node.enter(SingleThreaded::prove()?)?;
    let network = Namespace::Network.open(None)?;
    println!(
        "{}",
        serde_json::json!({
            "facts": entered.facts,
            "uid": nix::unistd::geteuid().as_raw(),
            "directory": std::env::current_dir()?,
            "same_network": std::fs::read_link("/proc/self/ns/net")? == network_before,
            "network_is_the_nodes": sys::ns::same(&network, &entered.network)?,
            "network_is_the_hosts": sys::ns::same(&network, &entered.host_network)?,
            "cgroup": sys::cgroup::own_path(),
            "placement_problem": entered.placement_problem,
            "cri": entered.cri_listener.local_addr()?.as_pathname(),
        })
    );
    Ok(())
}

fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
