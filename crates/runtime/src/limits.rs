//! Resource limits and the out-of-memory score, as far as an unprivileged node may set them.
//!
//! Raising a hard limit or lowering the score below its own value is refused to a process of a user namespace, and
//! libcontainer fails the whole container then. Both are requests rather than guarantees, so they are clamped.

use std::{fs, io::Write};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// The soft and hard values of `limit`, both lowered to the caller's own hard limit.
///
/// Source: `getrlimit(2)`.
pub(crate) fn clamp(limit: &PosixRlimit) -> Result<(u64, u64), Errno> {
    let (_, own_hard) = getrlimit(resource(limit.typ()))?;
    let hard = limit.hard().min(own_hard);
    Ok((limit.soft().min(hard), hard))
}

/// Applies `limit`, clamped, to the caller.
pub(crate) fn apply(limit: &PosixRlimit) -> Result<(), Errno> {
    let (soft, hard) = clamp(limit)?;
    setrlimit(resource(limit.typ()), soft, hard)
}

/// `score`, raised to the caller's own; unchanged where the own one is unknown.
///
/// Source: `proc_pid_oom_score_adj(5)`.
pub(crate) fn clamp_oom_score_adj(score: i32) -> i32 {
    let own = fs::read_to_string(OOM_SCORE_ADJ).ok().and_then(|text| text.trim().parse().ok());
    own.map_or(score, |own: i32| score.max(own))
}

/// Applies `score`, clamped, to the caller.
pub(crate) fn apply_oom_score_adj(score: i32) -> Result<(), Errno> {
    let score = clamp_oom_score_adj(score).to_string();
    let write = || fs::File::options().write(true).open(OOM_SCORE_ADJ)?.write_all(score.as_bytes());
    write()
        .map_err(|error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

fn resource(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => Resource::RLIMIT_CPU,
        T::RlimitFsize => Resource::RLIMIT_FSIZE,
        T::RlimitData => Resource::RLIMIT_DATA,
        T::RlimitStack => Resource::RLIMIT_STACK,
        T::RlimitCore => Resource::RLIMIT_CORE,
        T::RlimitRss => Resource::RLIMIT_RSS,
        T::RlimitNproc => Resource::RLIMIT_NPROC,
        T::RlimitNofile => Resource::RLIMIT_NOFILE,
        T::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        T::RlimitAs => Resource::RLIMIT_AS,
        T::RlimitLocks => Resource::RLIMIT_LOCKS,
        T::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        T::RlimitNice => Resource::RLIMIT_NICE,
        T::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        T::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::PosixRlimitBuilder;

    use super::*;

    #[test]
    fn limits_are_lowered_to_the_own_hard_limit_and_never_raised() {
        let (_, own_hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("own limit");
        let limit = |soft: u64, hard: u64| {
            let builder = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile);
            clamp(&builder.soft(soft).hard(hard).build().expect("limit")).expect("clamp")
        };
        assert_eq!(limit(u64::MAX, u64::MAX), (own_hard, own_hard));
        assert_eq!(limit(10, 20), (10, 20));
        assert_eq!(limit(30, 20), (20, 20));
    }

    #[test]
    fn the_score_is_not_lowered_below_the_own() {
        let own: i32 =
            fs::read_to_string(OOM_SCORE_ADJ).expect("score").trim().parse().expect("number");
        assert_eq!(clamp_oom_score_adj(own - 1), own);
        assert_eq!(clamp_oom_score_adj(own + 1), own + 1);
    }
}
