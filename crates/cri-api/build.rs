//! Compiles CRI v1 to Rust without a `protoc` binary.

use std::error::Error;

const INCLUDE: &str = "../../proto/runtime/v1";
const PROTO: &str = "../../proto/runtime/v1/api.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], [INCLUDE])?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
