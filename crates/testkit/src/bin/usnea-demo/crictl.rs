//! The show with crictl.

use std::{
    env,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;
use testkit::Instance;

use crate::{
    client::{Client, Result, Status, short},
    screen,
};

/// Runs crictl as the user who owns the daemon.
#[derive(Debug)]
pub(crate) struct Crictl<'a> {
    program: PathBuf,
    instance: &'a Instance,
}

impl<'a> Crictl<'a> {
    /// The crictl on `PATH`, if the user may run it.
    pub(crate) fn find(instance: &'a Instance) -> Option<Self> {
        let path = env::var_os("PATH")?;
        let program = env::split_paths(&path).map(|directory| directory.join("crictl"));
        let program = program.into_iter().find(|file| file.is_file())?;
        let crictl = Self { program, instance };
        crictl.output(&["--version"]).is_ok_and(|output| output.status.success()).then_some(crictl)
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.instance.socket().display())
    }

    fn output(&self, args: &[&str]) -> std::io::Result<Output> {
        let endpoint = self.endpoint();
        let mut command = self.instance.command_of(&self.program, args);
        command
            .env("CONTAINER_RUNTIME_ENDPOINT", &endpoint)
            .env("IMAGE_SERVICE_ENDPOINT", endpoint);
        // Else it warns that it has no configuration.
        command.env("CRI_CONFIG_FILE", "/dev/null");
        command.output()
    }

    /// What it writes on standard output and on standard error, which also has warnings.
    fn streams(&self, args: &[&str]) -> Result<[String; 2]> {
        let output = self.output(args)?;
        let [stdout, stderr] = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if output.status.success() {
            return Ok([stdout, stderr]);
        }
        Err(format!("crictl {}: {}", args.join(" "), stderr.trim()).into())
    }

    fn quietly(&self, args: &[&str]) -> Result<String> {
        let [stdout, _warnings] = self.streams(args)?;
        Ok(stdout.trim_end().to_owned())
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        show(args);
        self.quietly(args)
    }

    fn run_silent(&self, args: &[&str]) -> Result<()> {
        self.run(args).map(drop)
    }
}

impl Client for Crictl<'_> {
    fn describe(&self) -> String {
        let endpoint = self.endpoint();
        format!(
            "{} does the rest; to use it yourself while the show runs:\n\
             export CONTAINER_RUNTIME_ENDPOINT={endpoint} IMAGE_SERVICE_ENDPOINT={endpoint}",
            self.program.display()
        )
    }

    fn run_pod(&self, pod: &Path) -> Result<String> {
        self.run(&["runp", text(pod)?])
    }

    fn create(&self, pod_id: &str, container: &Path, pod: &Path) -> Result<String> {
        self.run(&["create", short(pod_id), text(container)?, text(pod)?])
    }

    fn start(&self, id: &str) -> Result<()> {
        self.run_silent(&["start", short(id)])
    }

    fn exec(&self, id: &str, argv: &[&str]) -> Result<String> {
        self.run(&[&["exec", "--sync", short(id)], argv].concat())
    }

    fn logs(&self, id: &str) -> Result<String> {
        let args = ["logs", short(id)];
        show(&args);
        // It keeps the container's two streams apart.
        Ok(self.streams(&args)?.concat())
    }

    fn status(&self, id: &str) -> Result<Status> {
        let answer: Value = serde_json::from_str(&self.quietly(&["inspect", id])?)?;
        let status = &answer["status"];
        Ok(Status {
            state: status["state"].as_str().unwrap_or_default().to_owned(),
            exit_code: status["exitCode"].as_i64().unwrap_or_default(),
            pid: answer["pid"].as_str().and_then(|pid| pid.parse().ok()),
        })
    }

    fn list_pods(&self) -> Result<String> {
        self.run(&["pods"])
    }

    fn list_containers(&self) -> Result<String> {
        self.run(&["ps", "--all"])
    }

    fn stop(&self, id: &str) -> Result<()> {
        self.run_silent(&["stop", "--timeout", "0", short(id)])
    }

    fn remove(&self, id: &str) -> Result<()> {
        self.run_silent(&["rm", short(id)])
    }

    fn stop_pod(&self, id: &str) -> Result<()> {
        self.run_silent(&["stopp", short(id)])
    }

    fn remove_pod(&self, id: &str) -> Result<()> {
        self.run_silent(&["rmp", short(id)])
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}

fn show(args: &[&str]) {
    let args: Vec<String> = args.iter().map(quoted).collect();
    screen::command(&format!("crictl {}", args.join(" ")));
}

/// An argument as a shell would need it.
fn quoted(argument: &&str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
    if argument.chars().all(plain) { (*argument).to_owned() } else { format!("'{argument}'") }
}
