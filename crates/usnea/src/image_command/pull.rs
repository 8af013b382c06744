//! `usnea image pull`

use std::{
    error::Error,
    io,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use engine::ImageSettings;
use image::{Image, Reference};
use pull::{Layer, PullError, PullErrorKind, Puller};
use serde_json::{Value, json};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use super::{Session, credentials::Login, exit_code, print, progress::Progress, say, show};
use crate::{
    Outcome, chain,
    cli::{OutputFormat, PullArguments},
};

const THREADS: usize = 2;
/// How long a pull that was broken off may take to clean up.
const CLEAN_UP: Duration = Duration::from_secs(10);
/// Exit codes of a program that a signal ended, as shells show them.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// How all pulls came to an end.
enum Ended {
    All { good: bool },
    BySignal { exit_code: u8 },
}

pub(super) fn run(session: &Session<'_>, arguments: &PullArguments) -> Outcome {
    let login = Login::find(arguments.creds.as_deref(), &arguments.references)?;
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let ended = runtime.block_on(async {
        let signalled = signalled()?;
        tokio::select! {
            exit_code = signalled => Ok(Ended::BySignal { exit_code }),
            good = pull_all(session, arguments, login) => good.map(|good| Ended::All { good }),
        }
    });
    // Unpackers end and their directories go before this returns.
    runtime.shutdown_timeout(CLEAN_UP);
    match ended? {
        Ended::All { good } => Ok(exit_code(good)),
        Ended::BySignal { exit_code } => {
            let in_use = engine::layers_in_use(&session.config.data_dir)?;
            session.store.collect_garbage(&in_use)?;
            say("usnea: pull broken off");
            Ok(ExitCode::from(exit_code))
        }
    }
}

/// Completes with an exit code at SIGINT or SIGTERM.
fn signalled() -> io::Result<impl Future<Output = u8>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => INTERRUPTED,
            _ = terminate.recv() => TERMINATED,
        }
    })
}

/// Pulls one image after the other; whether all are there.
async fn pull_all(
    session: &Session<'_>,
    arguments: &PullArguments,
    login: Option<Login>,
) -> Result<bool, Box<dyn Error>> {
    let ImageSettings { registry, unpacker, pull, .. } = session.config.image_settings()?;
    let puller = Puller::new(Arc::clone(&session.store), registry, unpacker, pull);
    let credentials = match login {
        Some(login) => Some(login.credentials().await?),
        None => None,
    };
    let mut all_good = true;
    for reference in &arguments.references {
        let progress = if arguments.quiet { Progress::quiet() } else { Progress::shown() };
        let progress = Arc::new(progress);
        if !arguments.quiet {
            say(format_args!("pulling {reference}"));
        }
        let started = Instant::now();
        let observer = Arc::clone(&progress);
        let pulled = puller.pull(reference, credentials.clone(), observer).await;
        progress.end();
        match pulled {
            Ok(image) => {
                let image = session.with_pin(image);
                let layers = progress.known_layers();
                report(arguments, &Pulled { reference, image, layers, time: started.elapsed() })?;
            }
            Err(error) => {
                say_failed(&error, reference);
                all_good = false;
            }
        }
    }
    Ok(all_good)
}

/// An image that has been pulled.
struct Pulled<'a> {
    reference: &'a Reference,
    image: Image,
    layers: Vec<Layer>,
    time: Duration,
}

fn report(arguments: &PullArguments, pulled: &Pulled<'_>) -> io::Result<()> {
    match arguments.output {
        _ if arguments.quiet => print(pulled.image.id),
        OutputFormat::Text => print(show::line(&pulled.image)),
        OutputFormat::Json => print(json(pulled)),
    }
}

fn json(pulled: &Pulled<'_>) -> Value {
    let mut json = show::summary(&pulled.image);
    json["reference"] = pulled.reference.to_string().into();
    json["seconds"] = pulled.time.as_secs_f64().into();
    let layer = |layer: &Layer| {
        json!({
            "diffId": layer.diff_id.to_string(),
            "digest": layer.digest.to_string(),
            "bytes": layer.bytes,
            "present": layer.present,
        })
    };
    json["layers"] = pulled.layers.iter().map(layer).collect();
    json
}

fn say_failed(error: &PullError, reference: &Reference) {
    say(format_args!("usnea: {}", chain(error)));
    if let Some(hint) = hint(error.kind(), reference) {
        say(format_args!("usnea: hint: {hint}"));
    }
}

/// What somebody at a terminal can do about it.
fn hint(kind: PullErrorKind, reference: &Reference) -> Option<String> {
    let domain = reference.domain();
    match kind {
        PullErrorKind::Denied => Some(format!(
            "the image may not exist, or {domain} wants other credentials: give --creds USER, or store them with a \
             tool such as `docker login {domain}`"
        )),
        PullErrorKind::Unavailable => Some(format!(
            "is {domain} the right name, and can this machine reach it? A mirror can be set by \
             [registry.{domain:?}] in config.toml"
        )),
        PullErrorKind::NoSpace => Some("`usnea image prune` removes what nobody needs".to_owned()),
        PullErrorKind::NotFound
        | PullErrorKind::Faulty
        | PullErrorKind::Config
        | PullErrorKind::Internal => None,
    }
}

#[cfg(test)]
mod tests {
    use image::Digest;

    use super::*;
    use crate::image_command::show::tests::image;

    #[test]
    fn json_says_what_was_pulled_and_from_what() {
        let reference: Reference = "app:1".parse().expect("a reference");
        let (diff_id, digest) = (Digest::of(b"layer"), Digest::of(b"blob"));
        let pulled = Pulled {
            reference: &reference,
            image: image(&["docker.io/library/app:1"], &[]),
            layers: vec![Layer { diff_id, digest, bytes: 7, present: true }],
            time: Duration::from_millis(1500),
        };
        let json = json(&pulled);
        assert_eq!(json["reference"], "docker.io/library/app:1");
        assert_eq!(json["repoTags"], json!(["docker.io/library/app:1"]));
        assert_eq!((&json["seconds"], &json["size"]), (&json!(1.5), &json!(3 << 20)));
        let layer = json!({
            "diffId": diff_id.to_string(), "digest": digest.to_string(), "bytes": 7, "present": true,
        });
        assert_eq!(json["layers"], json!([layer]));
    }

    #[test]
    fn hints_name_the_registry() {
        let reference: Reference = "a.io/app:1".parse().expect("a reference");
        for kind in [PullErrorKind::Denied, PullErrorKind::Unavailable] {
            assert!(hint(kind, &reference).is_some_and(|hint| hint.contains("a.io")), "{kind:?}");
        }
        assert_eq!(hint(PullErrorKind::Faulty, &reference), None);
    }
}
