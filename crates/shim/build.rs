//! Compiles `pause`, a program without a standard library, so that the shim can carry it inside.

use std::{
    env,
    error::Error,
    path::PathBuf,
    process::{Command, ExitStatus},
};

const SOURCE: &str = "pause/pause.rs";

/// What a program needs that brings its own entry point and no library.
const FLAGS: [&str; 16] = [
    "--edition=2024",
    "--crate-type=bin",
    "-Cpanic=abort",
    "-Copt-level=z",
    "-Cstrip=symbols",
    "-Crelocation-model=static",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    // Sections that only debuggers and linkers read, and padding between the others.
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-n",
    "-Clink-arg=-Wl,-z,noseparate-code",
    "-Clink-arg=-Wl,-z,norelro",
    "-Cdefault-linker-libraries=no",
    "-Cforce-unwind-tables=no",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("pause");
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc.args(FLAGS).args(["--target", &env::var("TARGET")?, SOURCE, "-o"]).arg(out);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    succeed(rustc.status()?)
}

fn succeed(status: ExitStatus) -> Result<(), Box<dyn Error>> {
    if status.success() { Ok(()) } else { Err(format!("compile {SOURCE}: {status}").into()) }
}
