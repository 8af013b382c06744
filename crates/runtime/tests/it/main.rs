//! Real containers, in namespaces of our own.
//!
//! This program has no test harness, because harness threads and fork do not go together. It is also the create
//! helper, as the shim is: it starts itself again.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test program")]
#![expect(clippy::print_stdout, reason = "there is no harness that would report")]

mod cases;
mod fixture;
mod measure;
mod node;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("create") {
        return runtime::create::helper_main();
    }
    let node = match node::Node::enter() {
        Ok(node) => node,
        Err(reason) => {
            println!("skipped: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    if let Ok(count) = std::env::var("MEASURE") {
        measure::run(&node, count.parse().expect("MEASURE is a number"));
        return ExitCode::SUCCESS;
    }
    let only = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    for (name, case) in cases::ALL {
        if only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            case(&node);
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}
