//! Which images run on this machine.
//!
//! Source: OCI image specification, "Image Index", property `platform`.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, Os};

/// A variant that every machine of its architecture runs.
const BASE_LEVEL: u8 = 1;
/// Below everything that says that it is for this machine.
const UNKNOWN_LEVEL: u8 = 0;

/// How well the described image suits this machine; `None` when it does not run here.
///
/// A descriptor without a platform may suit. Attestations have the platform `unknown/unknown` and
/// fall out here.
pub(crate) fn rank(descriptor: &Descriptor) -> Option<u8> {
    let Some(platform) = descriptor.platform() else { return Some(UNKNOWN_LEVEL) };
    if *platform.os() != Os::Linux || *platform.architecture() != Arch::default() {
        return None;
    }
    let variant = platform.variant().as_deref().unwrap_or_default();
    level(platform.architecture(), variant).filter(|level| *level <= host_level())
}

/// The level of a variant of an architecture; `None` for one that is not known.
fn level(architecture: &Arch, variant: &str) -> Option<u8> {
    match (architecture, variant) {
        (_, "") | (Arch::Amd64, "v1") | (Arch::ARM64, "v8" | "v8.0") => Some(BASE_LEVEL),
        (Arch::Amd64, "v2") => Some(2),
        (Arch::Amd64, "v3") => Some(3),
        (Arch::Amd64, "v4") => Some(4),
        _ => None,
    }
}

/// The x86-64 psABI's level of this processor.
#[cfg(target_arch = "x86_64")]
fn host_level() -> u8 {
    use std::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
    let v3 = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("movbe");
    let v4 = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512vl");
    match (v2, v2 && v3, v2 && v3 && v4 && has!("avx512dq")) {
        (_, _, true) => 4,
        (_, true, _) => 3,
        (true, ..) => 2,
        _ => BASE_LEVEL,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_level() -> u8 {
    BASE_LEVEL
}

/// Whether the image is for this machine.
pub(crate) fn runs_here(config: &ImageConfiguration) -> bool {
    *config.os() == Os::Linux && *config.architecture() == Arch::default()
}

/// This machine, as `os/architecture`.
pub(crate) fn host() -> String {
    format!("linux/{}", Arch::default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(platform: &serde_json::Value) -> Descriptor {
        let digest = format!("sha256:{}", "0".repeat(64));
        serde_json::from_value(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest, "size": 2, "platform": platform,
        }))
        .unwrap()
    }

    #[test]
    fn what_does_not_run_here_has_no_rank() {
        let here = Arch::default().to_string();
        let other = if here == "amd64" { "arm64" } else { "amd64" };
        for (platform, suits) in [
            (json!({"os": "linux", "architecture": here}), true),
            (json!({"os": "linux", "architecture": here, "variant": ""}), true),
            (json!({"os": "linux", "architecture": here, "variant": "v99"}), false),
            (json!({"os": "linux", "architecture": other}), false),
            (json!({"os": "windows", "architecture": here}), false),
            (json!({"os": "unknown", "architecture": "unknown"}), false),
        ] {
            assert_eq!(rank(&descriptor(&platform)).is_some(), suits, "{platform}");
        }
    }

    #[test]
    fn variants_are_ordered() {
        assert_eq!(level(&Arch::Amd64, "v3"), Some(3));
        assert_eq!(level(&Arch::Amd64, "v8"), None);
        assert_eq!(level(&Arch::ARM64, "v8"), Some(BASE_LEVEL));
        assert!((BASE_LEVEL..=4).contains(&host_level()));
    }
}
