//! Which crate may use which: the table in docs/architecture.md, as data.

use std::{fs, path::Path};

/// A crate, the crates of ours that it may use, and the foreign crates that only it may use.
struct Rule {
    name: &'static str,
    may_use: &'static [&'static str],
}

const RULES: [Rule; 18] = [
    Rule { name: "model", may_use: &[] },
    Rule { name: "sys", may_use: &[] },
    Rule { name: "cri-api", may_use: &[] },
    Rule { name: "spec", may_use: &["model"] },
    Rule { name: "shim-api", may_use: &["sys"] },
    Rule { name: "runtime", may_use: &["sys"] },
    Rule { name: "shim", may_use: &["model", "runtime", "shim-api", "sys"] },
    Rule { name: "image", may_use: &["sys"] },
    Rule { name: "registry", may_use: &["image"] },
    Rule { name: "unpacker", may_use: &["image", "sys"] },
    Rule { name: "pull", may_use: &["image", "registry", "unpacker"] },
    Rule { name: "node", may_use: &["model", "sys"] },
    Rule {
        name: "engine",
        may_use: &["image", "model", "pull", "registry", "shim-api", "spec", "sys", "unpacker"],
    },
    Rule { name: "server", may_use: &["cri-api", "engine", "model"] },
    Rule {
        name: "usnea",
        may_use: &[
            "engine", "image", "model", "node", "pull", "registry", "server", "sys", "unpacker",
        ],
    },
    Rule { name: "testkit", may_use: &["cri-api", "sys"] },
    Rule { name: "it", may_use: &["cri-api", "testkit"] },
    Rule { name: "xtask", may_use: &[] },
];

/// Foreign crates that only some of ours may use.
const RESERVED: [(&str, &[&str]); 4] = [
    ("libcontainer", &["runtime"]),
    ("libseccomp", &["runtime"]),
    ("libc", &["sys"]),
    ("tonic", &["cri-api", "server", "testkit", "it"]),
];

/// Compares every manifest with the table.
pub(crate) fn check(root: &Path) -> Vec<String> {
    RULES.iter().flat_map(|rule| check_crate(root, rule)).collect()
}

fn check_crate(root: &Path, rule: &Rule) -> Vec<String> {
    let directory = if rule.name == "it" { "tests" } else { "crates" };
    let path = root.join(directory).join(rule.name).join("Cargo.toml");
    let manifest = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return vec![format!("{}: {error}", path.display())],
    };
    match dependencies(&manifest) {
        Ok(dependencies) => dependencies.iter().filter_map(|name| refuse(rule, name)).collect(),
        Err(error) => vec![format!("{}: {error}", path.display())],
    }
}

/// Names in `[dependencies]`; what only tests and builds use is free.
fn dependencies(manifest: &str) -> Result<Vec<String>, toml::de::Error> {
    let manifest: toml::Table = toml::from_str(manifest)?;
    let section = manifest.get("dependencies").and_then(toml::Value::as_table);
    Ok(section.into_iter().flat_map(|table| table.keys().cloned()).collect())
}

fn refuse(rule: &Rule, dependency: &str) -> Option<String> {
    let ours = RULES.iter().any(|known| known.name == dependency);
    let reserved = RESERVED.iter().find(|(name, _)| *name == dependency);
    let allowed = match reserved {
        Some((_, users)) => users.contains(&rule.name),
        None => !ours || rule.may_use.contains(&dependency),
    };
    (!allowed).then(|| format!("{} may not use {dependency}: see docs/architecture.md", rule.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Rule = Rule { name: "model", may_use: &[] };

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_found() {
        assert!(refuse(&MODEL, "sys").is_some());
        assert!(refuse(&MODEL, "libcontainer").is_some());
        assert!(refuse(&MODEL, "serde").is_none());
    }

    #[test]
    fn only_real_dependencies_count() {
        let manifest = "[dependencies]\na = \"1\"\n[dev-dependencies]\nb = \"1\"\n";
        assert_eq!(dependencies(manifest).expect("valid"), ["a"]);
    }
}
