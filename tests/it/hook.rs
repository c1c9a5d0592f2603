//! Tests of `hook install`, `hook remove` and `hook status`, and of the hint that the plugin returns to docker's hook
//! request.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::support::env::{Run, TestEnv, exists, run};

const CONFIG: &str = "{\n\t\"auths\": {\n\t\t\"h\": {}\n\t},\n\t\"currentContext\": \"far\"\n}";

fn hook(env: &TestEnv, action: &str) -> Run {
    run(env.without_engine().args(["regpush", "hook", action]))
}

#[test]
fn installs_and_removes_the_hook_without_a_trace() {
    let env = TestEnv::new().with_config(CONFIG);
    fs::set_permissions(env.config_file(), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(hook(&env, "status").status, 1);
    let installed = hook(&env, "install");
    assert_eq!(installed.status, 0, "{installed}");
    assert!(
        installed.stdout.contains(&format!("hook: installed in {}", env.config_file().display())),
        "{installed}"
    );
    assert!(installed.stdout.contains("hints: off; to show them on a terminal, set DOCKER_CLI_HINTS=true"));
    let config: Value = serde_json::from_str(&fs::read_to_string(env.config_file()).unwrap()).unwrap();
    let commands = "push,image push";
    assert_eq!(config["plugins"]["regpush"], json!({"hooks": commands, "error-hooks": commands}));
    assert_eq!(config["currentContext"], "far");
    assert_eq!(fs::metadata(env.config_file()).unwrap().mode() & 0o777, 0o640);
    let status = hook(&env, "status");
    assert_eq!(status.status, 0, "{status}");
    assert!(
        hook(&env, "install").stdout.contains("already installed in"),
        "a second install changes nothing"
    );

    assert_eq!(hook(&env, "remove").status, 0);
    assert_eq!(fs::read_to_string(env.config_file()).unwrap(), CONFIG);
    assert!(hook(&env, "remove").stdout.contains("not installed"));
    let left: Vec<_> = fs::read_dir(env.config_directory()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "no temporary file is left: {left:?}");
}

#[test]
fn remove_deletes_a_config_that_install_created() {
    let env = TestEnv::new();
    fs::remove_dir(env.config_directory()).unwrap();
    assert_eq!(hook(&env, "remove").status, 0);
    assert!(!exists(&env.config_directory()));
    assert_eq!(hook(&env, "install").status, 0);
    assert_eq!(fs::metadata(env.config_file()).unwrap().mode() & 0o777, 0o600);
    assert_eq!(hook(&env, "remove").status, 0);
    assert!(!exists(&env.config_file()));
}

#[test]
fn follows_and_keeps_a_symlinked_config() {
    let env = TestEnv::new();
    let dotfile = env.path("home/dotfile.json");
    fs::write(&dotfile, CONFIG).unwrap();
    symlink(&dotfile, env.config_file()).unwrap();
    assert_eq!(hook(&env, "install").status, 0);
    assert!(fs::symlink_metadata(env.config_file()).unwrap().is_symlink());
    assert!(fs::read_to_string(&dotfile).unwrap().contains("push,image push"));
    assert_eq!(hook(&env, "remove").status, 0);
    assert_eq!(fs::read_to_string(&dotfile).unwrap(), CONFIG);
}

#[test]
fn keeps_a_dangling_symlink_and_creates_its_target() {
    let env = TestEnv::new();
    symlink("../home/later.json", env.config_file()).unwrap();
    assert_eq!(hook(&env, "install").status, 0);
    assert!(fs::symlink_metadata(env.config_file()).unwrap().is_symlink());
    assert!(exists(&env.path("home/later.json")));
    assert_eq!(hook(&env, "remove").status, 0);
    assert!(fs::symlink_metadata(env.config_file()).unwrap().is_symlink());
}

#[test]
fn leaves_an_unexpected_config_unchanged() {
    let table = [
        ("{\"auths\":", "EOF while parsing"),
        ("[]", ": it is not an object"),
        (
            "{\"plugins\":{\"regpush\":{\"hooks\":\"build\"}}}",
            "is `build`, which `docker regpush` did not set",
        ),
    ];
    for (text, reason) in table {
        let env = TestEnv::new().with_config(text);
        for action in ["install", "remove"] {
            let refused = hook(&env, action);
            assert_eq!(refused.status, 1, "{text}: {refused}");
            assert!(refused.stderr.contains(reason) && refused.stderr.contains("config.json"), "{refused}");
            assert_eq!(fs::read_to_string(env.config_file()).unwrap(), text);
        }
    }
}

/// docker reads DOCKER_CLI_HOOKS, then DOCKER_CLI_HINTS, then `features.hooks`, and only the first one that is set.
#[test]
fn status_names_the_setting_that_decides_about_hints() {
    let how = "to show them on a terminal, set";
    let file = r#"`"features": {"hooks": "true"}` in config.json"#;
    let table = [
        // DOCKER_CLI_HOOKS, DOCKER_CLI_HINTS, features.hooks, expected line
        ("1", "0", "false", "hints: on (DOCKER_CLI_HOOKS); docker shows them on a terminal".to_owned()),
        ("0", "1", "true", format!("hints: off (DOCKER_CLI_HOOKS is `0`); {how} DOCKER_CLI_HOOKS=true")),
        ("yes", "1", "true", format!("hints: off (DOCKER_CLI_HOOKS is `yes`); {how} DOCKER_CLI_HOOKS=true")),
        ("", "true", "false", "hints: on (DOCKER_CLI_HINTS); docker shows them on a terminal".to_owned()),
        ("", "0", "true", format!("hints: off (DOCKER_CLI_HINTS is `0`); {how} DOCKER_CLI_HINTS=true")),
        ("", "", "true", "hints: on (features.hooks); docker shows them on a terminal".to_owned()),
        ("", "", "false", format!("hints: off (features.hooks is `false`); {how} {file}")),
        ("", "", "", format!("hints: off; {how} DOCKER_CLI_HINTS=true, or {file}")),
    ];
    for (hooks, hints, feature, want) in table {
        let config = if feature.is_empty() { json!({}) } else { json!({"features": {"hooks": feature}}) };
        let env = TestEnv::new().with_config(&config.to_string());
        let mut command = env.without_engine();
        command.env("DOCKER_CLI_HOOKS", hooks).env("DOCKER_CLI_HINTS", hints);
        let status = run(command.args(["regpush", "hook", "status"]));
        assert_eq!(status.stdout.lines().nth(1), Some(want.as_str()), "{status}");
    }
}

#[test]
fn answers_dockers_hook_request_with_a_template() {
    let question =
        json!({"RootCmd": "push", "Flags": {"quiet": "true"}, "CommandError": "no basic auth credentials"});
    let mut command = TestEnv::new().without_engine();
    let answer = run(command.args(["regpush", "docker-cli-plugin-hooks", &question.to_string()]));
    assert_eq!((answer.status, answer.stderr.as_str()), (0, ""));
    let template = answer.json()["Template"].as_str().unwrap().to_owned();
    assert!(
        template.contains("requires authentication") && template.ends_with("docker regpush {{arg . 0}}"),
        "{template}"
    );
    assert_eq!(answer.json()["Type"], 0);
}
