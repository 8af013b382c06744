//! The clients that others have written: Kubernetes' own Go library, and crictl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use it::{BUSYBOX, Outcome, Scenario};
use testkit::{
    Options, Skip,
    docker_registry::{self, Access, DockerRegistry},
    image::{ImageBuilder, Layer},
};

it::tests!("clients": the_go_library, crictl);

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients")
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// Runs `program` as the daemon's user, from where that user may run it, beside a registry with a password.
fn run_as_user(t: &Scenario, program: &Path, args: &[&str]) -> Result<Output, Skip> {
    let registry = DockerRegistry::start(Access { password: true, tls: false })?;
    let layer = Layer::default().file("etc/x", 0o644, b"x");
    let image = ImageBuilder::empty().layer(layer).with("User", "1000".into());
    registry.push(&image, "private/app:1");
    let name = program.file_name().expect("a program");
    let copy = t.volume("programs").join(name);
    fs::copy(program, &copy).expect("copy the program");
    let output = t
        .instance()
        .command_of(&copy, args)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("USNEA_SOCKET", t.instance().socket())
        .env("USNEA_IMAGE", BUSYBOX)
        .env("USNEA_PRIVATE", registry.reference("private/app:1"))
        .env("USNEA_USER", docker_registry::USER)
        .env("USNEA_PASSWORD", docker_registry::PASSWORD)
        .env("USNEA_LOGS", t.instance().log_directory(t.name()))
        .output()
        .expect("run the program");
    fs::remove_file(&copy).expect("remove the program");
    Ok(output)
}

fn assert_success(what: &str, output: &Output) {
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{what}: {}\n{stdout}{stderr}", output.status);
}

async fn the_go_library(t: &mut Scenario) -> Outcome {
    let go = on_path("go").ok_or_else(|| Skip::because("go is not on PATH"))?;
    let directory = tempfile::tempdir().expect("temporary directory");
    let program = directory.path().join("clients.test");
    let build = Command::new(go)
        .args(["test", "-c", "-o"])
        .args([&program, Path::new(".")])
        .current_dir(sources())
        .output()
        .expect("run go");
    assert_success("go test -c", &build);
    let output = run_as_user(t, &program, &["-test.v"])?;
    assert_success("the Go tests", &output);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("--- SKIP"), "{text}");
    Ok(())
}

async fn crictl(t: &mut Scenario) -> Outcome {
    if on_path("crictl").is_none() {
        return Err(Skip::because("crictl is not on PATH"));
    }
    // `crictl rmi --prune` removes every image that is not in use.
    t.own_daemon(Options::default()).await?;
    assert_success("crictl.sh", &run_as_user(t, &sources().join("crictl.sh"), &[])?);
    Ok(())
}
