use model::parse_unix_id;

use super::*;
use crate::fixture::config;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n\
                      nohome:x:7:7:::\n4294967296:x:0:0::/root:/bin/sh\n-1:x:0:0::/root:/bin/sh\n\
                      far:x:70000:0::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nstaff:x:50:app,root\nvideo:x:44:other, app\nwheel:x:10:1000\n";
const MAPPED: IdLimits = IdLimits { uids: 65_536, gids: 65_536 };

fn security() -> ContainerSecurity {
    config().security
}

fn of_image(user: &str) -> Result<ResolvedUser, UserError> {
    resolve(&security(), user, Some(PASSWD), Some(GROUP), MAPPED)
}

fn ids(user: &str) -> (u32, u32) {
    let resolved = of_image(user).expect(user);
    (resolved.uid, resolved.gid)
}

#[test]
fn users_of_images() {
    assert_eq!(ids(""), (0, 0));
    assert_eq!(ids("app"), (1000, 1001));
    assert_eq!(ids("1000"), (1000, 1001));
    assert_eq!(ids("app:staff"), (1000, 50));
    assert_eq!(ids("app:7"), (1000, 7));
    assert_eq!(ids("1:2"), (1, 2));
    assert_eq!(ids("5:staff"), (5, 50));
    assert_eq!(ids(":staff"), (0, 50));
    assert_eq!(ids("app:"), (1000, 1001));
    for bad in ["nobody", "app:nogroup", "app:staff:x", "app ", "0x1", "1e3", ":::"] {
        assert!(matches!(of_image(bad), Err(UserError::Invalid(_))), "{bad}");
    }
}

#[test]
fn an_image_without_users_has_numbers_only() {
    let bare = |user| resolve(&security(), user, None, None, MAPPED);
    let resolved = bare("12:34").expect("numbers");
    assert_eq!((resolved.uid, resolved.gid, resolved.home.as_str()), (12, 34, "/"));
    bare("root").expect_err("a name");
}

#[test]
fn numbers_are_never_names_and_never_wrap_r15() {
    for bad in [
        "2147483648",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "+0",
        "4294967296:0",
        "0:4294967296",
        "app:-1",
    ] {
        assert!(matches!(of_image(bad), Err(UserError::Invalid(_))), "{bad}");
    }
    assert_eq!(ids("1"), (1, 0));
    let named =
        ContainerSecurity { run_as: Some(RunAs::Name("4294967296".to_owned())), ..security() };
    resolve(&named, "", Some(PASSWD), None, MAPPED).expect_err("digits are a number");
}

#[test]
fn the_request_wins_over_the_image() {
    let uid = parse_unix_id("run_as_user", 1000).expect("in range");
    let by_uid = ContainerSecurity { run_as: Some(RunAs::Uid(uid)), ..security() };
    let resolved = resolve(&by_uid, "0:0", Some(PASSWD), Some(GROUP), MAPPED).expect("mapped");
    assert_eq!((resolved.uid, resolved.gid, resolved.home.as_str()), (1000, 1001, "/home/app"));
    let with_group = ContainerSecurity { run_as_group: Some(3), ..by_uid };
    let resolved = resolve(&with_group, "0:0", Some(PASSWD), None, MAPPED).expect("mapped");
    assert_eq!((resolved.uid, resolved.gid), (1000, 3));
    let unknown = RunAs::Name("nobody".to_owned());
    let by_name = ContainerSecurity { run_as: Some(unknown), ..security() };
    resolve(&by_name, "app", Some(PASSWD), None, MAPPED).expect_err("not in passwd");
}

#[test]
fn groups_by_policy_r16() {
    let groups = |policy, supplemental: &[u32]| {
        let supplemental_groups = supplemental.to_vec();
        let security =
            ContainerSecurity { group_policy: policy, supplemental_groups, ..security() };
        let user = resolve(&security, "1000", Some(PASSWD), Some(GROUP), MAPPED);
        user.expect("mapped").additional_gids
    };
    assert_eq!(groups(GroupPolicy::Merge, &[1234]), [1001, 50, 44, 1234]);
    assert_eq!(groups(GroupPolicy::Merge, &[44, 1001]), [1001, 50, 44]);
    assert_eq!(groups(GroupPolicy::Strict, &[1234]), [1001, 1234]);
    assert_eq!(groups(GroupPolicy::Strict, &[]), [1001]);
}

#[test]
fn ids_that_are_not_mapped_name_the_file_that_grants_them() {
    let error = of_image("70000").expect_err("unmapped").to_string();
    assert!(error.contains("uid 70000") && error.contains("/etc/subuid"), "{error}");
    let error = of_image("1:70000").expect_err("unmapped").to_string();
    assert!(error.contains("gid 70000") && error.contains("/etc/subgid"), "{error}");
    let supplemental = ContainerSecurity { supplemental_groups: vec![65_536], ..security() };
    let result = resolve(&supplemental, "", None, None, MAPPED);
    assert!(matches!(result, Err(UserError::NotMapped { kind: "gid", id: 65_536, .. })));
    let single = IdLimits { uids: 1, gids: 1 };
    assert_eq!(resolve(&security(), "0", None, None, single).map(|user| user.uid), Ok(0));
}

#[test]
fn with_a_single_id_there_is_only_root_and_its_group() {
    let single = IdLimits { uids: 1, gids: 1 };
    let root = resolve(&security(), "", Some(PASSWD), Some(GROUP), single).expect("root");
    assert_eq!((root.uid, root.additional_gids), (0, vec![0]));
    let app = resolve(&security(), "app", Some(PASSWD), Some(GROUP), single);
    assert!(matches!(app, Err(UserError::NotMapped { kind: "uid", .. })), "{app:?}");
}

#[test]
fn home_directories() {
    let home = |user| of_image(user).expect("known").home;
    assert_eq!(
        (home("root").as_str(), home("nohome").as_str(), home("9").as_str()),
        ("/root", "/", "/")
    );
}

#[test]
fn a_home_with_control_characters_is_refused_r17() {
    for home in ["/\0", "/\r", "/\u{85}"] {
        let passwd = format!("root:x:0:0::{home}:/bin/sh");
        resolve(&security(), "0", Some(&passwd), None, MAPPED).expect_err("control character");
    }
    // A line break ends the line: what follows is a line of its own, and no part of a home.
    let split = "app:x:5:5::/home\nroot::0:0:/:/bin/sh";
    resolve(&security(), "app", Some(split), None, MAPPED).expect_err("half a line");
}

#[test]
fn files_of_a_megabyte_are_read_in_no_time_r18() {
    let began = std::time::Instant::now();
    let colons = ":".repeat(1 << 20);
    let members = format!("g:x:5:{}app", "app,".repeat(1 << 18));
    let lines = "g:x:5:app\n".repeat(1 << 17);
    for group in [&colons, &members, &lines] {
        let resolved = resolve(&security(), "0", Some(&colons), Some(group), MAPPED);
        assert_eq!(resolved.expect("mapped").additional_gids, [0]);
        resolve(&security(), "app", Some(PASSWD), Some(group), MAPPED).expect("one group at most");
    }
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

#[test]
fn more_groups_than_the_kernel_takes_are_refused() {
    let group: String = (0..70_000).map(|gid| format!("g{gid}:x:{gid}:app\n")).collect();
    let mapped = IdLimits { uids: 100_000, gids: 100_000 };
    resolve(&security(), "app", Some(PASSWD), Some(&group), mapped).expect_err("65536 at most");
}
