//! `usnea serve`: join the node, recover, serve.

use std::{collections::BTreeMap, error::Error, io, process::ExitCode, time::Duration};

use engine::{Condition, Engine, EngineConfig, HostCgroups, HostFacts};
use node::{CgroupFacts, Entered, HolderCommand, Ids, Mode, NodeFacts, idmap::IdMap};
use sys::process::SingleThreaded;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    Outcome,
    config::{Config, HostNetwork},
    node_config,
};

/// The owner of the node, seen from inside.
const NODE_ROOT: u32 = 0;
/// Ids that a pod of Kubernetes expects to have.
const WANTED_IDS: u32 = 65_536;
/// Threads that wait for the disk.
const BLOCKING_THREADS: usize = 64;
/// How long work that waits for the disk may go on when the daemon ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) fn run(config: &Config, holder: &HolderCommand) -> Outcome {
    start_log();
    // Before any thread: the kernel lets only a single-threaded process into a user namespace.
    let node = node::find_or_start(&node_config(config), holder)?;
    let entered = node.enter(SingleThreaded::prove()?)?;
    report(&entered);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(config, entered));
    // A walk through a layer or an import may go on for long, and can be cut off anywhere: whoever is killed by SIGKILL
    // does just that. The next daemon needs our lock.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    served?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: &Config, entered: Entered) -> Result<(), Box<dyn Error>> {
    let listener = entered.cri_listener.try_clone()?;
    let engine = Engine::open(EngineConfig {
        data_dir: config.data_dir.clone(),
        runtime_dir: config.runtime_dir.clone(),
        shim_program: config.shim.clone(),
        host: host_facts(&entered.facts, config.node.host_network)?,
        images: config.image_settings()?,
        cgroup_root: entered.cgroup_root,
        node_network: match config.node.host_network {
            HostNetwork::Host => None,
            HostNetwork::Node => Some(entered.network),
        },
    })
    .await?;
    tracing::info!(socket = %config.runtime_dir.join("usnea.sock").display(), "serving CRI v1");
    server::serve(listener, engine, NODE_ROOT, termination()?).await?;
    tracing::info!("stopped; pods go on");
    Ok(())
}

/// `USNEA_LOG` takes the directives of `tracing_subscriber::EnvFilter`, such as `debug` or `engine=debug`.
fn start_log() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("USNEA_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

fn report(entered: &Entered) {
    if !unpacker::has_landlock() {
        tracing::warn!(
            "this kernel has no Landlock: layers are unpacked by processes that are confined less"
        );
    }
    for warning in entered.facts.warnings.iter().chain(&entered.placement_problem) {
        tracing::warn!("{warning}");
    }
    if let CgroupFacts::Missing { reason } = &entered.facts.cgroup {
        tracing::warn!(reason, "no delegated cgroup: no limits, and containers are killed by PID");
    }
}

/// Completes at SIGTERM or SIGINT.
fn termination() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn host_facts(
    facts: &NodeFacts,
    host_network: HostNetwork,
) -> Result<HostFacts, serde_json::Error> {
    let (mapped_uids, mapped_gids) = match &facts.ids {
        Ids::Mapped { uids, gids } => (count(uids), count(gids)),
        Ids::SingleId { .. } => (1, 1),
    };
    let cgroups = match &facts.cgroup {
        CgroupFacts::Delegated { controllers, .. } => {
            HostCgroups::Delegated { controllers: controllers.clone() }
        }
        CgroupFacts::Missing { reason } => HostCgroups::Missing { reason: reason.clone() },
    };
    Ok(HostFacts {
        mapped_uids,
        mapped_gids,
        cgroups,
        // An adopted network is the node's own as well as the daemon's.
        network_is_hosts: facts.network == Mode::Own && host_network == HostNetwork::Host,
        conditions: vec![user_ids_condition(&facts.ids, mapped_uids.min(mapped_gids))],
        info: BTreeMap::from([("node".to_owned(), serde_json::to_string(facts)?)]),
    })
}

fn user_ids_condition(ids: &Ids, mapped: u32) -> Condition {
    const KIND: &str = "UserIDsReady";
    match ids {
        Ids::SingleId { reason } => {
            Condition { kind: KIND, holds: false, reason: "SingleId", message: reason.clone() }
        }
        Ids::Mapped { .. } if mapped < WANTED_IDS => Condition {
            kind: KIND,
            holds: false,
            reason: "FewIds",
            message: format!(
                "{mapped} ids are mapped, {WANTED_IDS} are usual; give this user a longer range in /etc/subuid and /etc/subgid"
            ),
        },
        Ids::Mapped { .. } => {
            Condition { kind: KIND, holds: true, reason: "", message: String::new() }
        }
    }
}

fn count(ids: &IdMap) -> u32 {
    u32::try_from(ids.len()).unwrap_or(u32::MAX)
}
