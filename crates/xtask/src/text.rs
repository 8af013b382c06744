//! What no source file may contain.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

/// Directories with text of ours.
const TREES: [&str; 6] = ["crates", "docs", "proto", "scripts", "tests", "vendor"];
/// Longest file of production code, in lines, up to its tests.
const FILE_LINES: usize = 500;

/// Looks into every file of ours.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    for tree in TREES {
        if let Err(error) = visit(&root.join(tree), &mut |path, text| {
            let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
            findings.extend(check_file(&shown, text));
        }) {
            findings.push(format!("{tree}: {error}"));
        }
    }
    findings
}

fn visit(directory: &Path, look: &mut impl FnMut(&Path, &str)) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path: PathBuf = entry?.path();
        if path.is_dir() {
            if path.file_name() != Some(OsStr::new("target")) {
                visit(&path, look)?;
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            look(&path, &text);
        }
    }
    Ok(())
}

fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let is_rust = path.ends_with(".rs");
    let in_sys = path.starts_with("crates/sys/");
    // Built by its own: it has neither the standard library nor crate `sys`.
    let is_pause = path.starts_with("crates/shim/pause/");
    let keyword = concat!("unsa", "fe {");
    if is_rust && !in_sys && !is_pause && text.contains(keyword) {
        findings.push(format!("{path}: unsafe code belongs into crate sys"));
    }
    if is_rust && production_lines(text) > FILE_LINES {
        findings.push(format!("{path}: more than {FILE_LINES} lines; tell one story per file"));
    }
    if text.contains(concat!("/wo", "rk/")) {
        findings.push(format!("{path}: names a path of one machine"));
    }
    findings
}

fn production_lines(text: &str) -> usize {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_found_outside_sys_only() {
        let code = concat!("fn f() { unsa", "fe { g() } }");
        assert_eq!(check_file("crates/engine/src/lib.rs", code).len(), 1);
        assert!(check_file("crates/sys/src/lib.rs", code).is_empty());
    }

    #[test]
    fn tests_do_not_count_as_production_lines() {
        assert_eq!(production_lines("a\nb\n#[cfg(test)]\nc\n"), 2);
    }
}
