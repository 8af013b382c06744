//! CRI seccomp and AppArmor profiles → what is applied.

use cri::security_profile::ProfileType;
use cri_api::v1 as cri;
use engine::EngineError;
use model::{HostPath, InvalidField, SeccompProfile};

use super::{known, precondition};

const SECCOMP: &str = "linux.security_context.seccomp";
const SECCOMP_PATH: &str = "linux.security_context.seccomp_profile_path";
const APPARMOR: &str = "linux.security_context.apparmor";

/// Reads `seccomp`, and only without it the deprecated `seccomp_profile_path`. Neither is no filter. That a file has
/// a profile in it is found out when it is read; a broken one is never taken for none.
pub(super) fn seccomp(
    profile: Option<&cri::SecurityProfile>,
    deprecated_path: &str,
) -> Result<SeccompProfile, InvalidField> {
    let Some(profile) = profile else { return seccomp_path(deprecated_path) };
    let reference = profile.localhost_ref.as_str();
    let field = format!("{SECCOMP}.localhost_ref");
    match known(&format!("{SECCOMP}.profile_type"), profile.profile_type)? {
        ProfileType::Localhost => HostPath::parse(&field, reference).map(SeccompProfile::Localhost),
        ProfileType::RuntimeDefault | ProfileType::Unconfined if !reference.is_empty() => Err(
            InvalidField::new(field, reference, "is given, though profile_type is not Localhost"),
        ),
        ProfileType::RuntimeDefault => Ok(SeccompProfile::RuntimeDefault),
        ProfileType::Unconfined => Ok(SeccompProfile::Unconfined),
    }
}

fn seccomp_path(text: &str) -> Result<SeccompProfile, InvalidField> {
    match text {
        "" | "unconfined" => Ok(SeccompProfile::Unconfined),
        "runtime/default" | "docker/default" => Ok(SeccompProfile::RuntimeDefault),
        _ => match text.strip_prefix("localhost/") {
            Some(path) => HostPath::parse(SECCOMP_PATH, path).map(SeccompProfile::Localhost),
            None => {
                let reason = "is none of unconfined, runtime/default, localhost/<path>";
                Err(InvalidField::new(SECCOMP_PATH, text, reason))
            }
        },
    }
}

/// Checks `apparmor`, and only without it the deprecated `apparmor_profile`. The runtime's default is ignored:
/// loading profiles takes root on the host, so there is none, and peers that run without root do the same.
pub(super) fn check_apparmor(
    profile: Option<&cri::SecurityProfile>,
    deprecated_name: &str,
) -> Result<(), EngineError> {
    let localhost = match profile {
        Some(profile) => match known(&format!("{APPARMOR}.profile_type"), profile.profile_type)? {
            ProfileType::RuntimeDefault | ProfileType::Unconfined => return Ok(()),
            ProfileType::Localhost => profile.localhost_ref.as_str(),
        },
        None => match deprecated_name {
            "" | "unconfined" | "runtime/default" => return Ok(()),
            name => name,
        },
    };
    let reason = "profiles of the host cannot be applied without root; use Unconfined";
    Err(precondition(&format!("config.{APPARMOR}: {localhost:?}"), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(profile_type: ProfileType, localhost_ref: &str) -> cri::SecurityProfile {
        let localhost_ref = localhost_ref.to_owned();
        cri::SecurityProfile { profile_type: profile_type.into(), localhost_ref }
    }

    fn file(path: &str) -> SeccompProfile {
        SeccompProfile::Localhost(HostPath::parse("f", path).expect("absolute"))
    }

    /// C71
    #[test]
    fn nothing_said_is_unconfined() {
        assert_eq!(seccomp(None, ""), Ok(SeccompProfile::Unconfined));
    }

    #[test]
    fn the_new_field_wins() {
        let unconfined = profile(ProfileType::Unconfined, "");
        assert_eq!(seccomp(Some(&unconfined), "runtime/default"), Ok(SeccompProfile::Unconfined));
        let default = profile(ProfileType::RuntimeDefault, "");
        assert_eq!(seccomp(Some(&default), "nonsense"), Ok(SeccompProfile::RuntimeDefault));
        let localhost = profile(ProfileType::Localhost, "/p.json");
        assert_eq!(seccomp(Some(&localhost), ""), Ok(file("/p.json")));
    }

    #[test]
    fn deprecated_paths() {
        assert_eq!(seccomp(None, "unconfined"), Ok(SeccompProfile::Unconfined));
        assert_eq!(seccomp(None, "runtime/default"), Ok(SeccompProfile::RuntimeDefault));
        assert_eq!(seccomp(None, "docker/default"), Ok(SeccompProfile::RuntimeDefault));
        assert_eq!(seccomp(None, "localhost//p.json"), Ok(file("/p.json")));
        for bad in ["localhost/p.json", "localhost/", "localhost", "default", "/p.json"] {
            seccomp(None, bad).expect_err(bad);
        }
    }

    #[test]
    fn a_profile_that_names_no_file_is_never_taken_for_none() {
        for bad in [
            profile(ProfileType::Localhost, ""),
            profile(ProfileType::Localhost, "p.json"),
            profile(ProfileType::Unconfined, "/p.json"),
            cri::SecurityProfile { profile_type: 3, localhost_ref: String::new() },
        ] {
            seccomp(Some(&bad), "").expect_err("refused");
        }
    }

    #[test]
    fn apparmor_of_the_host_is_a_failed_precondition() {
        check_apparmor(None, "").expect("nothing said");
        check_apparmor(None, "runtime/default").expect("ignored");
        check_apparmor(Some(&profile(ProfileType::Unconfined, "")), "localhost/x").expect("wins");
        let localhost = profile(ProfileType::Localhost, "x");
        for refused in [check_apparmor(Some(&localhost), ""), check_apparmor(None, "localhost/x")] {
            let error = refused.expect_err("of the host");
            assert!(matches!(error, EngineError::Precondition { .. }), "{error:?}");
        }
    }
}
