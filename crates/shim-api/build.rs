//! Compiles the shim's protocol to Rust without a `protoc` binary.

use std::error::Error;

const INCLUDE: &str = "../../proto/shim/v1";
const PROTO: &str = "../../proto/shim/v1/shim.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], [INCLUDE])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
