//! Capability sets of a specification.
//!
//! Source: `capabilities(7)`, OCI runtime specification `process.capabilities`.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use libcontainer::capabilities::CapabilityExt;
use oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// The five sets; what the specification omits is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CapabilitySets {
    pub(crate) bounding: CapsHashSet,
    pub(crate) effective: CapsHashSet,
    pub(crate) permitted: CapsHashSet,
    pub(crate) inheritable: CapsHashSet,
    pub(crate) ambient: CapsHashSet,
}

impl CapabilitySets {
    pub(crate) fn of(spec: Option<&LinuxCapabilities>) -> Self {
        let Some(spec) = spec else { return Self::default() };
        Self {
            bounding: set(spec.bounding().as_ref()),
            effective: set(spec.effective().as_ref()),
            permitted: set(spec.permitted().as_ref()),
            inheritable: set(spec.inheritable().as_ref()),
            ambient: set(spec.ambient().as_ref()),
        }
    }

    /// Makes the caller's sets these, as far as it has what they name.
    pub(crate) fn apply(&self) -> Result<(), CapsError> {
        for extra in caps::read(None, CapSet::Bounding)?.difference(&self.bounding) {
            caps::drop(None, CapSet::Bounding, *extra)?;
        }
        // Ambient first: a permitted set without them would lower them anyway, and raising needs all three others.
        caps::clear(None, CapSet::Ambient)?;
        caps::set(None, CapSet::Effective, &self.effective)?;
        caps::set(None, CapSet::Permitted, &self.permitted)?;
        caps::set(None, CapSet::Inheritable, &self.inheritable)?;
        // One that is not both permitted and inheritable cannot be raised; runc and libcontainer skip it as well.
        for wanted in self.ambient.intersection(&self.inheritable) {
            if self.permitted.contains(wanted) {
                caps::raise(None, CapSet::Ambient, *wanted)?;
            }
        }
        Ok(())
    }
}

/// Gives the caller everything that it is permitted: what a change of the user id took from the effective set.
pub(crate) fn reset_effective() -> Result<(), CapsError> {
    caps::set(None, CapSet::Effective, &caps::read(None, CapSet::Permitted)?)
}

/// As in the `Cap…` lines of `/proc/PID/status`.
pub(crate) fn mask(set: &CapsHashSet) -> u64 {
    set.iter().map(Capability::bitmask).fold(0, |mask, bit| mask | bit)
}

fn set(capabilities: Option<&Capabilities>) -> CapsHashSet {
    capabilities.into_iter().flatten().map(CapabilityExt::to_cap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_the_kernels() {
        let json = r#"{"bounding":["CAP_CHOWN","CAP_KILL"],"effective":["CAP_CHOWN"]}"#;
        let spec: LinuxCapabilities = serde_json::from_str(json).expect("capabilities");
        let sets = CapabilitySets::of(Some(&spec));
        assert_eq!(mask(&sets.bounding), 0x21);
        assert_eq!(mask(&sets.effective), 1);
        assert_eq!(mask(&sets.permitted), 0);
    }

    #[test]
    fn no_capabilities_means_none() {
        assert_eq!(CapabilitySets::of(None), CapabilitySets::default());
    }
}
