use super::*;

fn granted(text: &str) -> Result<Grant, IdMapError> {
    let subject = Subject { name: Some("kube"), uid: 1000, own_id: 1000 };
    grant(text, Path::new("/etc/subuid"), &subject)
}

fn range(container_id: u32, host_id: u32, length: u32) -> IdRange {
    IdRange { container_id, host_id, length }
}

#[test]
fn root_is_the_user_and_the_rest_follows_in_order() {
    let grant = granted("other:100000:65536\nkube:300000:10\n1000:200000:65536\n").expect("valid");
    let ranges = vec![range(0, 1000, 1), range(1, 300_000, 10), range(11, 200_000, 65_536)];
    assert_eq!(grant.map, Some(IdMap { ranges }));
    assert!(grant.warnings.is_empty(), "{:?}", grant.warnings);
}

#[test]
fn a_user_without_a_range_has_no_map() {
    assert_eq!(granted("other:100000:65536\n"), Ok(Grant { map: None, warnings: vec![] }));
    assert_eq!(granted(""), Ok(Grant { map: None, warnings: vec![] }));
}

#[test]
fn a_user_without_a_name_does_not_own_nameless_lines() {
    let subject = Subject { name: None, uid: 1000, own_id: 1000 };
    let grant = grant(":100000:5\n1000:200000:5\n", Path::new("f"), &subject).expect("valid");
    assert_eq!(grant.map.expect("by number").ranges[1], range(1, 200_000, 5));
    assert_eq!(grant.warnings.len(), 1);
}

#[test]
fn garbage_is_counted_and_comments_are_not() {
    let text = "# comment\n\nkube\nkube:x:1\nkube:1:0\nkube:5:5:5\n:9:9\nkube:100000:1\n";
    let grant = granted(text).expect("valid");
    assert_eq!(grant.map.expect("one line is good").len(), 2);
    let expected = "/etc/subuid: 5 lines are not owner:start:count and are ignored";
    assert_eq!(grant.warnings, [expected]);
}

#[test]
fn the_same_range_by_name_and_number_counts_once() {
    let grant = granted("kube:100000:65536\n1000:100000:65536\n").expect("valid");
    assert_eq!(grant.map.expect("map").len(), 65_537);
}

#[test]
fn own_ranges_may_not_overlap() {
    let error = granted("kube:200000:65536\nkube:100000:100001\n").expect_err("share 200000");
    let expected = IdMapError::Overlap {
        file: "/etc/subuid".into(),
        first: "line 2 (kube:100000:100001)".into(),
        second: "line 1 (kube:200000:65536)".into(),
    };
    assert_eq!(error, expected);
    granted("kube:200000:65536\nkube:100000:100000\n").expect("touching is fine");
}

#[test]
fn anothers_overlap_is_a_warning_with_both_lines() {
    let grant = granted("kube:100000:65536\nother:165535:10\nlast:165536:10\n").expect("works");
    let [warning] = grant.warnings.as_slice() else { panic!("{:?}", grant.warnings) };
    assert!(warning.contains("line 1 (kube:100000:65536)"), "{warning}");
    assert!(warning.contains("line 2 (other:165535:10)"), "{warning}");
}

#[test]
fn real_ids_may_not_be_subordinate() {
    for (text, real) in [("kube:0:10\n", 0), ("kube:999:2\n", 1000), ("kube:1000:1\n", 1000)] {
        let error = granted(text).expect_err("contains a real id");
        assert!(
            matches!(error, IdMapError::ContainsRealId { id, .. } if id == real),
            "{text}: {error}"
        );
    }
    granted("kube:1001:1\n").expect("just above");
}

#[test]
fn a_range_ends_at_the_last_id() {
    granted("kube:4294967294:1\n").expect("the last id");
    for text in [
        "kube:4294967295:1\n",
        "kube:4294967290:10\n",
        "kube:5000000000:1\n",
        "kube:2000:18446744073709551615\n",
    ] {
        let error = granted(text).expect_err("too far");
        assert!(matches!(error, IdMapError::Overflow { .. }), "{text}: {error}");
    }
}

#[test]
fn anothers_absurd_range_is_not_our_error() {
    let grant = granted("kube:100000:5\nother:4294967290:100\n").expect("valid");
    assert!(grant.warnings.is_empty());
}

#[test]
fn the_kernels_own_table_is_read() {
    let map =
        IdMap::from_proc("         0       1000          1\n         1     100000      65536\n");
    assert_eq!(map.ranges, [range(0, 1000, 1), range(1, 100_000, 65_536)]);
    assert_eq!(map.arguments(), ["0", "1000", "1", "1", "100000", "65536"]);
    assert!(IdMap::from_proc("").is_empty());
}
