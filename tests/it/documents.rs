//! Checks help, man pages, completions and README against the clap definition of the command line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use docker_regpush::cli::env::variable;
use docker_regpush::cli::help::with_plain_help;
use docker_regpush::cli::{PluginCommand, StandaloneCommand};

use crate::support::env::{TestEnv, run};

/// The environment variable that makes the tests update outdated documents instead of failing.
const UPDATE: &str = "UPDATE_DOCS";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn assert_current(path: &Path, want: &[u8]) {
    if std::env::var_os(UPDATE).is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder that can be made");
        fs::write(path, want).expect("a file that can be written");
    }
    let there = fs::read(path).unwrap_or_default();
    assert!(there == want, "{} is not current: {UPDATE}=1 cargo test --test it documents", path.display());
}

/// Returns the options that the help of a command lists.
fn options(command: &Command) -> Vec<&Arg> {
    command.get_arguments().filter(|arg| arg.get_long().is_some() && !arg.is_hide_set()).collect()
}

fn plugin() -> Command {
    let mut command = with_plain_help(PluginCommand::command());
    command.build();
    command
}

#[test]
fn man_pages_are_current() {
    let with_variables = |arg: Arg| match variable(&arg) {
        Some(name) if arg.get_id() != "help" && arg.get_id() != "version" => arg.env(name),
        _ => arg,
    };
    // The man pages do not change with each commit.
    let command =
        with_plain_help(PluginCommand::command()).version(env!("CARGO_PKG_VERSION")).mut_args(with_variables);
    let mut pages = vec![("docker-regpush".to_owned(), command.clone())];
    for word in command.get_subcommands().filter(|word| word.get_name() != "help") {
        let name = format!("docker-regpush-{}", word.get_name());
        pages.push((name.clone(), word.clone().name(name)));
    }
    for (name, command) in pages {
        let man = Man::new(command).title(name.to_uppercase()).manual("Docker CLI plugins");
        let mut page = Vec::new();
        man.source(concat!("docker-regpush ", env!("CARGO_PKG_VERSION"))).render(&mut page).unwrap();
        assert_current(&docs().join(format!("man/{name}.1")), &page);
    }
}

#[test]
fn completions_are_current() {
    let files = [
        (Shell::Bash, "docker-regpush.bash"),
        (Shell::Zsh, "_docker-regpush"),
        (Shell::Fish, "docker-regpush.fish"),
    ];
    for (shell, file) in files {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut StandaloneCommand::command(), "docker-regpush", &mut script);
        assert_current(&docs().join("completions").join(file), &script);
    }
}

/// The help lists each option once, in the layout of docker's own help.
#[test]
fn help_follows_dockers_layout_and_lists_every_option() {
    let help = run(TestEnv::new().without_engine().args(["regpush", "--help"])).stdout;
    assert!(help.starts_with("Usage:  docker regpush [OPTIONS] IMAGE...\n"), "{help}");
    let (before, after) = help.split_once("\nOptions:\n").unwrap();
    let (listed, _) = after.split_once("\n\n").unwrap();
    assert!(before.contains("\nCommands:\n  auth  ") && !listed.contains('<'), "{help}");
    for option in options(&plugin()) {
        let long = format!("--{}", option.get_long().unwrap());
        let lines: Vec<&str> =
            listed.lines().filter(|line| line.split(' ').any(|word| word == long)).collect();
        let is_own = |line: &&str| {
            let names = line.trim_start().split("  ").next().unwrap_or_default();
            names.starts_with('-') && names.split(' ').any(|word| word == long)
        };
        assert_eq!(lines.into_iter().filter(is_own).count(), 1, "{long}");
        // The help text of an option must contain the default and the possible values, since clap does not append these
        // values.
        let text = option.get_help().unwrap().to_string();
        if let [default] = option.get_default_values()
            && option.get_action().takes_values()
        {
            let default = default.to_str().unwrap();
            let told = [format!("(default {default})"), format!("(default \"{default}\")")];
            assert!(told.iter().any(|told| text.ends_with(told)), "{long}: {text} {default}");
        }
        for value in option.get_possible_values() {
            let takes = option.get_action().takes_values();
            assert!(!takes || text.contains(&format!("\"{}\"", value.get_name())), "{long}: {text}");
        }
    }
    assert!(listed.lines().all(|line| line.chars().count() <= 100), "{help}");
    assert!(help.lines().count() <= 67, "short enough to read");
    assert!(help.contains("REGPUSH_PROGRESS=plain"), "{help}");
}

/// Returns the help that `docker regpush WORDS --help` prints.
fn help(words: &[&str]) -> String {
    run(TestEnv::new().without_engine().arg("regpush").args(words).arg("--help")).stdout
}

#[test]
fn options_page_is_current() {
    let mut page = "# Options\n\nYou look for an option, or want to know what it does. This page has the output of \
                    `--help` for each command.\n\
                    Each long option of a push can be set by a variable too; see [CI and scripts](ci.md#variables).\n"
        .to_owned();
    for words in [&[][..], &["auth"], &["ls"], &["hook"]] {
        let command = [&["docker", "regpush"], words].concat().join(" ");
        page += &format!("\n## {command}\n\n```text\n{}```\n", help(words));
    }
    assert_current(&docs().join("options.md"), page.as_bytes());
}

#[test]
fn documents_use_only_known_options() {
    let standalone = StandaloneCommand::command();
    let options =
        standalone.get_subcommands().flat_map(Command::get_arguments).chain(standalone.get_arguments());
    let known: BTreeSet<String> =
        options.filter_map(|option| Some(format!("--{}", option.get_long()?))).collect();
    let pages = fs::read_dir(docs()).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut examples = 0;
    for path in pages.chain([docs().with_file_name("README.md")]) {
        let page = fs::read_to_string(&path).unwrap();
        for example in page.lines().filter_map(|line| line.split_once("docker regpush ")) {
            let ours = example.1.split(['|', '`', ')', '\'']).next().unwrap_or_default();
            for option in ours.split([' ', '=']).filter(|word| word.starts_with("--") && *word != "--help") {
                assert!(known.contains(option), "{option}: {}: {}", path.display(), example.1);
                examples += 1;
            }
        }
    }
    assert!(examples > 0);
}

/// An environment variable can set each long option, except hidden options, `--help` and `--version`.
#[test]
fn every_long_option_has_a_variable() {
    let table = [
        ("REGPUSH_ALL_TAGS", "maybe"),
        ("REGPUSH_ANONYMOUS", "maybe"),
        ("REGPUSH_CA_FILE", "/no/such/file"),
        ("REGPUSH_CERT_FILE", "/no/such/file"),
        ("REGPUSH_CHUNK_SIZE", "5x"),
        ("REGPUSH_DRY_RUN", "maybe"),
        ("REGPUSH_FORMAT", "xml"),
        ("REGPUSH_GITHUB_OUTPUT", "maybe"),
        ("REGPUSH_IF_EXISTS", "x"),
        ("REGPUSH_KEEP_TAG", "maybe"),
        ("REGPUSH_KEY_FILE", "/no/such/file"),
        ("REGPUSH_LIMIT_RATE", "-1"),
        ("REGPUSH_NO_PROMPT", "maybe"),
        ("REGPUSH_PARALLEL", "0"),
        ("REGPUSH_PASSWORD_COMMAND", "x"),
        ("REGPUSH_PASSWORD_STDIN", "maybe"),
        ("REGPUSH_PLAIN_HTTP", "maybe"),
        ("REGPUSH_PLATFORM", "a/b/c/d"),
        ("REGPUSH_PROGRESS", "fancy"),
        ("REGPUSH_QUIET", "maybe"),
        ("REGPUSH_RELAY", "sometimes"),
        ("REGPUSH_RETRIES", "-1"),
        ("REGPUSH_SAVE_CREDENTIALS", "maybe"),
        ("REGPUSH_STALL_TIMEOUT", "soon"),
        ("REGPUSH_TIMEOUT", "soon"),
        ("REGPUSH_TLS_VERIFY", "maybe"),
        ("REGPUSH_TO", "http://x"),
        ("REGPUSH_USERNAME", "a:b"),
        ("REGPUSH_VERIFY", "x"),
        ("REGPUSH_VERIFY_WAIT", "soon"),
        ("REGPUSH_DIGEST_FILE", "/no/such/folder/file"),
        ("REGPUSH_METADATA_FILE", "/no/such/folder/file"),
    ];
    let env = TestEnv::new();
    for (name, value) in table {
        let run = run(env.without_engine().args(["regpush", "app:1"]).env(name, value));
        let is_written = ["REGPUSH_DIGEST_FILE", "REGPUSH_METADATA_FILE"].contains(&name);
        let status = if is_written { 1 } else { 125 };
        assert_eq!(run.status, status, "{name}: {run}");
    }
    let command = plugin();
    let known: BTreeSet<String> = options(&command).into_iter().filter_map(variable).collect();
    let tried: BTreeSet<String> = table.iter().map(|(name, _)| (*name).to_owned()).collect();
    let ends = ["REGPUSH_HELP", "REGPUSH_VERSION"].map(str::to_owned);
    assert_eq!(known.into_iter().filter(|name| !ends.contains(name)).collect::<BTreeSet<_>>(), tried);
}
