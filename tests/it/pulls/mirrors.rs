//! Mirrors, TLS and proxies: where the bytes come from.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    thread,
};

use it::{Outcome, Scenario};
use testkit::{
    Options, Skip,
    docker_registry::{Access, DockerRegistry},
    registry::{self, Authority, ConnectProxy, FakeRegistry, Issue},
};
use tonic::Code;

use super::support::{present, pull, registry, remove, runnable, small, status, try_pull};

it::tests!("pulls_mirrors":
    well_known_registries_are_mirrored,
    mirrors_are_tried_in_order,
    an_image_is_the_same_from_a_mirror,
    a_mirror_may_need_a_certificate,
    an_unknown_authority_is_not_trusted,
    loopback_registries_by_name_need_no_setting,
    other_registries_go_through_the_proxy,
    docker_hub_gives_tokens_to_everybody,
);

/// Nobody listens there.
const DEAD: &str = "http://127.0.0.1:1";

/// Sections of `config.toml` that mirror `domains` to `urls`.
fn mirrored(domains: &[&str], urls: &[&str]) -> String {
    domains.iter().fold(String::new(), |mut config, domain| {
        write!(config, "[registry.{domain:?}]\nmirrors = {urls:?}\n").expect("to memory");
        config
    })
}

async fn with_config(t: &mut Scenario, config: String) -> Result<(), Skip> {
    t.own_daemon(Options { config, ..Options::default() }).await
}

async fn well_known_registries_are_mirrored(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let domains =
        ["registry.k8s.io", "docker.io", "gcr.io", "k8s.gcr.io", "public.ecr.aws", "a.test:5000"];
    with_config(t, mirrored(&domains, &[&registry.url()])).await?;
    for (path, reference, full) in [
        ("pause:3.9", "registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("library/busybox:latest", "busybox", "docker.io/library/busybox:latest"),
        ("team/app:1", "team/app:1", "docker.io/team/app:1"),
        ("a/b/c:1", "gcr.io/a/b/c:1", "gcr.io/a/b/c:1"),
        ("pause:old", "k8s.gcr.io/pause:old", "k8s.gcr.io/pause:old"),
        ("docker/x:1", "public.ecr.aws/docker/x:1", "public.ecr.aws/docker/x:1"),
        ("app:2", "a.test:5000/app:2", "a.test:5000/app:2"),
    ] {
        let id = registry.push(&small(t, &path.replace(['/', ':'], "-")), path);
        assert_eq!(pull(t, reference).await, id, "{reference}");
        let image = present(t, reference).await;
        assert_eq!(image.repo_tags, [full], "{reference}");
        let (name, _) = full.rsplit_once(':').expect("a tag");
        let digest = format!("{name}@{}", registry.digest(path));
        assert_eq!(image.repo_digests, [digest.as_str()], "{reference}");
        assert_eq!(pull(t, &digest).await, id, "by digest");
    }
    Ok(())
}

async fn mirrors_are_tried_in_order(t: &mut Scenario) -> Outcome {
    let (first, second) = (registry()?, registry()?);
    let config = mirrored(&["registry.k8s.io"], &[DEAD, &first.url(), &second.url()]);
    with_config(t, config).await?;
    let (old, new) = (small(t, "old"), small(t, "new"));
    let in_both = first.push(&new, "both:1");
    second.push(&old, "both:1");
    let in_second = second.push(&old, "second:1");
    assert_eq!(pull(t, "registry.k8s.io/both:1").await, in_both);
    assert_eq!(second.answered(), [], "nobody asks the second");
    assert_eq!(pull(t, "registry.k8s.io/second:1").await, in_second);
    let asked = first.answered().into_iter().any(|answered| answered.path.contains("/second/"));
    assert!(asked, "the first was asked before");
    // The registry itself comes last, and cannot be reached from here.
    let missing = try_pull(t, "registry.k8s.io/nowhere:1").await.expect_err("nowhere");
    assert_ne!(missing.code(), Code::Internal, "{missing:?}");
    Ok(())
}

/// C27
async fn an_image_is_the_same_from_a_mirror(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    with_config(t, mirrored(&["registry.k8s.io", "k8s.gcr.io"], &[&registry.url()])).await?;
    let id = registry.push(&runnable(t, "app"), "app:1");
    let direct = registry.reference("app:1");
    for reference in [&direct, "registry.k8s.io/app:1", "k8s.gcr.io/app:1"] {
        assert_eq!(pull(t, reference).await, id, "{reference}");
    }
    let image = present(t, "k8s.gcr.io/app:1").await;
    assert_eq!((image.repo_tags.len(), image.repo_digests.len()), (3, 3), "{image:?}");
    let pod = t.run_pod().await;
    let container = t.create(&pod, testkit::container("a", "registry.k8s.io/app:1")).await;
    assert_eq!(t.status(&container).await.image_id, id);
    t.remove_pod(&pod).await;
    remove(t, "registry.k8s.io/app:1").await;
    assert_eq!(status(t, &direct).await, None);
    Ok(())
}

fn encrypted() -> Result<DockerRegistry, Skip> {
    DockerRegistry::start(Access { tls: true, ..Access::default() })
}

async fn a_mirror_may_need_a_certificate(t: &mut Scenario) -> Outcome {
    let (trusted, other) = (encrypted()?, registry()?);
    let ca_files = [trusted.authority()];
    let mut config = mirrored(&["registry.k8s.io"], &[&trusted.url()]);
    writeln!(config, "ca_files = {ca_files:?}").expect("to memory");
    write!(config, "[registry.{:?}]\nca_files = {ca_files:?}\n", trusted.domain())
        .expect("to memory");
    with_config(t, config).await?;
    let id = trusted.push(&small(t, "app"), "app:1");
    assert_eq!(pull(t, "registry.k8s.io/app:1").await, id);
    assert_eq!(pull(t, &trusted.reference("app:1")).await, id);
    // Certificates are one registry's; others are not touched.
    let id = other.push(&small(t, "other"), "app:1");
    assert_eq!(pull(t, &other.reference("app:1")).await, id);
    Ok(())
}

async fn an_unknown_authority_is_not_trusted(t: &mut Scenario) -> Outcome {
    let (served, wrong) = (encrypted()?, encrypted()?);
    let mut config = mirrored(&["a.test"], &[&served.url()]);
    writeln!(config, "ca_files = {:?}", [wrong.authority()]).expect("to memory");
    with_config(t, config).await?;
    served.push(&small(t, "app"), "app:1");
    for reference in [served.reference("app:1"), "a.test/app:1".to_owned()] {
        let refused = try_pull(t, &reference).await.expect_err("not trusted");
        assert_eq!(refused.code(), Code::Unknown, "{refused:?}");
        assert!(refused.message().starts_with("RegistryUnavailable: "), "{refused:?}");
        assert_eq!(status(t, &reference).await, None);
    }
    let refused = try_pull(t, &served.reference("app:1")).await.expect_err("not trusted");
    assert!(refused.message().contains("certificate"), "{refused:?}");
    Ok(())
}

async fn loopback_registries_by_name_need_no_setting(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let id = registry.push(&small(t, "app"), "app:1");
    let (_, port) = registry.domain().rsplit_once(':').expect("a port");
    let reference = format!("localhost:{port}/app:1");
    assert_eq!(pull(t, &reference).await, id);
    assert_eq!(present(t, &reference).await.repo_tags, [reference.as_str()]);
    remove(t, &reference).await;
    Ok(())
}

async fn other_registries_go_through_the_proxy(t: &mut Scenario) -> Outcome {
    let registry = registry()?;
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let proxy = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = thread::spawn(move || {
        let (client, _) = listener.accept().expect("accept");
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).expect("a request");
        line
    });
    let environment = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"]
        .map(|name| (name.to_owned(), proxy.clone()));
    let options = Options { environment: environment.to_vec(), ..Options::default() };
    t.own_daemon(options).await?;
    // Not for loopback registries: the proxy answers nobody.
    let id = registry.push(&small(t, "app"), "app:1");
    assert_eq!(pull(t, &registry.reference("app:1")).await, id);
    let failed = try_pull(t, "registry.example.test/app:1").await.expect_err("a broken proxy");
    assert!(failed.message().starts_with("RegistryUnavailable: "), "{failed:?}");
    let line = asked.join().expect("no panic");
    assert!(line.starts_with("CONNECT registry.example.test:443 "), "{line}");
    Ok(())
}

/// A replica of what Docker Hub's servers say to each other, behind a proxy that takes its names for theirs.
async fn docker_hub_gives_tokens_to_everybody(t: &mut Scenario) -> Outcome {
    let authority = Authority::new();
    let directory = tempfile::Builder::new().prefix("usnea-").tempdir_in("/tmp");
    let directory = directory.expect("temporary directory");
    let ca_file = directory.path().join("ca.pem");
    authority.write(&ca_file);
    let readable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), readable).expect("chmod");
    let [hub_host, token_host] = ["registry-1.docker.io", "auth.docker.io"];
    let hub = FakeRegistry::start_tls(&authority, &[hub_host]);
    let tokens = FakeRegistry::start_tls(&authority, &[token_host]);
    hub.require(registry::Access::Bearer {
        realm: format!("https://{token_host}/token"),
        service: "registry.docker.io".to_owned(),
        token: "for-everybody".to_owned(),
    });
    tokens.issue(Issue::to_anybody("for-everybody"));
    let routes = [(hub_host, hub.address()), (token_host, tokens.address())];
    let proxy = ConnectProxy::start(routes);
    let config = format!("[registry.\"docker.io\"]\nca_files = [{ca_file:?}]\n");
    let environment = vec![("HTTPS_PROXY".to_owned(), proxy.url())];
    t.own_daemon(Options { config, environment, ..Options::default() }).await?;
    let pushed = hub.push(&runnable(t, "app"), "library/busybox:latest");
    assert_eq!(pull(t, "busybox").await, pushed.id);
    assert_eq!(present(t, "busybox").await.repo_tags, ["docker.io/library/busybox:latest"]);
    assert_eq!(tokens.count("/token"), 1, "one token for all requests: {:?}", tokens.requests());
    let pod = t.run_pod().await;
    let spec = testkit::container("a", "busybox").command(&["cat", "/own/app"]);
    assert_eq!(t.output(&pod, spec).await, format!("app of {}", t.name()));
    Ok(())
}
