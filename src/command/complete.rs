//! Answers completion requests of a shell for `docker regpush`. The protocol is that of docker's own completion
//! (cobra): one candidate per line, a tab before the description of a candidate, and a directive on the last line.
//!
//! The completion script that `docker completion` generates runs `docker __complete`, and docker then runs the plugin
//! with `regpush` as the first word of the request. The completion script that Linux distributions ship with docker
//! runs the plugin directly, without the word `regpush`. docker does not pass its global options on to the plugin, so
//! the plugin does not offer these options. The plugin completes the values of docker's global options only if a user
//! runs the plugin without docker.
//!
//! Source: docker/cli `cli-plugins/manager/cobra.go` and `contrib/completion/bash/docker`, spf13/cobra
//! `completions.go`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, ValueHint};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete};

use crate::cli::{DockerOptions, LOG_LEVELS, PluginCommand, StandaloneCommand};
use crate::credentials::keyring;
use crate::docker::config::{self, Config};
use crate::docker::context::{self, Endpoint};
use crate::docker::headers;
use crate::engine::Engine;
use crate::engine::images::ImageSummary;
use crate::plugin::NAME;
use crate::reference::has_registry;
use crate::setup::choice;
use crate::text::{human_size, sanitize};

/// Maximum time to wait for the images of an engine on this machine after a user presses TAB. Docker's containerd store
/// needs up to 10 ms for each image.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time to wait for the images of an engine on another machine.
const REMOTE_TIMEOUT: Duration = Duration::from_millis(200);

/// Value of cobra's `ShellCompDirective`: the shell may offer file names in addition to the candidates.
const FILES: u8 = 0;
/// Value of cobra's `ShellCompDirective`: the shell must not offer file names.
const NO_FILES: u8 = 4;
/// Value of cobra's `ShellCompDirective`: the shell may offer directories in addition to the candidates.
const DIRECTORIES: u8 = 16;

/// A completion request: the words of a command line up to the cursor. The last word may be empty.
#[derive(Debug)]
pub struct Request {
    words: Vec<OsString>,
    /// Whether `words` follow `docker regpush`. `false`: the plugin accepts docker's options too.
    is_plugin: bool,
    has_descriptions: bool,
}

impl Request {
    /// Parses argv; returns `None` if argv is not a completion request.
    pub fn read(args: &[OsString]) -> Option<Self> {
        let [_, word, words @ ..] = args else { return None };
        let wants_descriptions = match word.to_str()? {
            "__complete" => true,
            "__completeNoDesc" => false,
            _ => return None,
        };
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        // A single word is the word at the cursor, even if the word is `regpush`.
        let is_named = words.len() > 1 && words[0] == NAME;
        Some(Self {
            words: words[usize::from(is_named)..].to_vec(),
            is_plugin: is_named || is_set("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"),
            // docker sends `__complete`, not `__completeNoDesc`, even if the user has disabled descriptions.
            has_descriptions: wants_descriptions && !is_set("DOCKER_CLI_DISABLE_COMPLETION_DESCRIPTION"),
        })
    }

    /// Writes the candidates and the directive for the shell. Returns only write errors, since a shell cannot show
    /// messages.
    ///
    /// # Errors
    /// stdout is closed or full.
    pub fn answer(&self, mut out: impl Write) -> io::Result<()> {
        let (candidates, directive) = self.candidates();
        let mut text = String::new();
        for (value, description) in candidates {
            text += &value;
            if self.has_descriptions && !description.is_empty() {
                text += &format!("\t{description}");
            }
            text.push('\n');
        }
        text += &format!(":{directive}\n");
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn candidates(&self) -> (Vec<(String, String)>, u8) {
        let current = self.words.last().map(|word| word.to_string_lossy()).unwrap_or_default();
        let is_option = current.starts_with('-');
        // For a word such as `--format=j`, the shell itself puts `--format=` before each candidate.
        let prefix = current.find('=').filter(|_| is_option).map_or("", |at| &current[..=at]);
        let directive = Arc::new(AtomicU8::new(NO_FILES));
        let mut command = self.command(&directive);
        let names: Vec<String> =
            command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        let dockers = DockerOptions::spellings();
        let words = std::iter::once(OsString::from(NAME)).chain(self.words.iter().cloned()).collect();
        let found = complete(&mut command, words, self.words.len().max(1), None).unwrap_or_default();
        let mut candidates = Vec::new();
        for candidate in found.iter().filter(|candidate| !candidate.is_hide_set()) {
            let value = sanitize(&candidate.get_value().to_string_lossy());
            let value = value.strip_prefix(prefix).unwrap_or(&value).to_owned();
            // As in docker's own commands, options are offered only after a typed dash, and subcommands only as the
            // first word.
            let is_late_command = self.words.len() > 1 && names.contains(&value);
            let is_dockers = dockers.contains(&value);
            if value.is_empty() || is_late_command || is_dockers || (value.starts_with('-') && !is_option) {
                continue;
            }
            let description =
                candidate.get_help().map(|help| sanitize(&help.to_string())).unwrap_or_default();
            candidates.push((value, description));
        }
        (candidates, directive.load(Ordering::Relaxed))
    }

    /// Returns clap's definition of the plugin's command line, with completers for the values of arguments.
    fn command(&self, directive: &Arc<AtomicU8>) -> clap::Command {
        let (command, docker, all_tags) = self.parsed();
        let registries = ArgValueCompleter::new(known(&docker, registries));
        let contexts = ArgValueCompleter::new(known(&docker, contexts));
        let images = ArgValueCompleter::new(move |current: &OsStr| {
            images(&docker, all_tags, &current.to_string_lossy())
        });
        let levels =
            ArgValueCompleter::new(|current: &OsStr| matching(LOG_LEVELS.map(|level| (level, "")), current));
        let registry = |command: clap::Command| {
            let registries = registries.clone();
            command.mut_arg("registry", |arg| arg.add(registries))
        };
        let command = command.mut_subcommand("auth", registry).mut_subcommand("ls", registry);
        command.mut_args(|arg| match (arg.get_id().as_str(), arg.get_value_hint()) {
            ("images", _) => arg.add(images.clone()),
            ("context", _) => arg.add(contexts.clone()),
            ("log_level", _) => arg.add(levels.clone()),
            // The shell completes file names, so the completer returns a directive and no candidates.
            (_, hint @ (ValueHint::FilePath | ValueHint::DirPath)) => {
                let directive = Arc::clone(directive);
                let value = if hint == ValueHint::DirPath { DIRECTORIES } else { FILES };
                arg.add(ArgValueCompleter::new(move |_: &OsStr| {
                    directive.store(value, Ordering::Relaxed);
                    Vec::new()
                }))
            }
            _ => arg,
        })
    }

    /// Parses the words before the cursor. Returns the definition of the command line, docker's options, and whether
    /// `--all-tags` is set.
    fn parsed(&self) -> (clap::Command, DockerOptions, bool) {
        let command = if self.is_plugin { PluginCommand::command() } else { StandaloneCommand::command() };
        let before = self.words.split_last().map_or(&[][..], |(_, before)| before);
        let words = std::iter::once(OsStr::new(NAME)).chain(before.iter().map(OsString::as_os_str));
        let matches = command.clone().ignore_errors(true).try_get_matches_from(words).ok();
        // If a word is not UTF-8, clap does not even set the default of `all_tags`.
        let flag =
            |matches: &clap::ArgMatches| matches.try_get_one::<bool>("all_tags").ok().flatten().copied();
        let all_tags = matches.as_ref().and_then(flag).unwrap_or_default();
        let docker = matches.filter(|_| !self.is_plugin);
        let docker = docker.and_then(|matches| DockerOptions::from_arg_matches(&matches).ok());
        (command, docker.unwrap_or_default(), all_tags)
    }
}

/// Returns a completer for the candidates that `list` finds in Docker's config.
fn known(
    docker: &DockerOptions,
    list: fn(&Config) -> Vec<(String, String)>,
) -> impl Fn(&OsStr) -> Vec<CompletionCandidate> + use<> {
    let directory = docker.config.clone();
    move |current| {
        let config = config::directory(directory.as_deref()).and_then(|directory| Config::load(&directory));
        matching(config.map(|config| list(&config)).unwrap_or_default(), current)
    }
}

fn registries(config: &Config) -> Vec<(String, String)> {
    keyring::registries(config).into_iter().map(|(registry, source)| (registry, source.to_string())).collect()
}

fn contexts(config: &Config) -> Vec<(String, String)> {
    let default = ("default".to_owned(), "DOCKER_HOST, or the engine of this machine".to_owned());
    let mut contexts = vec![default];
    if let Some(directory) = config.path.parent() {
        contexts.extend(context::stored_contexts(directory));
    }
    contexts
}

fn matching<V: Into<String>, D: Into<String>>(
    pairs: impl IntoIterator<Item = (V, D)>,
    current: &OsStr,
) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let pairs = pairs.into_iter().map(|(value, description)| (value.into(), description.into()));
    let matching = pairs.filter(|(value, _): &(String, String)| value.starts_with(&*current));
    matching
        .map(|(value, description): (String, String)| {
            CompletionCandidate::new(value)
                .help(Some(description).filter(|text| !text.is_empty()).map(Into::into))
        })
        .collect()
}

/// Returns the references of the local images whose reference includes a registry, as candidates. With `--all-tags`,
/// returns the repositories of these images instead.
fn images(docker: &DockerOptions, all_tags: bool, current: &str) -> Vec<CompletionCandidate> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let listed = runtime.block_on(local_images(docker, current));
    // Does not wait for a DNS lookup that is still running.
    runtime.shutdown_background();
    let images = listed.unwrap_or_default();
    let named = images.into_iter().filter(|image| has_registry(&image.name));
    let mut pairs: Vec<(String, String)> = named
        .map(|image| match image.name.rsplit_once(':') {
            Some((repository, _)) if all_tags => (repository.to_owned(), String::new()),
            _ => (image.name, human_size(image.size)),
        })
        .collect();
    pairs.sort();
    pairs.dedup();
    matching(pairs, OsStr::new(current))
}

/// Returns the engine's images; `None` if the engine cannot be reached. Does not connect over ssh, since each ssh
/// connection must authenticate.
///
/// * `prefix`: the word before the cursor.
async fn local_images(docker: &DockerOptions, prefix: &str) -> Option<Vec<ImageSummary>> {
    let directory = config::directory(docker.config.as_deref()).ok()?;
    let config = Config::load(&directory).ok()?;
    let endpoint = Endpoint::resolve(&choice(docker), &config).ok()?;
    if endpoint.is_connect_expensive() {
        return None;
    }
    let limit = if endpoint.address.is_here() { TIMEOUT } else { REMOTE_TIMEOUT };
    let headers = headers::custom(&config).unwrap_or_default();
    let listed = async {
        let mut engine = Engine::connect(endpoint, headers, None).await.ok()?;
        engine.local_images_with_prefix(limit, prefix).await.ok()
    };
    tokio::time::timeout(limit, listed).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(words: &[&str]) -> String {
        let args =
            ["docker-regpush", "__complete"].iter().chain(words).map(OsString::from).collect::<Vec<_>>();
        let mut out = Vec::new();
        Request::read(&args).unwrap().answer(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn values(answer: &str) -> Vec<&str> {
        answer.lines().map(|line| line.split('\t').next().unwrap()).collect()
    }

    #[test]
    fn completes_options_values_and_commands() {
        let options = answer(&["regpush", "--"]);
        for option in ["--all-tags", "--format", "--no-prompt", "--progress"] {
            assert!(values(&options).contains(&option), "{option}: {options}");
        }
        assert!(options.contains("--quiet\tPrint only the result"), "{options}");
        assert!(!options.contains("--disable-content-trust") && !options.contains("--host"), "{options}");
        assert!(options.ends_with("\n:4\n"));

        let table: [(&[&str], &[&str]); 10] = [
            (&["regpush", "--progress", ""], &["auto", "tty", "plain", "json", "rawjson", "none", ":4"]),
            (&["regpush", "--progress", "p"], &["plain", ":4"]),
            (&["regpush", "--t"], &["--timeout", "--to", "--tls-verify", ":4"]),
            (&["regpush", "--progress=p"], &["plain", ":4"]),
            (&["regpush", "-q", "--format", "j"], &["json", ":4"]),
            (&["regpush", "hook", ""], &["install", "remove", "status", ":4"]),
            (&["regpush", "h"], &["hook", ":4"]),
            (&["regpush", "-q", "h"], &[":4"]),
            (&["-l", "wa"], &["warn", "warning", ":4"]),
            (&["--tlscacert", ""], &[":0"]),
        ];
        for (words, want) in table {
            assert_eq!(values(&answer(words)), want, "{words:?}");
        }
        assert_eq!(answer(&["--config", ""]), ":16\n");
        let options = answer(&["-"]);
        assert!(values(&options).contains(&"-q"), "{options}");
        assert!(!values(&options).contains(&"--host") && !values(&options).contains(&"-H"), "{options}");
    }

    /// Fuzzing found a failure with words that are not UTF-8.
    #[cfg(unix)]
    #[test]
    fn accepts_words_that_are_not_utf8() {
        use std::os::unix::ffi::OsStringExt as _;
        let words = ["docker-regpush", "__complete", "regpush"].map(OsString::from).into_iter();
        let args: Vec<OsString> =
            words.chain([OsString::from_vec(vec![0xfb]), OsString::from("--q")]).collect();
        let mut out = Vec::new();
        Request::read(&args).unwrap().answer(&mut out).unwrap();
        assert!(out.ends_with(b":4\n"));
    }

    #[test]
    fn only_two_commands_request_completion() {
        let read = |words: &[&str]| Request::read(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(read(&["x", "regpush", "app"]).is_none());
        assert!(read(&["x"]).is_none());
        assert!(read(&["x", "__complete"]).is_some());
        let without = read(&["x", "__completeNoDesc", "regpush", "--q"]).unwrap();
        let mut out = Vec::new();
        without.answer(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "--quiet\n:4\n");
    }
}
