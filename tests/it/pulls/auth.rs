//! Credentials: every way to give them, and that they are told to nobody.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use cri_api::v1::AuthConfig;
use it::{Outcome, Scenario};
use serde_json::{Value, json};
use testkit::{
    Options,
    docker_registry::{Access, DockerRegistry, PASSWORD, USER},
    registry::{self, FakeRegistry, Issue},
};
use tonic::{Code, Status};

use super::support::{pull, pull_as, remove, small, status, try_pull};

it::tests!("pulls_auth":
    user_and_password_are_taken_in_both_forms,
    without_the_right_password_there_is_nothing,
    credentials_are_for_their_registry_only,
    what_no_header_carries_is_refused,
    a_password_may_have_lines,
    the_usual_file_has_credentials,
    a_helper_has_credentials,
    a_mirror_gets_its_own_credentials_only,
    a_token_server_takes_every_kind_of_credentials,
    tokens_are_got_where_the_registry_may_send_them,
    the_log_has_no_secret,
);

/// `jane:correct:horse,battery` in base64.
const ENCODED: &str = "amFuZTpjb3JyZWN0OmhvcnNlLGJhdHRlcnk=";
const WRONG: &str = "wrong-battery-staple";

fn private() -> Result<DockerRegistry, testkit::Skip> {
    DockerRegistry::start(Access { password: true, ..Access::default() })
}

fn basic(username: &str, password: &str) -> AuthConfig {
    AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    }
}

fn encoded(auth: &str) -> AuthConfig {
    AuthConfig { auth: auth.to_owned(), ..AuthConfig::default() }
}

fn is_denied(result: Result<String, Status>, what: &str) {
    let denied = result.expect_err(what);
    assert_eq!(denied.code(), Code::PermissionDenied, "{what}: {denied:?}");
    assert!(!denied.message().contains("battery"), "{what}: {denied:?}");
}

async fn user_and_password_are_taken_in_both_forms(t: &mut Scenario) -> Outcome {
    let registry = private()?;
    let id = registry.push(&small(t, "app"), "app:1");
    let reference = registry.reference("app:1");
    let addressed = |server: String| AuthConfig { server_address: server, ..basic(USER, PASSWORD) };
    for (what, auth) in [
        ("user and password", basic(USER, PASSWORD)),
        ("encoded", encoded(ENCODED)),
        ("encoded without padding", encoded(ENCODED.trim_end_matches('='))),
        ("user and password first", AuthConfig { auth: "!".to_owned(), ..basic(USER, PASSWORD) }),
        ("with address", addressed(registry.domain().to_owned())),
        ("with URL", addressed(format!("https://{}/v2/", registry.domain()))),
    ] {
        let pulled = pull_as(t, &reference, auth).await;
        assert_eq!(pulled.unwrap_or_else(|status| panic!("{what}: {status:?}")), id);
        remove(t, &reference).await;
    }
    Ok(())
}

/// C67
async fn without_the_right_password_there_is_nothing(t: &mut Scenario) -> Outcome {
    let registry = private()?;
    registry.push(&small(t, "app"), "app:1");
    let reference = registry.reference("app:1");
    is_denied(try_pull(t, &reference).await, "nobody");
    is_denied(pull_as(t, &reference, AuthConfig::default()).await, "nothing");
    is_denied(pull_as(t, &reference, basic(USER, WRONG)).await, "wrong password");
    is_denied(pull_as(t, &reference, basic("joan", PASSWORD)).await, "wrong user");
    is_denied(pull_as(t, &reference, token(WRONG)).await, "registry token");
    // Success does not open the registry for others.
    let id = pull_as(t, &reference, basic(USER, PASSWORD)).await.expect("hers");
    is_denied(try_pull(t, &reference).await, "nobody, although somebody was let in");
    is_denied(pull_as(t, &reference, basic(USER, WRONG)).await, "wrong password afterwards");
    remove(t, &id).await;
    assert_eq!(status(t, &reference).await, None);
    Ok(())
}

async fn credentials_are_for_their_registry_only(t: &mut Scenario) -> Outcome {
    let registry = private()?;
    registry.push(&small(t, "app"), "app:1");
    let reference = registry.reference("app:1");
    for server in ["registry.example.test", "https://127.0.0.1:1/", "docker.io"] {
        let auth = AuthConfig { server_address: server.to_owned(), ..basic(USER, PASSWORD) };
        let refused = pull_as(t, &reference, auth).await.expect_err("another registry's");
        assert_eq!(refused.code(), Code::InvalidArgument, "{server}: {refused:?}");
        assert!(!refused.message().contains(PASSWORD), "{refused:?}");
    }
    assert_eq!(registry.answered(), [], "nothing was asked");
    Ok(())
}

async fn what_no_header_carries_is_refused(t: &mut Scenario) {
    for (what, auth) in [
        ("user", basic("ja\nne", PASSWORD)),
        ("user with a colon", basic("ja:ne", PASSWORD)),
        ("registry token", token("horse\r\nb")),
        ("no base64", encoded("%%%")),
        ("no colon", encoded("amFuZQ==")),
    ] {
        let refused = pull_as(t, "127.0.0.1:1/app:1", auth).await.expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
        assert!(!refused.message().contains("horse"), "{what}: {refused:?}");
    }
}

/// Such as the key file of a service account.
async fn a_password_may_have_lines(t: &mut Scenario) {
    let registry = FakeRegistry::start();
    let pushed = registry.push(&small(t, "app"), "app:1");
    let (username, password) =
        ("_json_key".to_owned(), "{\n  \"key\": \"battery\"\n}\n".to_owned());
    let auth = basic(&username, &password);
    registry.require(registry::Access::Basic { username, password });
    let reference = registry.reference("app:1");
    assert_eq!(pull_as(t, &reference, auth).await.expect("her key"), pushed.id);
    is_denied(try_pull(t, &reference).await, "nobody");
    remove(t, &reference).await;
}

/// Writes `~/.docker/config.json` of the daemon's user.
fn write_docker_config(t: &Scenario, config: &Value) -> PathBuf {
    let directory = t.instance().home().join(".docker");
    fs::create_dir_all(&directory).expect("make ~/.docker");
    let file = directory.join("config.json");
    t.instance().write(&file, config.to_string().as_bytes());
    file
}

async fn the_usual_file_has_credentials(t: &mut Scenario) -> Outcome {
    t.own_daemon(Options::default()).await?;
    let registry = private()?;
    registry.push(&small(t, "app"), "app:1");
    let reference = registry.reference("app:1");
    is_denied(try_pull(t, &reference).await, "without file");
    write_docker_config(t, &json!({ "auths": { "b.test": { "auth": ENCODED } } }));
    is_denied(try_pull(t, &reference).await, "another registry's");
    let file = write_docker_config(t, &json!({}));
    t.instance().write(&file, format!("{{\"auths\": {WRONG}").as_bytes());
    let broken = try_pull(t, &reference).await.expect_err("a broken file");
    assert_eq!(broken.code(), Code::FailedPrecondition, "{broken:?}");
    assert!(broken.message().contains("config.json"), "{broken:?}");
    assert!(!broken.message().contains(WRONG), "{broken:?}");
    let (url, part) = (format!("http://{}/v2/", registry.domain()), registry.reference("app"));
    for (key, entry) in [
        (registry.domain(), json!({ "auth": ENCODED })),
        (&*url, json!({ "username": USER, "password": PASSWORD })),
        (&*part, json!({ "auth": ENCODED })),
    ] {
        // The daemon reads the file when it needs it.
        write_docker_config(t, &json!({ "auths": { key: entry, "b.test": { "auth": "Yjpi" } } }));
        pull(t, &reference).await;
        remove(t, &reference).await;
    }
    // What the caller brings counts more.
    is_denied(pull_as(t, &reference, basic(USER, WRONG)).await, "the caller's are wrong");
    Ok(())
}

async fn a_helper_has_credentials(t: &mut Scenario) -> Outcome {
    let helpers = tempfile::tempdir().expect("temporary directory");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(helpers.path(), mode.clone()).expect("chmod");
    let path =
        format!("{}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", helpers.path().display());
    let environment = vec![("PATH".to_owned(), path)];
    t.own_daemon(Options { environment, ..Options::default() }).await?;
    let registry = private()?;
    registry.push(&small(t, "app"), "app:1");
    let reference = registry.reference("app:1");
    let helper = helpers.path().join("docker-credential-usneatest");
    let script = format!(
        "#!/bin/sh\nread -r server || true\n[ \"$1 $server\" = 'get {}' ] || exit 1\n\
         printf '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n",
        registry.domain()
    );
    fs::write(&helper, script).expect("write the helper");
    fs::set_permissions(&helper, mode).expect("chmod");
    write_docker_config(t, &json!({ "credHelpers": { "b.test": "usneatest" } }));
    is_denied(try_pull(t, &reference).await, "another registry's helper");
    write_docker_config(t, &json!({ "credsStore": "not-installed" }));
    is_denied(try_pull(t, &reference).await, "no helper");
    for config in [
        json!({ "credHelpers": { registry.domain(): "usneatest" } }),
        json!({ "credsStore": "usneatest" }),
    ] {
        write_docker_config(t, &config);
        pull(t, &reference).await;
        remove(t, &reference).await;
    }
    Ok(())
}

/// R36
async fn a_mirror_gets_its_own_credentials_only(t: &mut Scenario) -> Outcome {
    let mirror = private()?;
    let config = format!("[registry.\"a.test\"]\nmirrors = [{:?}]\n", mirror.url());
    t.own_daemon(Options { config, ..Options::default() }).await?;
    mirror.push(&small(t, "app"), "app:1");
    let refused = pull_as(t, "a.test/app:1", basic(USER, PASSWORD)).await;
    // They would do, but they are for a.test, which cannot be reached.
    refused.expect_err("for the registry only");
    let answered = mirror.answered();
    assert!(!answered.is_empty() && answered.iter().all(|a| a.status == 401), "{answered:?}");
    write_docker_config(t, &json!({ "auths": { mirror.domain(): { "auth": ENCODED } } }));
    pull(t, "a.test/app:1").await;
    Ok(())
}

fn token(token: &str) -> AuthConfig {
    AuthConfig { registry_token: token.to_owned(), ..AuthConfig::default() }
}

fn identity(token: &str) -> AuthConfig {
    AuthConfig { identity_token: token.to_owned(), ..AuthConfig::default() }
}

/// The token `bearer`, which the server at `realm` has.
fn bearer(realm: String) -> registry::Access {
    let (service, token) = ("registry.test".to_owned(), "bearer".to_owned());
    registry::Access::Bearer { realm, service, token }
}

async fn a_token_server_takes_every_kind_of_credentials(t: &mut Scenario) {
    let user =
        Issue { user: Some((USER.to_owned(), PASSWORD.to_owned())), ..Issue::to_anybody("bearer") };
    let refresh =
        Issue { refresh_token: Some("refresh".to_owned()), ..Issue::to_anybody("bearer") };
    for (what, issue, auth, let_in) in [
        ("anybody", Some(Issue::to_anybody("bearer")), AuthConfig::default(), true),
        ("user", Some(user.clone()), basic(USER, PASSWORD), true),
        ("encoded user", Some(user.clone()), encoded(ENCODED), true),
        ("nobody", Some(user.clone()), AuthConfig::default(), false),
        ("wrong password", Some(user), basic(USER, WRONG), false),
        ("identity token", Some(refresh.clone()), identity("refresh"), true),
        ("wrong identity token", Some(refresh), identity("battery"), false),
        ("registry token", None, token("bearer"), true),
        ("wrong registry token", None, token("battery"), false),
    ] {
        let registry = FakeRegistry::start();
        let pushed = registry.push(&small(t, "app"), "app:1");
        registry.require(bearer(registry.realm()));
        if let Some(issue) = issue {
            registry.issue(issue);
        }
        let reference = registry.reference("app:1");
        let pulled = pull_as(t, &reference, auth).await;
        if let_in {
            assert_eq!(pulled.unwrap_or_else(|status| panic!("{what}: {status:?}")), pushed.id);
        } else {
            is_denied(pulled, what);
        }
        remove(t, &reference).await;
    }
}

/// R36
async fn tokens_are_got_where_the_registry_may_send_them(t: &mut Scenario) -> Outcome {
    let (registry, login) = (FakeRegistry::start(), FakeRegistry::start_on("127.0.0.2"));
    let pushed = registry.push(&small(t, "app"), "app:1");
    registry.require(bearer(login.realm()));
    login.issue(Issue::to_anybody("bearer"));
    let reference = registry.reference("app:1");
    let refused = pull_as(t, &reference, basic(USER, PASSWORD)).await.expect_err("elsewhere");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("auth_hosts"), "{refused:?}");
    let told = login.requests();
    assert!(told.iter().all(|request| request.header("authorization").is_none()), "{told:?}");
    let config = format!("[registry.{:?}]\nauth_hosts = [\"127.0.0.2\"]\n", registry.domain());
    t.own_daemon(Options { config, ..Options::default() }).await?;
    let pulled = pull_as(t, &reference, basic(USER, PASSWORD)).await;
    assert_eq!(pulled.expect("the host is listed"), pushed.id);
    Ok(())
}

async fn the_log_has_no_secret(t: &mut Scenario) -> Outcome {
    let everything = vec![("USNEA_LOG".to_owned(), "trace".to_owned())];
    t.own_daemon(Options { environment: everything, ..Options::default() }).await?;
    let registry = private()?;
    registry.push(&small(t, "app"), "app:1");
    let reference = registry.reference("app:1");
    pull_as(t, &reference, basic(USER, PASSWORD)).await.expect("hers");
    for auth in [
        basic(USER, WRONG),
        basic(USER, "line\nfeed-battery"),
        encoded("d3JvbmctYmF0dGVyeQ=="),
        token("bearer-battery"),
        identity("refresh-battery"),
    ] {
        pull_as(t, &reference, auth).await.expect_err("refused");
    }
    write_docker_config(t, &json!({ "auths": { registry.domain(): { "auth": ENCODED } } }));
    pull(t, &reference).await;
    let log = t.instance().daemon_log();
    assert!(log.contains("PullImage"), "the log is on");
    for secret in ["battery", "horse", ENCODED.trim_end_matches('='), "d3JvbmctYmF0dGVyeQ"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} in the log");
    }
    Ok(())
}
