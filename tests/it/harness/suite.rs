//! Running tests: the shared daemon, clean-up after each test, the audit after all.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libtest_mimic::{Arguments, Completion, Trial};
use tempfile::TempDir;
use testkit::{
    Instance, Options, Skip,
    audit::{Audit, Leak},
    image::ImageBuilder,
};

use crate::{BUSYBOX, scenario::Scenario};

/// What a test ends with unless it panics.
pub type Outcome = Result<(), Skip>;

/// Tests that cannot be skipped return nothing.
pub trait IntoOutcome {
    /// The outcome that it stands for.
    ///
    /// # Errors
    /// When the test was skipped.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Ok(())
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

/// A test by name.
pub struct Test {
    name: &'static str,
    run: Box<dyn FnOnce() -> Outcome + Send>,
}

impl std::fmt::Debug for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Test").field(&self.name).finish()
    }
}

impl Test {
    /// Names a test.
    pub fn new<F, T>(name: &'static str, test: F) -> Self
    where
        F: AsyncFnOnce(&mut Scenario) -> T + Send + 'static,
        T: IntoOutcome,
    {
        Self { name, run: Box::new(move || run_test(name, test)) }
    }

    fn into_trial(self) -> Trial {
        let run = self.run;
        Trial::ignorable_test(self.name, move || match run() {
            Ok(()) => Ok(Completion::Completed),
            Err(Skip(reason)) => Ok(Completion::ignored_with(reason)),
        })
    }
}

/// A daemon with an image, and what there was when it had started.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) instance: Instance,
    audit: Mutex<Audit>,
}

impl Ground {
    pub(crate) fn new(options: Options) -> Result<Self, Skip> {
        let instance = Instance::start(options)?;
        let archive = busybox_archive();
        let archive = archive.to_str().expect("test paths are UTF-8");
        drop(instance.usnea_ok(&["image", "import", archive, "--name", BUSYBOX]));
        let audit = Mutex::new(Audit::before(&instance.scope()));
        Ok(Self { instance, audit })
    }

    /// Forgets what there was, for a test that has exchanged even the node.
    pub(crate) fn audit_from_now(&self) {
        *self.lock_audit() = Audit::before(&self.instance.scope());
    }

    fn lock_audit(&self) -> MutexGuard<'_, Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left of all that was removed, and whether the daemon has panicked.
    pub(crate) fn faults(&self) -> Vec<String> {
        let leaks = self.lock_audit().after(&self.instance.scope());
        let mut faults: Vec<String> = leaks.iter().map(Leak::to_string).collect();
        let log = self.instance.daemon_log();
        faults.extend(log.lines().filter(|line| line.contains("panicked at")).map(str::to_owned));
        faults
    }
}

static SHARED: Mutex<Option<Arc<Ground>>> = Mutex::new(None);

/// The daemon that tests share, started when the first of them runs.
fn shared() -> Result<Arc<Ground>, Skip> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ground) = &*shared {
        return Ok(Arc::clone(ground));
    }
    let ground = Arc::new(Ground::new(Options::default())?);
    *shared = Some(Arc::clone(&ground));
    Ok(ground)
}

/// Contains the image; removed when all tests are through.
static ARCHIVE: Mutex<Option<TempDir>> = Mutex::new(None);

fn busybox_archive() -> PathBuf {
    let mut archive = ARCHIVE.lock().unwrap_or_else(PoisonError::into_inner);
    archive.get_or_insert_with(make_archive).path().join("busybox.tar")
}

fn make_archive() -> TempDir {
    let directory = tempfile::Builder::new().prefix("usnea-").tempdir_in("/tmp");
    let directory = directory.expect("temporary directory");
    ImageBuilder::busybox().write_oci_archive(&directory.path().join("busybox.tar"), BUSYBOX);
    make_readable(directory.path());
    directory
}

/// The daemon's user reads what the test's user has written.
fn make_readable(directory: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory, mode).expect("chmod");
}

fn run_test<F, T>(name: &'static str, test: F) -> Outcome
where
    F: AsyncFnOnce(&mut Scenario) -> T,
    T: IntoOutcome,
{
    let ground = shared()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("start a runtime");
    let mut scenario = runtime.block_on(Scenario::new(name, ground));
    let result = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { test(&mut scenario).await.into_outcome() })
    }));
    runtime.block_on(scenario.clean_up());
    let outcome = result.unwrap_or_else(|panic| resume_unwind(panic));
    let faults = scenario.faults_of_own_daemon();
    assert!(faults.is_empty(), "left behind:\n{}", faults.join("\n"));
    outcome
}

/// Runs the tests that the command line selects, then the audit of the shared daemon.
#[must_use]
pub fn run(tests: Vec<Test>) -> ExitCode {
    let arguments = Arguments::from_args();
    let conclusion =
        libtest_mimic::run(&arguments, tests.into_iter().map(Test::into_trial).collect());
    drop(ARCHIVE.lock().unwrap_or_else(PoisonError::into_inner).take());
    let ground = SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
    let clean = ground.is_none_or(|ground| report(&ground.faults()));
    if conclusion.has_failed() || !clean { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[expect(clippy::print_stdout, reason = "the report of a test run")]
fn report(faults: &[String]) -> bool {
    println!("leak audit: {} found", faults.len());
    for fault in faults {
        println!("  {fault}");
    }
    faults.is_empty()
}
