//! What an epoll event is about, as the number that the kernel keeps for us.

use crate::log::Stream;

/// The subject of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A daemon wants to connect.
    Listener,
    /// The connected daemon has sent something, has read something, or is gone.
    Connection,
    /// A child has ended, or the shim is asked to.
    Signals,
    /// Output of the container with this number.
    Output(u32, Stream),
    /// The cgroup of the exec with this number may be empty.
    ExecCgroup(u32),
}

impl Token {
    pub(crate) fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Listener => (0, 0),
            Self::Connection => (1, 0),
            Self::Signals => (2, 0),
            Self::Output(number, Stream::Stdout) => (3, number),
            Self::Output(number, Stream::Stderr) => (4, number),
            Self::ExecCgroup(number) => (5, number),
        };
        kind << 32 | u64::from(number)
    }

    pub(crate) fn decode(data: u64) -> Option<Self> {
        let number = u32::try_from(data & u64::from(u32::MAX)).ok()?;
        match data >> 32 {
            0 => Some(Self::Listener),
            1 => Some(Self::Connection),
            2 => Some(Self::Signals),
            3 => Some(Self::Output(number, Stream::Stdout)),
            4 => Some(Self::Output(number, Stream::Stderr)),
            5 => Some(Self::ExecCgroup(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_survives_the_kernel() {
        for token in [
            Token::Listener,
            Token::Connection,
            Token::Signals,
            Token::Output(0, Stream::Stdout),
            Token::Output(u32::MAX, Stream::Stderr),
            Token::ExecCgroup(7),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
