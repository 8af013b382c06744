//! CRI `ContainerConfig` → [`ContainerConfig`].

use std::path::Component;

use cri_api::v1 as cri;
use engine::EngineError;
use model::{
    ContainerConfig, ContainerMetadata, ContainerPath, EnvVar, ImageRequest, InvalidField, LogPath,
    check_text,
};

use super::{
    HostTraits, check_handler, mounts, precondition, refuse_windows, required, resources, security,
    signal, sorted,
};

/// `MAX_ARG_STRLEN`, the final NUL included; source: `execve(2)`.
const LONGEST_WORD_BYTES: usize = 128 << 10;

/// Checks a `ContainerConfig`.
///
/// # Errors
/// [`EngineError::Invalid`] for the first field that cannot be accepted, [`EngineError::Precondition`] for what
/// this host lacks.
pub(crate) fn container_config(
    config: Option<cri::ContainerConfig>,
    host: HostTraits,
) -> Result<ContainerConfig, EngineError> {
    let config = required("config", config)?;
    checked(config, host).map_err(|error| match error {
        EngineError::Invalid(invalid) => invalid.within("config").into(),
        other => other,
    })
}

fn checked(config: cri::ContainerConfig, host: HostTraits) -> Result<ContainerConfig, EngineError> {
    let cri::ContainerMetadata { name, attempt } = required("metadata", config.metadata)?;
    refuse_windows(config.windows.as_ref())?;
    refuse_devices(&config.devices, &config.cdi_devices)?;
    if config.tty {
        return Err(InvalidField::new("tty", "true", "terminals are not supported yet").into());
    }
    let linux = config.linux.unwrap_or_default();
    Ok(ContainerConfig {
        metadata: ContainerMetadata { name, attempt }.checked()?,
        image: image(config.image)?,
        command: words("command", config.command)?,
        args: words("args", config.args)?,
        working_dir: working_dir(&config.working_dir)?,
        envs: envs(config.envs)?,
        mounts: mounts::from_cri(&config.mounts)?,
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        log_path: log_path(&config.log_path)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        stop_signal: signal::from_cri(config.stop_signal)?,
        resources: resources::from_cri("linux.resources", linux.resources.unwrap_or_default())?,
        security: security::from_cri(linux.security_context.unwrap_or_default(), host)?,
    })
}

/// `annotations` are hints that Usnea has no use for; `image_ref` is for statuses only.
pub(super) fn image(spec: Option<cri::ImageSpec>) -> Result<ImageRequest, InvalidField> {
    let spec = required("image", spec)?;
    if spec.image.is_empty() {
        return Err(InvalidField::new("image.image", "", "is required"));
    }
    check_handler("image.runtime_handler", &spec.runtime_handler)?;
    Ok(ImageRequest { image: spec.image, user_specified_image: spec.user_specified_image })
}

fn words(field: &str, words: Vec<String>) -> Result<Vec<String>, InvalidField> {
    words.iter().try_for_each(|word| check_word(field, word))?;
    Ok(words)
}

/// What `execve(2)` would refuse is refused before a container is made for it.
fn check_word(field: &str, word: &str) -> Result<(), InvalidField> {
    check_text(field, word)?;
    if word.len() >= LONGEST_WORD_BYTES {
        return Err(InvalidField::new(field, word, "is longer than the kernel's 128 KiB"));
    }
    Ok(())
}

/// A directory that a descriptor of the runtime stands for would lie outside of the container.
fn working_dir(text: &str) -> Result<Option<ContainerPath>, InvalidField> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = ContainerPath::parse_any("working_dir", text)?;
    let names_fd = path.as_path().components().any(|c| c == Component::Normal("fd".as_ref()));
    if path.as_path().starts_with("/proc") && names_fd {
        let reason = "leads through an open descriptor; give a directory of the container";
        return Err(InvalidField::new("working_dir", text, reason));
    }
    Ok(Some(path))
}

fn envs(envs: Vec<cri::KeyValue>) -> Result<Vec<EnvVar>, InvalidField> {
    envs.into_iter().map(|cri::KeyValue { key, value }| env(&key, value)).collect()
}

fn env(key: &str, value: Vec<u8>) -> Result<EnvVar, InvalidField> {
    let field = format!("envs[{key}]");
    let env = EnvVar::parse(key, value).and_then(|env| {
        check_word(&field, &env.value)?;
        // Programs copy it into `/etc/passwd`, where a line more is a user more.
        if key == "HOME" && env.value.contains('\n') {
            return Err(InvalidField::new(&field, "", "contains a line break"));
        }
        Ok(env)
    });
    // Values may be secrets, and the refusal is logged.
    env.map_err(|error| {
        let is_of_value = error.field == field;
        if is_of_value { InvalidField { value: "(hidden)".to_owned(), ..error } } else { error }
    })
}

fn log_path(text: &str) -> Result<Option<LogPath>, InvalidField> {
    if text.is_empty() { Ok(None) } else { LogPath::parse("log_path", text).map(Some) }
}

fn refuse_devices(
    devices: &[cri::Device],
    cdi_devices: &[cri::CdiDevice],
) -> Result<(), EngineError> {
    if let Some(device) = devices.first() {
        let field = format!("config.devices: {:?}", device.host_path);
        return Err(precondition(&field, "an ordinary user cannot hand out devices of the host"));
    }
    if let Some(device) = cdi_devices.first() {
        let field = format!("config.CDI_devices: {:?}", device.name);
        return Err(precondition(&field, "CDI is not supported"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
