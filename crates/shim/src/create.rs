//! Making a container: cgroup, streams, and a helper that lets libcontainer do the rest.
//!
//! Every step has an undo, so that a failure leaves nothing: no process, cgroup, mount or state.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Seek},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{signal::Signal, stat::Mode},
    unistd::{Pid, pipe2},
};
use oci_spec::runtime::Spec;
use runtime::create::{FailureKind, ImageMount, Plan, Report, RootFs, fds};
use shim_api::v1::{self, CreateContainer};
use sys::{
    memfd, pidfd,
    spawn::{Child, Spawn, spawn},
};

use crate::{
    bundle,
    cgroups::OwnCgroup,
    container::{Container, Isolation, Paths},
    error::ShimError,
    log_file::LogFile,
    output::{ContainerEnds, Output, make_streams},
    pod::Pod,
    processes,
    state::State,
};

/// How long a helper may take. The event loop waits meanwhile; a helper takes some 20 ms.
const REPORT_WITHIN_MS: u16 = 30_000;
/// How long a killed helper may take to end.
const END_WITHIN_MS: u16 = 1000;

/// A request to make a container, and what it is made from.
#[derive(Debug)]
pub(crate) struct Creation<'a> {
    pub(crate) request: &'a CreateContainer,
    pub(crate) pod: &'a Pod,
    /// The namespace that the container joins instead of making one.
    pub(crate) pid_namespace: Option<OwnedFd>,
    /// Whether its init becomes PID 1 of a namespace of its own.
    pub(crate) own_pid_namespace: bool,
    /// Inits of other containers, some of which may wait to be started.
    pub(crate) others: Vec<Pid>,
    pub(crate) number: u32,
}

/// What an attempt has made and a failure must undo.
#[derive(Debug, Default)]
struct Made {
    cgroup: Option<OwnCgroup>,
    helper: Option<Child>,
    /// The root file system, which the helper may have mounted.
    rootfs: Option<PathBuf>,
}

/// This process's ends of the pipes that a helper reports through.
#[derive(Debug)]
struct Reports {
    report: OwnedFd,
    exec_status: OwnedFd,
}

impl Creation<'_> {
    /// Makes the container and leaves it waiting to be started.
    pub(crate) fn run(self) -> Result<Container, ShimError> {
        let mut made = Made::default();
        self.attempt(&mut made).inspect_err(|_| self.undo(&made))
    }

    fn attempt(&self, made: &mut Made) -> Result<Container, ShimError> {
        let request = self.request;
        let bundle = Path::new(&request.bundle);
        let spec = bundle::read_spec(bundle)?;
        let paths = self.paths(&spec)?;
        made.cgroup = self.make_cgroup()?;
        let owner = bundle::user(bundle, &spec)?;
        let (theirs, ours) = make_streams(request.stdin, owner)?;

        made.rootfs = Some(paths.rootfs.clone());
        let plan = self.plan(&spec, &paths)?;
        let (helper, reports) = self.start_helper(&plan, &theirs, made.cgroup.as_ref())?;
        drop((theirs, plan));
        let helper = made.helper.insert(helper);
        let pid = self.await_report(helper, &reports.report)?;
        let expected_cgroup = made.cgroup.as_ref().map(|_| request.cgroup.as_str());
        runtime::verify::created(pid, &spec, expected_cgroup).map_err(ShimError::Runtime)?;

        let log = paths.log.as_deref().map(|path| self.open_log(path)).transpose()?;
        Ok(Container {
            id: request.container_id.clone(),
            number: self.number,
            state: State::Created,
            pid,
            pidfd: pidfd::open(pid).map_err(|source| ended(pid, source))?,
            cgroup: made.cgroup.take(),
            isolation: self.isolation(pid)?,
            output: Output::new(ours, log),
            exec_status: Some(reports.exec_status),
            paths,
        })
    }

    fn paths(&self, spec: &Spec) -> Result<Paths, ShimError> {
        let request = self.request;
        let bundle = PathBuf::from(&request.bundle);
        Ok(Paths {
            rootfs: bundle::rootfs(&bundle, spec)?,
            bundle,
            log: (!request.log_path.is_empty()).then(|| request.log_path.clone().into()),
            record_dir: request.record_dir.clone().into(),
            seccomp_program: request.seccomp_program.clone().into(),
        })
    }

    fn make_cgroup(&self) -> Result<Option<OwnCgroup>, ShimError> {
        let path = &self.request.cgroup;
        let Some(root) = self.pod.cgroup_root.as_ref().filter(|_| !path.is_empty()) else {
            return Ok(None);
        };
        let cgroup = OwnCgroup::make(root, path)?;
        match cgroup.configure(&self.request.cgroup_settings) {
            Ok(()) => Ok(Some(cgroup)),
            Err(error) => {
                cgroup.remove()?;
                Err(error)
            }
        }
    }

    /// The helper's orders, as a file that it reads.
    fn plan(&self, spec: &Spec, paths: &Paths) -> Result<OwnedFd, ShimError> {
        let request = self.request;
        let rootfs = request.rootfs.as_ref().ok_or(ShimError::MissingField { what: "rootfs" })?;
        let plan = Plan {
            container_id: request.container_id.clone(),
            bundle: paths.bundle.clone(),
            state_root: self.pod.state_root(),
            seccomp_program: bundle::has_seccomp(spec).then(|| paths.seccomp_program.clone()),
            rootfs: RootFs {
                layers_dir: rootfs.layers_dir.clone().into(),
                lower: rootfs.lower.clone(),
                upper_dir: rootfs.upper_dir.clone().into(),
                work_dir: rootfs.work_dir.clone().into(),
            },
            image_mounts: request.image_mounts.iter().map(image_mount).collect(),
        };
        write_plan(&plan)
            .map_err(|source| ShimError::WritePlan { id: request.container_id.clone(), source })
    }

    fn start_helper(
        &self,
        plan: &OwnedFd,
        streams: &ContainerEnds,
        cgroup: Option<&OwnCgroup>,
    ) -> Result<(Child, Reports), ShimError> {
        let exe = open("/proc/self/exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(ShimError::OpenProgram)?;
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(ShimError::MakeStreams)?;
        let (report, report_end) = pipe2(OFlag::O_CLOEXEC).map_err(ShimError::ReportPipes)?;
        let (exec_status, status_end) = pipe2(OFlag::O_CLOEXEC).map_err(ShimError::ReportPipes)?;
        let mut descriptors: Vec<(BorrowedFd<'_>, i32)> = vec![
            (null.as_fd(), 0),
            (null.as_fd(), 1),
            (null.as_fd(), 2),
            (streams.stdin.as_fd(), fds::STDIN),
            (streams.stdout.as_fd(), fds::STDOUT),
            (streams.stderr.as_fd(), fds::STDERR),
            (plan.as_fd(), fds::PLAN),
            (report_end.as_fd(), fds::REPORT),
            (status_end.as_fd(), fds::EXEC_STATUS),
        ];
        descriptors.extend(self.pid_namespace.as_ref().map(|fd| (fd.as_fd(), fds::PID_NAMESPACE)));
        let argv: [CString; 2] = [c"usnea-shim".into(), c"create".into()];
        let helper = spawn(&Spawn {
            exe: exe.as_fd(),
            argv: &argv,
            envp: &[],
            fds: &descriptors,
            cgroup: cgroup.map(|own| own.get().as_fd()),
            new_session: true,
        });
        Ok((helper.map_err(ShimError::StartHelper)?, Reports { report, exec_status }))
    }

    /// The pid of the init that the helper has made.
    fn await_report(&self, helper: &Child, report: &OwnedFd) -> Result<Pid, ShimError> {
        wait_for_report(helper, report)?;
        let id = || self.request.container_id.clone();
        match runtime::create::read_report(report).map_err(ShimError::Runtime)? {
            Report::Created { pid } => Ok(Pid::from_raw(pid)),
            Report::Failed { kind: FailureKind::Refused, message } => {
                Err(ShimError::CreateRefused { id: id(), message })
            }
            Report::Failed { kind: FailureKind::Internal, message } => {
                Err(ShimError::CreateFailed { id: id(), message })
            }
        }
    }

    fn open_log(&self, path: &Path) -> Result<LogFile, ShimError> {
        let missing = ShimError::MissingDescriptor { what: "log directory" };
        LogFile::create(self.pod.log_directory.as_ref().ok_or(missing)?, path)
    }

    fn isolation(&self, init: Pid) -> Result<Isolation, ShimError> {
        if self.own_pid_namespace {
            return Ok(Isolation::OwnPidNamespace);
        }
        let namespace = processes::mount_namespace(init);
        namespace.map(Isolation::MountNamespace).ok_or_else(|| ended(init, Errno::ESRCH))
    }

    /// Takes back what a failed attempt has made. What cannot be taken back is reported: the request's own error is
    /// the one that the daemon should hear.
    fn undo(&self, made: &Made) {
        let killed = made.cgroup.as_ref().map_or(Ok(()), OwnCgroup::kill);
        if let Some(helper) = &made.helper {
            // It may have ended already, which is what is wanted.
            pidfd::send_signal(&helper.pidfd, Signal::SIGKILL).ok();
            pidfd::wait_exit(&helper.pidfd, Some(END_WITHIN_MS)).ok();
            processes::kill_unfinished(&self.others);
        }
        let removed = made.cgroup.as_ref().map_or(Ok(()), OwnCgroup::remove);
        let forgotten = match &made.rootfs {
            Some(rootfs) => self.pod.forget(&self.request.container_id, rootfs),
            None => Vec::new(),
        };
        for error in [killed, removed].into_iter().filter_map(Result::err).chain(forgotten) {
            error.report();
        }
    }
}

fn write_plan(plan: &Plan) -> io::Result<OwnedFd> {
    let json = serde_json::to_vec(plan)?;
    let mut file = File::from(memfd::sealed_copy(c"usnea-plan", json.as_slice())?);
    // The helper shares the offset, which is at the end.
    file.rewind()?;
    Ok(file.into())
}

/// Waits until the helper reports. Not until the end of its report: the waiting init holds what the helper held.
fn wait_for_report(helper: &Child, report: &OwnedFd) -> Result<(), ShimError> {
    let mut fds = [
        PollFd::new(report.as_fd(), PollFlags::POLLIN),
        PollFd::new(helper.pidfd.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::from(REPORT_WITHIN_MS)).map_err(ShimError::WaitForHelper)? {
        0 => Err(ShimError::HelperIsSilent { milliseconds: REPORT_WITHIN_MS }),
        _ if fds[0].revents().is_some_and(|ready| ready.contains(PollFlags::POLLIN)) => Ok(()),
        _ => Err(ShimError::HelperEnded),
    }
}

fn ended(pid: Pid, source: Errno) -> ShimError {
    ShimError::InitEnded { pid: pid.as_raw(), source }
}

fn image_mount(mount: &v1::ImageMount) -> ImageMount {
    ImageMount {
        lower: mount.lower.clone(),
        sub_path: (!mount.sub_path.is_empty()).then(|| mount.sub_path.clone().into()),
        mount_point: mount.mount_point.clone().into(),
    }
}
