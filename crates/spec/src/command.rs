//! What a container executes: arguments, environment, working directory.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use model::{
    ContainerConfig, ContainerPath, ImageDefaults, InvalidField, ResolvedUser, check_text,
};

/// What `execve` searches when neither image nor request say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `MAX_ARG_STRLEN` of `execve(2)`: one string with its NUL.
const LONGEST_STRING_BYTES: usize = 128 * 1024;
/// Beyond three quarters of 8 MiB no stack limit helps; `execve(2)`, "Limits on size of arguments and environment".
const LONGEST_TOTAL_BYTES: usize = 6 * 1024 * 1024;
/// What each string costs besides its bytes: NUL and pointer.
const STRING_OVERHEAD_BYTES: usize = 9;

/// The argument vector: the request's `command` and `args`; without a `command` the image's entrypoint followed by the
/// request's `args`, or else by the image's own.
///
/// # Errors
/// When nothing is left to execute, or a string contains NUL or is too long for `execve(2)`.
pub fn argv(config: &ContainerConfig, image: &ImageDefaults) -> Result<Vec<String>, InvalidField> {
    let entrypoint = if config.command.is_empty() { &image.entrypoint } else { &config.command };
    let image_args = config.command.is_empty() && config.args.is_empty();
    let args = if image_args { &image.cmd } else { &config.args };
    let argv: Vec<String> = entrypoint.iter().chain(args).cloned().collect();
    if argv.is_empty() {
        let reason = "is empty, and so are args and the image's Entrypoint and Cmd";
        return Err(InvalidField::new("command", "", reason));
    }
    if argv.first().is_some_and(String::is_empty) {
        return Err(InvalidField::new(
            "command",
            "",
            "begins with an empty string, which is no program",
        ));
    }
    argv.iter().try_for_each(|text| check_string("command", text))?;
    Ok(argv)
}

/// The environment: the image's, then the request's; of equal keys the last value counts, at the place of the first.
/// `HOSTNAME`, `PATH` and `HOME` are added when absent. `HOME` is never empty: libcontainer would look for it with
/// glibc's name service switch, configured and loaded from the image.
///
/// # Errors
/// When an entry of the image has no `=` or no key, an entry contains NUL or is too long for `execve(2)`, or `HOME`
/// contains control characters, which could begin a line of their own in `passwd(5)`.
pub fn env(
    config: &ContainerConfig,
    image: &ImageDefaults,
    user: &ResolvedUser,
    hostname: &str,
) -> Result<Vec<String>, InvalidField> {
    let mut variables = Variables::default();
    for entry in &image.env {
        match entry.split_once('=') {
            Some((key, value)) if !key.is_empty() => variables.set(key, value),
            _ => return Err(InvalidField::new("image.config.Env", entry, "is not KEY=value")),
        }
    }
    for variable in &config.envs {
        variables.set(&variable.key, &variable.value);
    }
    variables.set_default("PATH", DEFAULT_PATH);
    variables.set_default("HOSTNAME", hostname);
    if variables.get("HOME").is_none_or(str::is_empty) {
        variables.set("HOME", &user.home);
    }
    check_home("envs[HOME]", variables.get("HOME").unwrap_or_default())?;
    let env = variables.into_strings();
    env.iter().try_for_each(|text| check_string("envs", text))?;
    Ok(env)
}

/// Variables in the order of their first mention.
#[derive(Default)]
struct Variables<'a> {
    entries: Vec<(&'a str, &'a str)>,
    // An image may list hundreds of thousands; comparing each with each would take minutes.
    positions: HashMap<&'a str, usize>,
}

impl<'a> Variables<'a> {
    fn get(&self, key: &str) -> Option<&'a str> {
        self.positions.get(key).map(|position| self.entries[*position].1)
    }

    fn set(&mut self, key: &'a str, value: &'a str) {
        if let Some(position) = self.positions.get(key) {
            self.entries[*position].1 = value;
        } else {
            self.positions.insert(key, self.entries.len());
            self.entries.push((key, value));
        }
    }

    fn set_default(&mut self, key: &'a str, value: &'a str) {
        if self.get(key).is_none() {
            self.set(key, value);
        }
    }

    fn into_strings(self) -> Vec<String> {
        self.entries.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }
}

/// Refuses a home directory that could begin a line of its own in `passwd(5)`.
pub(crate) fn check_home(field: &str, home: &str) -> Result<(), InvalidField> {
    if home.contains(|c: char| c.is_control()) {
        return Err(InvalidField::new(field, home, "contains a line break, NUL or the like"));
    }
    Ok(())
}

/// The working directory: the request's, else the image's, else `/`.
///
/// # Errors
/// When the image's is not absolute; when it lies in `/proc` or `/dev/fd`, where names lead to open files of other
/// processes, those of the process that makes the container among them.
pub fn working_dir(
    config: &ContainerConfig,
    image: &ImageDefaults,
) -> Result<PathBuf, InvalidField> {
    let path = match (&config.working_dir, image.working_dir.as_str()) {
        (Some(path), _) => path.clone(),
        (None, "") => return Ok(PathBuf::from("/")),
        (None, text) => ContainerPath::parse_any("image.config.WorkingDir", text)?,
    };
    let path = path.as_path();
    let in_proc = path.starts_with("/proc") && path != Path::new("/proc");
    if in_proc || path.starts_with("/dev/fd") {
        let reason = "lies in /proc or /dev/fd, where names lead out of the container";
        return Err(InvalidField::new("working_dir", path.to_string_lossy(), reason));
    }
    Ok(path.to_owned())
}

/// Checks that `execve(2)` takes arguments and environment together; it may still refuse less, depending on the limit
/// of the stack.
pub(crate) fn check_size(argv: &[String], env: &[String]) -> Result<(), InvalidField> {
    let total: usize = argv.iter().chain(env).map(|text| text.len() + STRING_OVERHEAD_BYTES).sum();
    if total > LONGEST_TOTAL_BYTES {
        let value = format!("{total} bytes together with envs");
        return Err(InvalidField::new("args", value, "is more than execve(2) takes: 6 MiB"));
    }
    Ok(())
}

fn check_string(field: &str, text: &str) -> Result<(), InvalidField> {
    if text.len() >= LONGEST_STRING_BYTES {
        return Err(InvalidField::new(field, text, "is longer than execve(2) takes: 128 KiB"));
    }
    check_text(field, text)
}

#[cfg(test)]
mod tests;
