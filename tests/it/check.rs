//! `usnea check`

use it::Scenario;
use serde_json::Value;

it::tests!("check": json_and_lines_say_the_same, what_is_missing_comes_with_a_remedy);

async fn json_and_lines_say_the_same(t: &mut Scenario) {
    let output = t.instance().usnea(&["check", "--json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = checks.as_array().expect("an array");
    let lines = String::from_utf8(t.instance().usnea(&["check"]).stdout).expect("UTF-8");
    assert_eq!(lines.lines().count(), checks.len(), "{lines}");
    let names: Vec<&str> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    for (line, name) in lines.lines().zip(&names) {
        assert!(line.contains(name), "{name} not in {line}");
    }
    let topics =
        ["user namespaces", "subordinate", "overlay", "cgroup", "linger", "seccomp", "uplink"];
    for topic in topics {
        assert!(names.iter().any(|name| name.contains(topic)), "{topic} not in {names:?}");
    }
    let missing = checks.iter().any(|check| check["state"] == "missing");
    assert_eq!(output.status.code(), Some(i32::from(missing)), "{checks:?}");
    assert!(!missing, "pods run here, so nothing essential is missing: {checks:?}");
}

async fn what_is_missing_comes_with_a_remedy(t: &mut Scenario) {
    let output = t.instance().usnea(&["check", "--json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for check in checks.as_array().expect("an array") {
        assert_ne!(check["found"].as_str(), Some(""), "{check}");
        let fine = check["state"] == "ok";
        assert_eq!(check["remedy"].is_null(), fine, "{check}");
    }
}
