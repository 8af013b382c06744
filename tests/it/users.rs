//! Who runs in a container: users and groups, as CRI and image say.

use it::Scenario;
use serde_json::json;
use testkit::{
    ContainerSpec,
    image::{EntryType, ImageBuilder, Layer},
};
use tonic::Code;

use crate::command::import;

it::tests!("users":
    users_of_the_request,
    users_of_the_image,
    supplementary_groups,
    the_status_tells_the_user,
    a_group_needs_a_user,
    unknown_users_are_refused,
    numbers_that_would_wrap_to_root_are_refused,
    odd_passwd_files_do_not_block,
);

/// `uid:gid`
fn asking(spec: ContainerSpec) -> ContainerSpec {
    spec.script("echo $(id -u):$(id -g)")
}

fn named(spec: ContainerSpec, name: &str) -> ContainerSpec {
    spec.security(|security| name.clone_into(&mut security.run_as_username))
}

async fn users_of_the_request(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let cases = [
        (t.busybox("default"), "0:0"),
        (t.busybox("uid").user(1000), "1000:1000"),
        (t.busybox("unlisted").user(4242), "4242:0"),
        (t.busybox("both").user(1000).group(7), "1000:7"),
        (named(t.busybox("name"), "app"), "1000:1000"),
        (named(t.busybox("name-group"), "app").group(7), "1000:7"),
        (t.busybox("one").user(1), "1:0"),
    ];
    for (spec, expected) in cases {
        let what = format!("{:?}", spec.config.metadata);
        assert_eq!(t.output(&pod, asking(spec)).await, expected, "{what}");
    }
}

async fn users_of_the_image(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let cases = [
        ("", "0:0"),
        ("app", "1000:1000"),
        ("1000", "1000:1000"),
        ("4242", "4242:0"),
        ("app:extra", "1000:2000"),
        ("1000:7", "1000:7"),
    ];
    for (index, (user, expected)) in cases.into_iter().enumerate() {
        let image = ImageBuilder::busybox().with("User", json!(user));
        let image = import(t, &format!("u{index}"), &image);
        let spec = testkit::container("a", &image);
        assert_eq!(t.output(&pod, asking(spec.clone())).await, expected, "{user:?}");
        assert_eq!(t.output(&pod, asking(spec.user(9))).await, "9:0", "the request wins");
    }
}

/// `Merge` adds the groups that the image's `/etc/group` gives the user, `Strict` does not.
async fn supplementary_groups(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let show = |spec: ContainerSpec| spec.script("id -G");
    let merged = t.output(&pod, show(t.busybox("merge").user(1000).groups(&[3000]))).await;
    let mut merged: Vec<&str> = merged.split(' ').collect();
    merged.sort_unstable();
    merged.dedup();
    assert_eq!(merged, ["1000", "2000", "3000"]);
    let strict = show(t.busybox("strict").user(1000).groups(&[3000])).security(|security| {
        security.supplemental_groups_policy = cri_api::v1::SupplementalGroupsPolicy::Strict.into();
    });
    assert_eq!(t.output(&pod, strict).await, "1000 3000");
}

async fn the_status_tells_the_user(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let id = t.launch(&pod, t.sleeper("a").user(1000).group(7).groups(&[3000])).await;
    let user = t.status(&id).await.user.and_then(|user| user.linux).expect("a user");
    assert_eq!((user.uid, user.gid), (1000, 7));
    assert!(user.supplemental_groups.contains(&3000), "{user:?}");
    let seen = t.exec(&id, "id -u; id -g").await;
    assert_eq!(seen, "1000\n7", "a command in the container is the same user");
}

async fn a_group_needs_a_user(t: &mut Scenario) {
    let pod = t.run_pod().await;
    t.refused(&pod, t.sleeper("a").group(7), Code::InvalidArgument).await;
}

async fn unknown_users_are_refused(t: &mut Scenario) {
    let pod = t.run_pod().await;
    t.refused(&pod, named(t.sleeper("a"), "stranger"), Code::InvalidArgument).await;
    let both = named(t.sleeper("a"), "app").user(1000);
    t.refused(&pod, both, Code::InvalidArgument).await;
    let unmapped = t.sleeper("a").user(2_000_000_000);
    t.refused(&pod, unmapped, Code::FailedPrecondition).await;
    assert_eq!(t.containers(&pod).await, []);
}

/// 2³¹ and 2³² become 0 when they are cut to 32 bits or read as signed; a line in passwd must not help them.
async fn numbers_that_would_wrap_to_root_are_refused(t: &mut Scenario) {
    let pod = t.run_pod().await;
    for number in [-1, 2_147_483_648, 4_294_967_296, i64::MIN] {
        t.refused(&pod, t.sleeper("a").user(number), Code::InvalidArgument).await;
        t.refused(&pod, t.sleeper("a").user(1).group(number), Code::InvalidArgument).await;
        t.refused(&pod, t.sleeper("a").user(1).groups(&[number]), Code::InvalidArgument).await;
    }
    for (index, user) in ["2147483648", "4294967296", "-1"].into_iter().enumerate() {
        let passwd = format!("{user}:x:0:0::/:/bin/sh\n");
        let layer = Layer::default().file("etc/passwd", 0o644, passwd.as_bytes());
        let image = ImageBuilder::busybox().layer(layer).with("User", json!(user));
        let image = import(t, &format!("w{index}"), &image);
        let status = t.try_create(&pod, testkit::container("a", &image)).await;
        let status = status.expect_err(user);
        assert!(
            matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition),
            "{user}: {status:?}"
        );
    }
    assert_eq!(t.containers(&pod).await, []);
}

/// Reading a FIFO would wait for ever, and a device would never end.
async fn odd_passwd_files_do_not_block(t: &mut Scenario) {
    let pod = t.run_pod().await;
    let fifo = tar_fifo();
    let zero = Layer::default().symlink("etc/passwd", "/dev/zero");
    let directory =
        Layer::default().file("etc/.wh.passwd", 0o644, b"").directory("etc/passwd", 0o755);
    for (name, layer) in [("fifo", fifo), ("zero", zero), ("directory", directory)] {
        let image = ImageBuilder::busybox().layer(layer).with("User", json!("app"));
        let image = import(t, name, &image);
        let status = t.try_create(&pod, testkit::container("a", &image)).await.expect_err(name);
        assert_ne!(status.code(), Code::DeadlineExceeded, "{name}: {status:?}");
    }
    assert_eq!(t.containers(&pod).await, []);
}

fn tar_fifo() -> Layer {
    Layer::default().entry(EntryType::Fifo, "etc/passwd", 0o644, (0, 0), &[], None)
}
