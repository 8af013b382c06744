use super::*;
use crate::fixture::{config, image, strings, user};

fn argv_of(command: &[&str], args: &[&str], entrypoint: &[&str], cmd: &[&str]) -> Vec<String> {
    let config = ContainerConfig { command: strings(command), args: strings(args), ..config() };
    let image = ImageDefaults { entrypoint: strings(entrypoint), cmd: strings(cmd), ..image() };
    argv(&config, &image).expect("something to execute")
}

#[test]
fn request_and_image_make_the_arguments() {
    assert_eq!(argv_of(&["c"], &["a"], &["e"], &["m"]), ["c", "a"]);
    assert_eq!(argv_of(&["c"], &[], &["e"], &["m"]), ["c"]);
    assert_eq!(argv_of(&[], &["a"], &["e"], &["m"]), ["e", "a"]);
    assert_eq!(argv_of(&[], &[], &["e"], &["m"]), ["e", "m"]);
    assert_eq!(argv_of(&[], &["a"], &[], &["m"]), ["a"]);
    assert_eq!(argv_of(&[], &[], &[], &["m"]), ["m"]);
}

#[test]
fn arguments_that_cannot_be_executed_are_refused() {
    let refused = |command: &[&str]| {
        let config = ContainerConfig { command: strings(command), ..config() };
        argv(&config, &ImageDefaults::default()).expect_err("refused").reason
    };
    assert!(refused(&[]).contains("Entrypoint"));
    assert!(refused(&["a\0b"]).contains("NUL"));
    assert!(refused(&["a", &"x".repeat(128 * 1024)]).contains("128 KiB"));
    let many = vec!["x".repeat(100_000); 70];
    check_size(&many, &[]).expect_err("7 MB");
    check_size(&many[..10], &[]).expect("1 MB");
}

fn env_of(image_env: &[&str], envs: &[(&str, &str)]) -> Result<Vec<String>, InvalidField> {
    let envs = envs.iter().map(|(key, value)| {
        model::EnvVar::parse(key, value.as_bytes().to_vec()).expect("valid variable")
    });
    let config = ContainerConfig { envs: envs.collect(), ..config() };
    let image = ImageDefaults { env: strings(image_env), ..image() };
    env(&config, &image, &user(), "web-0")
}

#[test]
fn the_last_of_equal_keys_counts_at_the_place_of_the_first() {
    let env = env_of(&["A=1", "PATH=/bin", "B=2", "A=3"], &[("C", "4"), ("B", "5"), ("C", "6=7")]);
    let expected = ["A=3", "PATH=/bin", "B=5", "C=6=7", "HOSTNAME=web-0", "HOME=/home/app"];
    assert_eq!(env.expect("valid"), expected);
}

#[test]
fn what_every_program_expects_is_there_and_no_more() {
    let env = env_of(&[], &[]).expect("valid");
    assert_eq!(env, [&format!("PATH={DEFAULT_PATH}"), "HOSTNAME=web-0", "HOME=/home/app"]);
    let own = env_of(&["HOME=/a", "HOSTNAME=b"], &[("PATH", "")]).expect("valid");
    assert_eq!(own, ["HOME=/a", "HOSTNAME=b", "PATH="]);
}

#[test]
fn an_empty_home_counts_as_none_v2() {
    let env = env_of(&["HOME=/root"], &[("HOME", "")]).expect("valid");
    assert_eq!(env[0], "HOME=/home/app");
}

#[test]
fn a_home_that_could_become_a_passwd_line_is_refused_r17() {
    for home in ["/\nroot::0:0::/:/bin/sh", "/\r", "/\u{1b}[2J"] {
        env_of(&[], &[("HOME", home)]).expect_err(home);
        env_of(&[&format!("HOME={home}")], &[]).expect_err(home);
    }
    let user = ResolvedUser { home: "/\n".to_owned(), ..user() };
    env(&config(), &image(), &user, "h").expect_err("from passwd");
}

#[test]
fn image_variables_that_are_none_are_refused_r24() {
    for bad in ["FOO", "*", "", "=x", "A=\0", "A\0=x"] {
        env_of(&[bad], &[]).expect_err(bad);
    }
    env_of(&[&format!("A={}", "x".repeat(128 * 1024))], &[]).expect_err("too long");
}

#[test]
fn a_hundred_thousand_variables_take_no_quadratic_time() {
    let many: Vec<String> = (0..200_000).map(|number| format!("V{number}=")).collect();
    let image = ImageDefaults { env: many, ..image() };
    assert_eq!(env(&config(), &image, &user(), "h").expect("valid").len(), 200_003);
}

fn directory(request: Option<&str>, image_text: &str) -> Result<PathBuf, InvalidField> {
    let working_dir = request.map(|text| ContainerPath::parse_any("working_dir", text));
    let working_dir = working_dir.transpose().expect("absolute");
    let config = ContainerConfig { working_dir, ..config() };
    working_dir_of(&config, image_text)
}

fn working_dir_of(config: &ContainerConfig, image_text: &str) -> Result<PathBuf, InvalidField> {
    working_dir(config, &ImageDefaults { working_dir: image_text.to_owned(), ..image() })
}

#[test]
fn the_working_directory_is_the_requests_then_the_images() {
    assert_eq!(directory(Some("/a"), "/b"), Ok(PathBuf::from("/a")));
    assert_eq!(directory(None, "/b/../c/"), Ok(PathBuf::from("/c")));
    assert_eq!(directory(None, ""), Ok(PathBuf::from("/")));
    assert_eq!(directory(None, "/proc"), Ok(PathBuf::from("/proc")));
    directory(None, "relative").expect_err("relative");
}

#[test]
fn a_working_directory_among_open_files_is_refused_r13() {
    for bad in [
        "/proc/self/fd/7",
        "/proc/self/fd",
        "/proc/1/fd/3/..",
        "/proc/self/task/1/fd/9",
        "/proc/thread-self/root",
        "/x/../proc/self/cwd",
        "/dev/fd/8",
        "/dev/fd",
    ] {
        directory(Some(bad), "").expect_err(bad);
        directory(None, bad).expect_err(bad);
    }
}
