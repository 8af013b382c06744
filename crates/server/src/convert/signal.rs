//! CRI `Signal`, whose numbers are its own, ⇄ [`model::Signal`].

use cri_api::v1 as cri;
use model::{InvalidField, Signal};

use super::known;

const PREFIX: &str = "SIGNAL_";

/// Reads `stop_signal`; `None` leaves it to the image.
pub(super) fn from_cri(number: i32) -> Result<Option<Signal>, InvalidField> {
    let signal: cri::Signal = known("stop_signal", number)?;
    if signal == cri::Signal::RuntimeDefault {
        return Ok(None);
    }
    let name = signal.as_str_name();
    Signal::parse("stop_signal", name.strip_prefix(PREFIX).unwrap_or(name)).map(Some)
}

/// Shows the signal that stops a container. The kernel's 32 and 33, which the C library keeps for itself, have no
/// value; an image can ask for them by number all the same.
pub(crate) fn to_cri(signal: Signal) -> cri::Signal {
    let name = signal.to_string().replace('+', "PLUS").replace('-', "MINUS");
    cri::Signal::from_str_name(&format!("{PREFIX}{name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_cri_is_understood_and_shown() {
        assert_eq!(from_cri(0), Ok(None));
        for number in 1..=65 {
            let signal = from_cri(number).expect("known").expect("a signal");
            let shown = i32::from(to_cri(signal));
            assert_eq!(from_cri(shown), Ok(Some(signal)), "{number} is shown as {shown}");
        }
        from_cri(66).expect_err("one too many");
        from_cri(-1).expect_err("negative");
    }

    #[test]
    fn numbers_are_translated() {
        let term = from_cri(cri::Signal::Sigterm.into()).expect("known");
        assert_eq!(term, Some(Signal::TERM));
        assert_eq!(to_cri(Signal::KILL), cri::Signal::Sigkill);
    }
}
