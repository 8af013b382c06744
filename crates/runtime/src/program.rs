//! The program that a container's process becomes.

use std::{ffi::CString, io};

use nix::errno::Errno;

use crate::error::Refusal;

/// Where programs are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments and environment of a program, and where it may be.
#[derive(Debug)]
pub(crate) struct Executable {
    name: String,
    candidates: Vec<CString>,
    argv: Vec<CString>,
    envp: Vec<CString>,
}

impl Executable {
    /// Looks for `argv[0]` in the `PATH` of `env` unless it contains a slash.
    pub(crate) fn new(argv: &[String], env: &[String]) -> Result<Self, Refusal> {
        let name = argv.first().ok_or(Refusal::Missing { what: "process.args" })?;
        Ok(Self {
            name: name.clone(),
            candidates: c_strings("process.args", &candidates(name, env))?,
            argv: c_strings("process.args", argv)?,
            envp: c_strings("process.env", env)?,
        })
    }

    /// Becomes the program. Returns only when that fails, with why.
    ///
    /// A directory of `PATH` that lacks the program or denies it does not end the search, as in `execvp(3)`; unlike
    /// there, a file that the kernel does not recognise is not given to a shell.
    pub(crate) fn exec(&self) -> Errno {
        let mut answer = Errno::ENOENT;
        for candidate in &self.candidates {
            let Err(errno) = nix::unistd::execve(candidate, &self.argv, &self.envp);
            match errno {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => answer = errno,
                _ => return errno,
            }
        }
        answer
    }

    /// What [`exec`](Self::exec) returned, for people.
    pub(crate) fn failure(&self, errno: Errno) -> String {
        format!("exec {:?}: {}", self.name, io::Error::from(errno))
    }
}

fn candidates(name: &str, env: &[String]) -> Vec<String> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let directory = |directory: &str| match directory {
        "" => format!("./{name}"),
        directory => format!("{directory}/{name}"),
    };
    path.split(':').map(directory).collect()
}

fn c_strings(what: &'static str, strings: &[String]) -> Result<Vec<CString>, Refusal> {
    let convert = |s: &String| CString::new(s.as_str()).or(Err(Refusal::Nul { what }));
    strings.iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(path: &str) -> Vec<String> {
        vec!["HOME=/".to_owned(), format!("PATH={path}")]
    }

    #[test]
    fn only_bare_names_are_searched_for() {
        assert_eq!(candidates("sh", &env("/a:/b")), ["/a/sh", "/b/sh"]);
        assert_eq!(candidates("./sh", &env("/a")), ["./sh"]);
        assert_eq!(candidates("sh", &env(":/b")), ["./sh", "/b/sh"]);
        assert_eq!(candidates("sh", &[]).len(), 6);
        assert!(candidates("", &env("/a")).is_empty());
    }

    #[test]
    fn the_environment_keeps_its_order() {
        let entries = ["B=1", "A=2", "B=3"].map(str::to_owned);
        let program = Executable::new(&["x".to_owned()], &entries).expect("program");
        assert_eq!(program.envp, [c"B=1".to_owned(), c"A=2".to_owned(), c"B=3".to_owned()]);
    }

    #[test]
    fn a_missing_program_is_told_with_its_name() {
        let program = Executable::new(&["/no/such".to_owned()], &[]).expect("program");
        let text = program.failure(program.exec());
        assert_eq!(text, "exec \"/no/such\": No such file or directory (os error 2)");
    }

    #[test]
    fn a_program_that_may_not_be_run_is_not_missing() {
        let program = Executable::new(&["passwd".to_owned()], &env("/no:/etc")).expect("program");
        assert_eq!(program.exec(), Errno::EACCES);
    }

    #[test]
    fn no_program_and_no_nul() {
        assert!(matches!(Executable::new(&[], &[]), Err(Refusal::Missing { .. })));
        let nul = Executable::new(&["a\0b".to_owned()], &[]);
        assert!(matches!(nul, Err(Refusal::Nul { what: "process.args" })));
    }
}
