//! A small CRI client with the command lines of crictl, for machines without crictl: the demo uses it.
//!
//! `$CONTAINER_RUNTIME_ENDPOINT` names the socket. Of the JSON configurations it reads the fields that the demo uses.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command")]

use std::{error::Error, fs, path::Path};

use cri_api::v1::{
    ContainerConfig, ContainerFilter, ContainerStatusRequest, CreateContainerRequest,
    ExecSyncRequest, ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig,
    RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest, VersionRequest,
};
use serde_json::Value;
use testkit::{Cri, connect, container, image::ImageBuilder, pod};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A command of the demo that hangs has failed.
const EXEC_TIMEOUT_SECONDS: i64 = 30;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["make-image", file, reference] = words[..] {
        println!("{}", ImageBuilder::busybox().write_oci_archive(Path::new(file), reference));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let endpoint = std::env::var("CONTAINER_RUNTIME_ENDPOINT")?;
        let socket = endpoint.strip_prefix("unix://").unwrap_or(&endpoint);
        let mut cri = connect(Path::new(socket)).await?;
        match words[..] {
            ["create", pod, config, sandbox] => create(&mut cri, pod, config, sandbox).await,
            ["exec", "-s", id, ref command @ ..] => exec(&mut cri, id, command).await,
            ["logs", id] => logs(&mut cri, id).await,
            ["ps", "-a"] => list_containers(&mut cri).await,
            ["pods"] => list_pods(&mut cri).await,
            [verb, argument] => simple(&mut cri, verb, argument).await,
            ["version"] => version(&mut cri).await,
            _ => Err(format!("unknown command line {words:?}").into()),
        }
    })
}

/// The commands with one argument.
async fn simple(cri: &mut Cri, verb: &str, argument: &str) -> Result<()> {
    let runtime = &mut cri.runtime;
    let id = argument.to_owned();
    match verb {
        "runp" => {
            let request =
                RunPodSandboxRequest { config: Some(read_pod(argument)?), ..Default::default() };
            println!("{}", runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id);
        }
        "start" => {
            runtime.start_container(StartContainerRequest { container_id: id }).await?;
            println!("{argument}");
        }
        "stop" => {
            let request = StopContainerRequest { container_id: id, timeout: 0 };
            runtime.stop_container(request).await?;
            println!("{argument}");
        }
        "rm" => {
            runtime.remove_container(RemoveContainerRequest { container_id: id }).await?;
            println!("{argument}");
        }
        "stopp" => {
            runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id }).await?;
            println!("Stopped sandbox {argument}");
        }
        "rmp" => {
            runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
            println!("Removed sandbox {argument}");
        }
        _ => return Err(format!("unknown command {verb}").into()),
    }
    Ok(())
}

async fn version(cri: &mut Cri) -> Result<()> {
    let version = cri.runtime.version(VersionRequest::default()).await?.into_inner();
    println!("RuntimeName:  {}", version.runtime_name);
    println!("RuntimeVersion:  {}", version.runtime_version);
    Ok(())
}

async fn create(cri: &mut Cri, pod: &str, config: &str, sandbox: &str) -> Result<()> {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(read_container(config)?),
        sandbox_config: Some(read_pod(sandbox)?),
    };
    println!("{}", cri.runtime.create_container(request).await?.into_inner().container_id);
    Ok(())
}

async fn exec(cri: &mut Cri, id: &str, command: &[&str]) -> Result<()> {
    let cmd = command.iter().map(|&word| word.to_owned()).collect();
    let timeout = EXEC_TIMEOUT_SECONDS;
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
    let response = cri.runtime.exec_sync(request).await?.into_inner();
    print!("{}", String::from_utf8_lossy(&response.stdout));
    match response.exit_code {
        0 => Ok(()),
        code => {
            Err(format!("{}exit code {code}", String::from_utf8_lossy(&response.stderr)).into())
        }
    }
}

async fn logs(cri: &mut Cri, id: &str) -> Result<()> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let status = cri.runtime.container_status(request).await?.into_inner().status;
    let path = status.ok_or("no status")?.log_path;
    for line in fs::read_to_string(path)?.lines() {
        println!("{}", line.splitn(4, ' ').nth(3).unwrap_or_default());
    }
    Ok(())
}

async fn list_containers(cri: &mut Cri) -> Result<()> {
    let request = ListContainersRequest { filter: Some(ContainerFilter::default()) };
    println!("{:<15}{:<24}{:<12}{:<10}POD ID", "CONTAINER", "STATE", "NAME", "ATTEMPT");
    for container in cri.runtime.list_containers(request).await?.into_inner().containers {
        let metadata = container.metadata.clone().unwrap_or_default();
        let state = container.state().as_str_name();
        let (id, pod) = (&container.id[..13], &container.pod_sandbox_id[..13]);
        println!("{id:<15}{state:<24}{:<12}{:<10}{pod}", metadata.name, metadata.attempt);
    }
    Ok(())
}

async fn list_pods(cri: &mut Cri) -> Result<()> {
    let pods = cri.runtime.list_pod_sandbox(ListPodSandboxRequest { filter: None }).await?;
    println!("{:<15}{:<20}NAME", "POD ID", "STATE");
    for pod in pods.into_inner().items {
        let name = pod.metadata.as_ref().map(|metadata| metadata.name.as_str());
        let state = pod.state().as_str_name();
        println!("{:<15}{state:<20}{}", &pod.id[..13], name.unwrap_or_default());
    }
    Ok(())
}

fn read(path: &str) -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.ok_or_else(|| format!("{pointer} is missing").into())
}

fn read_pod(path: &str) -> Result<PodSandboxConfig> {
    let json = read(path)?;
    let spec = pod(text(&json, "/metadata/name")?)
        .hostname(text(&json, "/hostname")?)
        .logs(Path::new(text(&json, "/log_directory")?));
    Ok(spec.config)
}

fn read_container(path: &str) -> Result<ContainerConfig> {
    let json = read(path)?;
    let strings = |pointer: &str| -> Vec<&str> {
        let list = json.pointer(pointer).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let attempt = json.pointer("/metadata/attempt").and_then(Value::as_u64).unwrap_or(0);
    let mut spec = container(text(&json, "/metadata/name")?, text(&json, "/image/image")?)
        .attempt(u32::try_from(attempt)?)
        .command(&strings("/command"));
    for mount in json["mounts"].as_array().into_iter().flatten() {
        let host_path = Path::new(text(mount, "/host_path")?);
        spec = spec.mount(host_path, text(mount, "/container_path")?);
    }
    Ok(spec.config)
}
