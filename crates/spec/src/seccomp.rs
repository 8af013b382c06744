//! System call filters: Usnea's own and those that a request names.
//!
//! A profile is data here; crate `runtime` compiles it with libseccomp, which skips names that it does not know.

mod default;
mod profile;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

pub use default::runtime_default;
pub use profile::{Conditions, parse_profile};

/// The same filter as libcontainer 0.7 reads it.
///
/// `SCMP_CMP_MASKED_EQ` has two operands: in every other runtime `value` is the mask and `valueTwo` what the masked
/// argument is compared with. libcontainer takes them the other way round, so that a rule such as "none of these bits"
/// would never match.
pub(crate) fn in_libcontainers_order(filter: &LinuxSeccomp) -> LinuxSeccomp {
    let mut filter = filter.clone();
    let rules = filter.syscalls().iter().flatten().map(with_operands_exchanged).collect();
    filter.set_syscalls(Some(rules));
    filter
}

fn with_operands_exchanged(rule: &LinuxSyscall) -> LinuxSyscall {
    let exchanged = |arg: &LinuxSeccompArg| match arg.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            argument(arg.index(), arg.op(), arg.value_two().unwrap_or(0), Some(arg.value()))
        }
        _ => *arg,
    };
    let mut rule = rule.clone();
    let args = rule.args().as_ref().map(|args| args.iter().map(exchanged).collect());
    rule.set_args(args);
    rule
}

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

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxSeccompAction;

    use super::*;

    fn with(args: Vec<LinuxSeccompArg>) -> LinuxSeccomp {
        let mut rule = LinuxSyscall::default();
        rule.set_names(vec!["clone".to_owned()]).set_args(Some(args));
        let mut filter = LinuxSeccomp::default();
        filter.set_default_action(LinuxSeccompAction::ScmpActErrno).set_syscalls(Some(vec![rule]));
        filter
    }

    #[test]
    fn only_masks_are_exchanged() {
        use LinuxSeccompOperator::{ScmpCmpLt, ScmpCmpMaskedEq};
        let given = with(vec![
            argument(0, ScmpCmpMaskedEq, 0x7e02_0000, None),
            argument(1, ScmpCmpMaskedEq, 0xff, Some(1)),
            argument(2, ScmpCmpLt, 5, None),
        ]);
        let expected = with(vec![
            argument(0, ScmpCmpMaskedEq, 0, Some(0x7e02_0000)),
            argument(1, ScmpCmpMaskedEq, 1, Some(0xff)),
            argument(2, ScmpCmpLt, 5, None),
        ]);
        assert_eq!(in_libcontainers_order(&given), expected);
    }
}
