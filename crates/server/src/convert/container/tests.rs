use super::*;

const PLAIN: HostTraits = HostTraits { selinux: false };

fn parsed(change: impl FnOnce(&mut cri::ContainerConfig)) -> Result<ContainerConfig, EngineError> {
    let metadata = cri::ContainerMetadata { name: "main".to_owned(), attempt: 1 };
    let image = cri::ImageSpec { image: "busybox".to_owned(), ..Default::default() };
    let mut config =
        cri::ContainerConfig { metadata: Some(metadata), image: Some(image), ..Default::default() };
    change(&mut config);
    container_config(Some(config), PLAIN)
}

#[track_caller]
fn assert_invalid(field: &str, change: impl FnOnce(&mut cri::ContainerConfig)) {
    let error = parsed(change).expect_err("refused");
    let EngineError::Invalid(invalid) = error else { panic!("{error:?}") };
    assert_eq!(invalid.field, field);
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn name_and_image_are_enough() {
    let config = parsed(|_| ()).expect("usual");
    assert_eq!((config.metadata.name.as_str(), config.metadata.attempt), ("main", 1));
    assert_eq!((config.working_dir, config.log_path, config.stop_signal), (None, None, None));
}

#[test]
fn every_field_is_taken_over() {
    let config = parsed(|config| {
        config.image.get_or_insert_default().user_specified_image = "busybox:1".to_owned();
        config.command = owned(&["sh"]);
        config.args = owned(&["-c", ""]);
        config.working_dir = "/srv".to_owned();
        let (key, value) = ("A".to_owned(), b"b=c".to_vec());
        config.envs = vec![cri::KeyValue { key, value }];
        let (container_path, host_path) = ("/data".to_owned(), "/srv".to_owned());
        config.mounts = vec![cri::Mount { container_path, host_path, ..Default::default() }];
        config.labels = [("app".to_owned(), "web".to_owned())].into();
        config.annotations = [("note".to_owned(), "x".to_owned())].into();
        config.log_path = "main/1.log".to_owned();
        (config.stdin, config.stdin_once) = (true, true);
        config.stop_signal = cri::Signal::Sigquit.into();
        let resources = cri::LinuxContainerResources { cpu_shares: 7, ..Default::default() };
        let security =
            cri::LinuxContainerSecurityContext { privileged: true, ..Default::default() };
        config.linux = Some(cri::LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security),
        });
    })
    .expect("usual");
    assert_eq!(config.image.user_specified_image, "busybox:1");
    assert_eq!((config.command, config.args), (owned(&["sh"]), owned(&["-c", ""])));
    assert_eq!(config.working_dir.expect("given").to_string(), "/srv");
    assert_eq!((&*config.envs[0].key, &*config.envs[0].value), ("A", "b=c"));
    assert_eq!(config.mounts[0].container_path.to_string(), "/data");
    assert_eq!((&*config.labels["app"], &*config.annotations["note"]), ("web", "x"));
    assert_eq!(config.log_path.expect("given").to_string(), "main/1.log");
    assert!(config.stdin && config.stdin_once && config.security.privileged);
    assert_eq!(config.stop_signal.expect("given").to_string(), "SIGQUIT");
    assert_eq!(config.resources.cpu_shares, 7);
}

#[test]
fn what_must_be_there() {
    container_config(None, PLAIN).expect_err("no config");
    assert_invalid("config.metadata", |config| config.metadata = None);
    assert_invalid("config.metadata.name", |config| {
        config.metadata.get_or_insert_default().name = "../x".to_owned();
    });
    assert_invalid("config.image", |config| config.image = None);
    assert_invalid("config.image.image", |config| config.image = Some(cri::ImageSpec::default()));
}

#[test]
fn an_image_is_for_this_runtime() {
    let handler = |name: &str| {
        let name = name.to_owned();
        move |config: &mut cri::ContainerConfig| {
            config.image.get_or_insert_default().runtime_handler = name;
        }
    };
    parsed(handler("usnea")).expect("ours");
    assert_invalid("config.image.runtime_handler", handler("kata"));
}

#[test]
fn words_and_variables_are_c_strings() {
    assert_invalid("config.command", |config| config.command = owned(&["sh\0"]));
    assert_invalid("config.args", |config| config.args = owned(&["a", "b\0c"]));
    for bad in ["", "A=B", "A\0"] {
        assert_invalid("config.envs.key", |config| {
            config.envs = vec![cri::KeyValue { key: bad.to_owned(), value: Vec::new() }];
        });
    }
}

#[test]
fn what_execve_refuses_is_refused_at_once() {
    let longest = "x".repeat(LONGEST_WORD_BYTES - 1);
    parsed(|config| config.args = vec![longest.clone()]).expect("fits");
    assert_invalid("config.args", |config| config.args = vec![format!("{longest}x")]);
    assert_invalid("config.envs[A]", |config| {
        let (key, value) = ("A".to_owned(), format!("{longest}x").into_bytes());
        config.envs = vec![cri::KeyValue { key, value }];
    });
}

#[test]
fn a_refusal_does_not_tell_secrets() {
    for value in [&b"secret\0"[..], b"secret\xff", &b"secret".repeat(LONGEST_WORD_BYTES)] {
        let (key, value) = ("TOKEN".to_owned(), value.to_vec());
        let error = parsed(|config| config.envs = vec![cri::KeyValue { key, value }]);
        let message = error.expect_err("refused").to_string();
        assert!(message.starts_with("config.envs[TOKEN]: \"(hidden)\": "), "{message}");
    }
}

/// R17
#[test]
fn a_home_directory_is_one_line() {
    let env = |key: &str| {
        let (key, value) = (key.to_owned(), b"/\nroot::0:0::/:/bin/sh".to_vec());
        move |config: &mut cri::ContainerConfig| config.envs = vec![cri::KeyValue { key, value }]
    };
    assert_invalid("config.envs[HOME]", env("HOME"));
    parsed(env("CERTIFICATE")).expect("other values have lines");
}

/// R13
#[test]
fn a_working_directory_is_a_path_of_the_container() {
    for bad in ["srv", "/proc/self/fd/7", "/proc/self/fd", "/proc/1/fd/3", "/x/../proc/self/fd/9"] {
        assert_invalid("config.working_dir", |config| config.working_dir = bad.to_owned());
    }
    parsed(|config| config.working_dir = "/proc/sys".to_owned()).expect("no descriptor");
    parsed(|config| config.working_dir = "/srv/fd".to_owned()).expect("not in /proc");
}

#[test]
fn logs_stay_below_their_directory() {
    for bad in ["../x", "/var/log/x", "a/../../x", "a\nb"] {
        assert_invalid("config.log_path", |config| config.log_path = bad.to_owned());
    }
}

#[test]
fn what_is_not_there_yet_is_refused() {
    assert_invalid("config.tty", |config| config.tty = true);
    assert_invalid("config.stop_signal", |config| config.stop_signal = 99);
    assert_invalid("config.windows", |config| {
        let resources = Some(cri::WindowsContainerResources::default());
        config.windows = Some(cri::WindowsContainerConfig { resources, ..Default::default() });
    });
    assert_invalid("config.linux.resources.oom_score_adj", |config| {
        let resources = cri::LinuxContainerResources { oom_score_adj: 1001, ..Default::default() };
        config.linux.get_or_insert_default().resources = Some(resources);
    });
}

#[test]
fn devices_are_a_failed_precondition() {
    let device = parsed(|config| config.devices = vec![cri::Device::default()]);
    let cdi = parsed(|config| config.cdi_devices = vec![cri::CdiDevice::default()]);
    for error in [device.expect_err("refused"), cdi.expect_err("refused")] {
        assert!(matches!(error, EngineError::Precondition { .. }), "{error:?}");
    }
}
