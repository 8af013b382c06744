//! System call filters: Usnea's own and those that a request names.
//!
//! A profile is data here, as the OCI runtime specification means it; crate `runtime` compiles it with libseccomp and
//! skips names that libseccomp does not know.

mod default;
mod profile;

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator};

pub use default::runtime_default;
pub use profile::{Conditions, parse_profile};

fn argument(
    index: usize,
    op: LinuxSeccompOperator,
    value: u64,
    value_two: Option<u64>,
) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    let argument = match value_two {
        Some(value_two) => argument.value_two(value_two),
        None => argument,
    };
    // The builder gives each field a default and checks nothing: it cannot fail.
    argument.build().unwrap_or_default()
}
