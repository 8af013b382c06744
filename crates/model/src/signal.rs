//! Signals by name and number.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::InvalidField;

/// Names of `signal(7)` at the index of their number, x86 and ARM; index 0 is no signal.
const NAMES: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Other names for the same numbers.
const ALIASES: [(&str, i32); 4] = [("CLD", 17), ("IOT", 6), ("POLL", 29), ("UNUSED", 31)];
/// First and last real-time signal that a program may use with glibc or musl.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// A signal number from 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

impl Signal {
    /// What ends a container unless it says otherwise.
    pub const TERM: Self = Self(15);
    /// What ends anything.
    pub const KILL: Self = Self(9);

    /// Takes a number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=RT_MAX).contains(&number).then_some(Self(number))
    }

    /// Reads `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`, in any case: CRI `Signal` values, OCI image
    /// `StopSignal`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(field: &str, text: &str) -> Result<Self, InvalidField> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = name.parse().ok().or_else(|| named(name)).or_else(|| real_time(name));
        number.and_then(Self::from_number).ok_or_else(|| {
            InvalidField::new(
                field,
                text,
                "is no signal; give a name such as SIGTERM or a number from 1 to 64",
            )
        })
    }

    /// The number that `kill(2)` takes.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

fn named(name: &str) -> Option<i32> {
    let listed = (0..).zip(NAMES).skip(1).find(|(_, known)| *known == name);
    let alias = || ALIASES.iter().find(|(known, _)| *known == name);
    listed.map(|(number, _)| number).or_else(|| alias().map(|(_, number)| *number))
}

fn real_time(name: &str) -> Option<i32> {
    // CRI enum values spell the sign out: SIGRTMINPLUS3, SIGRTMAXMINUS14.
    let name = name.replace("PLUS", "+").replace("MINUS", "-");
    let (base, offset) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (RT_MIN, rest)
    } else {
        (RT_MAX, name.strip_prefix("RTMAX")?)
    };
    let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
    base.checked_add(offset).filter(|number| (RT_MIN..=RT_MAX).contains(number))
}

impl fmt::Display for Signal {
    /// As the CRI and `signal(7)` spell it: `SIGTERM`, `SIGRTMIN+3`, `SIGRTMAX-14`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::try_from(self.0).ok().and_then(|index| NAMES.get(index));
        match (name, self.0) {
            (Some(name), _) => write!(f, "SIG{name}"),
            (None, RT_MIN) => f.write_str("SIGRTMIN"),
            (None, RT_MAX) => f.write_str("SIGRTMAX"),
            (None, number @ 35..=49) => write!(f, "SIGRTMIN+{}", number - RT_MIN),
            (None, number @ 50..) => write!(f, "SIGRTMAX-{}", RT_MAX - number),
            (None, number) => write!(f, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> i32 {
        Signal::parse("stop_signal", text).expect(text).number()
    }

    #[test]
    fn all_spellings() {
        assert_eq!(number("SIGTERM"), 15);
        assert_eq!(number("quit"), 3);
        assert_eq!(number("37"), 37);
        assert_eq!(number("SIGRTMIN+3"), 37);
        assert_eq!(number("SIGRTMINPLUS3"), 37);
        assert_eq!(number("RTMAX-14"), 50);
        assert_eq!(number("SIGRTMAXMINUS14"), 50);
        assert_eq!(number("SIGCLD"), 17);
        assert_eq!(number("SIGPOLL"), number("SIGIO"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "SIG", "0", "65", "-1", "SIGRTMIN+31", "SIGRTMAX+1", "SIGNOPE", "15x"] {
            Signal::parse("stop_signal", bad).expect_err(bad);
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for n in (1..=31).chain(RT_MIN..=RT_MAX) {
            let signal = Signal::from_number(n).expect("in range");
            assert_eq!(number(&signal.to_string()), n);
        }
    }
}
