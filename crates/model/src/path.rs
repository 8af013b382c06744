//! Paths that come in requests, each with the rule that makes it harmless.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::InvalidField;

const LONGEST_PATH_BYTES: usize = 4095;
const LONGEST_COMPONENT_BYTES: usize = 255;

/// Where the node has its daemons, its shims, and pods without a `cgroup_parent`.
const RESERVED_CGROUPS: [&str; 4] = ["/exec", "/shims", "/system", "/usnea"];

macro_rules! checked_path {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(PathBuf);

        impl $name {
            /// The path, as far as its kind is cleaned.
            #[must_use]
            pub fn as_path(&self) -> &Path {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.display().fmt(f)
            }
        }
    };
}

checked_path! {
    /// Absolute path inside a container, without `.` and `..`; not `/` and not in `/proc`.
    ContainerPath
}
checked_path! {
    /// Absolute path on the node; symbolic links in it are followed.
    HostPath
}
checked_path! {
    /// Path of a log file below the pod's log directory; relative, without `..`.
    LogPath
}
checked_path! {
    /// Path in an image that is mounted; relative, without `..`. `.` is all of it.
    SubPath
}
checked_path! {
    /// Path of a cgroup below the node's cgroup root; absolute, without `..`.
    CgroupPath
}

impl ContainerPath {
    /// Checks the target of a mount. `..` is resolved as text: `/a/../b` is `/b`.
    ///
    /// # Errors
    /// When it is relative, `/`, or at or below `/proc`.
    pub fn parse(field: &str, text: &str) -> Result<Self, InvalidField> {
        let path = cleaned(check(field, text)?);
        let refuse = |reason: &str| Err(InvalidField::new(field, text, reason));
        if !text.starts_with('/') {
            return refuse("is not absolute");
        }
        if path == Path::new("/") {
            return refuse("is the root of the container; mount below it");
        }
        if path.starts_with("/proc") {
            return refuse("lies in /proc, which the kernel fills");
        }
        Ok(Self(path))
    }

    /// Checks a path that need only be absolute, such as a working directory.
    ///
    /// # Errors
    /// When it is relative.
    pub fn parse_any(field: &str, text: &str) -> Result<Self, InvalidField> {
        let path = cleaned(check(field, text)?);
        if !text.starts_with('/') {
            return Err(InvalidField::new(field, text, "is not absolute"));
        }
        Ok(Self(path))
    }
}

impl HostPath {
    /// Checks a path on the node. It is kept as given, because clients compare it.
    ///
    /// # Errors
    /// When it is relative.
    pub fn parse(field: &str, text: &str) -> Result<Self, InvalidField> {
        let path = check(field, text)?;
        if !path.is_absolute() {
            return Err(InvalidField::new(field, text, "is not absolute"));
        }
        Ok(Self(path.to_owned()))
    }
}

impl LogPath {
    /// Checks a path relative to the pod's log directory.
    ///
    /// # Errors
    /// When it is absolute or contains `..`.
    pub fn parse(field: &str, text: &str) -> Result<Self, InvalidField> {
        let path = check_relative(field, text, "the sandbox's log_directory")?;
        let path: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
        if path.as_os_str().is_empty() {
            return Err(InvalidField::new(field, text, "names no file"));
        }
        Ok(Self(path))
    }
}

impl SubPath {
    /// Checks a path in an image, and keeps it as it is: clients get it back.
    ///
    /// # Errors
    /// When it is absolute or contains `..`.
    pub fn parse(field: &str, text: &str) -> Result<Self, InvalidField> {
        check_relative(field, text, "the image's root").map(|path| Self(path.to_owned()))
    }
}

fn check_relative<'a>(field: &str, text: &'a str, base: &str) -> Result<&'a Path, InvalidField> {
    let path = check(field, text)?;
    let refuse = |reason: &str| Err(InvalidField::new(field, text, reason));
    if path.is_absolute() {
        return refuse(&format!("is absolute; give it relative to {base}"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return refuse("contains `..`");
    }
    Ok(path)
}

impl CgroupPath {
    /// Checks a `cgroup_parent`.
    ///
    /// # Errors
    /// When it is relative or contains `..`.
    pub fn parse(field: &str, text: &str) -> Result<Self, InvalidField> {
        let path = check(field, text)?;
        let refuse = |reason: &str| Err(InvalidField::new(field, text, reason));
        if path.components().any(|c| c == Component::ParentDir) {
            return refuse("contains `..`");
        }
        if !path.is_absolute() {
            return refuse("is not absolute; Usnea uses the cgroupfs driver, not systemd slices");
        }
        let path = cleaned(path);
        if RESERVED_CGROUPS.iter().any(|reserved| path.starts_with(reserved)) {
            return refuse("is a cgroup of Usnea's own; choose another name");
        }
        Ok(Self(path))
    }
}

fn check<'a>(field: &str, text: &'a str) -> Result<&'a Path, InvalidField> {
    let refuse = |reason: &str| Err(InvalidField::new(field, text, reason));
    if text.is_empty() {
        return refuse("is required");
    }
    if text.len() > LONGEST_PATH_BYTES {
        return refuse("is longer than 4095 bytes");
    }
    if text.contains(['\0', '\n']) {
        return refuse("contains NUL or a line break");
    }
    let path = Path::new(text);
    if path.components().any(|c| c.as_os_str().len() > LONGEST_COMPONENT_BYTES) {
        return refuse("has a component that is longer than 255 bytes");
    }
    Ok(path)
}

/// Resolves `.` and `..` as text; `..` at the root stays there.
fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => {
                clean.push(component);
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_paths() {
        let parse = |text| ContainerPath::parse("container_path", text);
        assert_eq!(parse("/a//b/./c/").expect("ok").as_path(), Path::new("/a/b/c"));
        assert_eq!(parse("/a/../b").expect("ok").as_path(), Path::new("/b"));
        for bad in
            ["", "a", "./a", "/", "/..", "/a/..", "/proc", "/proc/sys", "/x/../proc/1", "/a\0"]
        {
            parse(bad).expect_err(bad);
        }
        parse("/process").expect("only a whole component counts");
        parse(&format!("/{}", "x".repeat(256))).expect_err("long component");
    }

    #[test]
    fn log_paths() {
        let parse = |text| LogPath::parse("log_path", text);
        assert_eq!(parse("a/./b.log").expect("ok").as_path(), Path::new("a/b.log"));
        for bad in ["", "/var/log/x", "../x", "a/../../x", "a/..", ".", "a\0", "a\nb"] {
            parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn sub_paths_are_kept_as_given() {
        let parse = |text| SubPath::parse("image_sub_path", text);
        for good in ["a", "./a//b/", ".", "..a/b.."] {
            assert_eq!(parse(good).expect(good).to_string(), good);
        }
        for bad in ["", "/", "/a", "..", "../a", "a/..", "a/../../b", "a\0", "a\nb"] {
            parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn cgroup_paths() {
        let parse = |text| CgroupPath::parse("cgroup_parent", text);
        assert_eq!(parse("/kubepods//pod1/").expect("ok").as_path(), Path::new("/kubepods/pod1"));
        parse("/usnea-pods").expect("only a whole component is reserved");
        for bad in ["", "kubepods", "/a/../b", "user.slice", "/usnea/x", "/./shims", "/system"] {
            parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn host_paths_are_kept_as_given() {
        let path = HostPath::parse("host_path", "/a/../b").expect("ok");
        assert_eq!(path.as_path(), Path::new("/a/../b"));
        HostPath::parse("host_path", "a").expect_err("relative");
    }
}
