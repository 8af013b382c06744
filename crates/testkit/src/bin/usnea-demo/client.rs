//! How the show talks to the daemon: through crictl, or through the generated client.

use std::{error::Error, path::Path};

/// A step of the show that fails ends it; who looks on reads why.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the show asks about a container.
#[derive(Debug)]
pub(crate) struct Status {
    /// Such as `CONTAINER_RUNNING`.
    pub(crate) state: String,
    pub(crate) exit_code: i64,
    /// On the host; only of a container that runs.
    pub(crate) pid: Option<i32>,
}

/// The CRI calls of the show. All but [`Client::status`] say on the screen what they do.
pub(crate) trait Client {
    /// What it is and where the daemon listens, for the reader.
    fn describe(&self) -> String;
    /// Runs the sandbox that the file `pod` describes and returns its id.
    fn run_pod(&self, pod: &Path) -> Result<String>;
    /// Creates the container that the file `container` describes and returns its id.
    fn create(&self, pod_id: &str, container: &Path, pod: &Path) -> Result<String>;
    fn start(&self, id: &str) -> Result<()>;
    /// Runs a command in a container and returns what it wrote; fails when the command does.
    fn exec(&self, id: &str, argv: &[&str]) -> Result<String>;
    /// What the container has written.
    fn logs(&self, id: &str) -> Result<String>;
    fn status(&self, id: &str) -> Result<Status>;
    /// A table of all sandboxes.
    fn list_pods(&self) -> Result<String>;
    /// A table of all containers, also of those that have ended.
    fn list_containers(&self) -> Result<String>;
    /// Stops a container without grace.
    fn stop(&self, id: &str) -> Result<()>;
    fn remove(&self, id: &str) -> Result<()>;
    fn stop_pod(&self, id: &str) -> Result<()>;
    fn remove_pod(&self, id: &str) -> Result<()>;
}

/// As much of an id as people need to see.
pub(crate) fn short(id: &str) -> &str {
    id.get(..13).unwrap_or(id)
}
