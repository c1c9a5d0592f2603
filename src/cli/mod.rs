//! Defines the plugin's options and subcommands, and parses command lines and `REGPUSH_*` variables.

pub mod argv;
pub mod env;
mod foreign;
pub mod help;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, ValueEnum, ValueHint};

use crate::platform::PlatformSelection;

/// Docker's own options, with the same meaning as in docker: `docker OPTIONS regpush`.
///
/// Source: docker/cli `cli/flags/options.go`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Docker's options")]
pub struct DockerOptions {
    /// Docker's config directory [default: $DOCKER_CONFIG or ~/.docker]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = any_path())]
    pub config: Option<PathBuf>,
    /// Docker context to use [default: $DOCKER_CONTEXT or the current context]
    #[arg(short, long, value_name = "NAME")]
    pub context: Option<String>,
    /// Log each request to the engine and the registry
    #[arg(short = 'D', long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub debug: bool,
    /// Engine endpoint: unix://, tcp:// or ssh:// [default: $DOCKER_HOST]
    #[arg(short = 'H', long = "host", value_name = "URL")]
    pub hosts: Vec<String>,
    /// Log level: debug, info, warn, error or fatal; debug is the same as -D
    #[arg(short, long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Use TLS; implied by --tlsverify [default: $DOCKER_TLS]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool, value_name = "BOOL")]
    pub tls: Option<bool>,
    /// CA certificate to verify the engine with [default: ca.pem in $DOCKER_CERT_PATH or ~/.docker]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = any_path())]
    pub tlscacert: Option<PathBuf>,
    /// Client certificate to present to the engine [default: cert.pem in $DOCKER_CERT_PATH or ~/.docker]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = any_path())]
    pub tlscert: Option<PathBuf>,
    /// Key of the client certificate [default: key.pem in $DOCKER_CERT_PATH or ~/.docker]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = any_path())]
    pub tlskey: Option<PathBuf>,
    /// Use TLS and verify the engine's certificate [default: $DOCKER_TLS_VERIFY]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool, value_name = "BOOL")]
    pub tlsverify: Option<bool>,
}

/// Log levels that docker accepts.
pub const LOG_LEVELS: [&str; 8] = ["debug", "info", "warn", "warning", "error", "fatal", "panic", "trace"];

impl DockerOptions {
    /// Returns the log level in lower case, since docker ignores the case of log levels.
    pub fn log_level(&self) -> Option<String> {
        self.log_level.as_ref().map(|level| level.to_lowercase())
    }

    pub fn is_debug(&self) -> bool {
        self.debug || self.log_level().is_some_and(|level| level == "debug" || level == "trace")
    }

    /// Returns all spellings of docker's options, such as `-c` and `--context`.
    pub fn spellings() -> Vec<String> {
        let command = Self::augment_args(clap::Command::new("docker"));
        let of = |arg: &clap::Arg| {
            let short = arg.get_short().map(|short| format!("-{short}"));
            [short, arg.get_long().map(|long| format!("--{long}"))]
        };
        command.get_arguments().flat_map(of).flatten().collect()
    }

    /// Returns the options that select an engine, as arguments for a docker command.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        let paths = [
            ("--config", &self.config),
            ("--tlscacert", &self.tlscacert),
            ("--tlscert", &self.tlscert),
            ("--tlskey", &self.tlskey),
        ];
        for (name, path) in paths {
            arguments.extend(path.iter().flat_map(|path| [OsString::from(name), path.into()]));
        }
        let texts = [("--context", self.context.as_ref()), ("--host", self.hosts.first())];
        for (name, text) in texts {
            arguments.extend(text.iter().flat_map(|text| [OsString::from(name), text.into()]));
        }
        for (name, flag) in [("--tls", self.tls), ("--tlsverify", self.tlsverify)] {
            arguments.extend(flag.map(|flag| OsString::from(format!("{name}={flag}"))));
        }
        arguments
    }
}

/// Options of a push. A `REGPUSH_*` variable can set each long option, see [`env::with_variables`].
#[derive(Args, Clone, Debug)]
pub struct PushOptions {
    /// Images to push: [HOST[:PORT]/]PATH[:TAG]; with --to also an image ID
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Push all local tags of each repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Write the digest to a file (single image only)
    #[arg(long, value_name = "string", value_hint = ValueHint::FilePath)]
    pub digest_file: Option<PathBuf>,
    /// Check and report what would be pushed, without pushing
    #[arg(long)]
    pub dry_run: bool,
    /// Result format on stdout: "ref" (NAME@DIGEST), "json" (default "ref")
    #[arg(long, value_enum, default_value_t, value_name = "string")]
    pub format: Format,
    /// Set GitHub Actions step outputs: digest, reference
    #[arg(long)]
    pub github_output: bool,
    /// If the tag exists: "overwrite", "update" or "fail" if it differs, "skip" (default "overwrite")
    #[arg(long, value_enum, default_value_t, value_name = "string")]
    pub if_exists: IfExists,
    /// Keep the local tags that --to adds
    #[arg(long)]
    pub keep_tag: bool,
    /// Write digests and names to a file, in the format of buildx
    #[arg(long, value_name = "string", value_hint = ValueHint::FilePath)]
    pub metadata_file: Option<PathBuf>,
    /// Never prompt for credentials
    #[arg(long)]
    pub no_prompt: bool,
    /// Number of concurrent pushes (default 3)
    #[arg(long, value_name = "int", default_value = "3")]
    pub parallel: NonZeroUsize,
    /// Push one platform, os[/arch[/variant]]; "all": fail if the engine lacks one
    #[arg(long, value_name = "string")]
    pub platform: Option<PlatformSelection>,
    /// Progress on stderr: "auto", "tty", "plain", "json" (events), "rawjson" (from the engine), "none" (default "auto")
    #[arg(long, value_enum, default_value_t, value_name = "string")]
    pub progress: ProgressMode,
    /// Print only the result, warnings and errors: --progress none
    #[arg(short, long)]
    pub quiet: bool,
    /// Upload by the plugin: "auto", "always", "never" (default "auto")
    #[arg(long, value_enum, default_value_t, value_name = "string")]
    pub relay: RelayMode,
    /// Maximum retries after transient failures (default 5)
    #[arg(long, value_name = "int", default_value_t = 5)]
    pub retries: u32,
    /// Save credentials from prompt or --username, as docker login does
    #[arg(long, conflicts_with = "anonymous")]
    pub save_credentials: bool,
    /// Retry an upload without progress after this time; 0: never (default 60s)
    #[arg(long, value_name = "duration", default_value = "60s", value_parser = duration)]
    pub stall_timeout: Duration,
    /// Time limit per image, including retries
    #[arg(long, value_name = "duration", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Destination: a reference, or HOST/ to keep path and tag
    #[arg(long, value_name = "list")]
    pub to: Vec<String>,
    /// Verify the result in the registry: "auto", "always", "never" (default "auto")
    #[arg(long, value_enum, default_value_t, value_name = "string")]
    pub verify: Verify,
    /// Maximum wait until the registry shows the image (default 30s)
    #[arg(long, value_name = "duration", default_value = "30s", value_parser = duration)]
    pub verify_wait: Duration,
    /// Upload at most this number of bytes per second, such as 5m
    #[arg(long, value_name = "bytes", value_parser = size, allow_negative_numbers = true)]
    pub limit_rate: Option<u64>,
    /// Upload layers in chunks of this size, such as 10m; 0: one stream
    #[arg(long, value_name = "bytes", value_parser = size, allow_negative_numbers = true)]
    pub chunk_size: Option<u64>,
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub given: CredentialArgs,
    /// Accepted and ignored, as in docker 29
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_value_t = true, default_missing_value = "true")]
    pub disable_content_trust: bool,
}

impl PushOptions {
    /// Returns the option that makes the first upload go through the relay; `None`: the engine uploads.
    pub fn relay_wanted_by(&self) -> Option<&'static str> {
        match self.relay {
            RelayMode::Always => Some("--relay always"),
            RelayMode::Auto => self.relay_option(),
            RelayMode::Never => None,
        }
    }

    /// Returns the name of an option that only an upload through the relay can fulfil; `None` without such an option.
    pub fn relay_option(&self) -> Option<&'static str> {
        let is_positive = |number: Option<u64>| number.is_some_and(|number| number > 0);
        let limits =
            [("--limit-rate", is_positive(self.limit_rate)), ("--chunk-size", is_positive(self.chunk_size))];
        let limit = limits.into_iter().find(|(_, is_set)| *is_set);
        self.connection.first().or(limit.map(|(name, _)| name))
    }
}

/// How the plugin connects to registries and their token servers, in one run of the plugin.
#[derive(Args, Clone, Debug, Default)]
pub struct ConnectionArgs {
    /// CA certificates of registries, beside those of the system
    #[arg(long, value_name = "file", value_hint = ValueHint::FilePath)]
    pub ca_file: Option<PathBuf>,
    /// Client certificate for registries
    #[arg(long, value_name = "file", value_hint = ValueHint::FilePath, requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, value_name = "file", value_hint = ValueHint::FilePath, requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// Check certificates of registries; --tls-verify=false: accept any
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool, value_name = "BOOL")]
    pub tls_verify: Option<bool>,
    /// Use plain HTTP for registries
    #[arg(long)]
    pub plain_http: bool,
}

impl ConnectionArgs {
    /// Returns the name of the first of these options that is set.
    pub fn first(&self) -> Option<&'static str> {
        let set = [
            ("--ca-file", self.ca_file.is_some()),
            ("--cert-file", self.cert_file.is_some()),
            ("--tls-verify", self.tls_verify.is_some()),
            ("--plain-http", self.plain_http),
        ];
        set.into_iter().find(|(_, is_set)| *is_set).map(|(name, _)| name)
    }
}

/// Credentials for one run of the plugin. They override all credentials that Docker has stored.
#[derive(Args, Clone, Debug, Default)]
pub struct CredentialArgs {
    /// Username for the registry, for this call only
    #[arg(short, long, value_name = "string", requires = "password", value_parser = username)]
    pub username: Option<String>,
    /// Read the password for --username from stdin
    #[arg(long, requires = "username", group = "password")]
    pub password_stdin: bool,
    /// Shell command that prints the password for --username
    #[arg(long, value_name = "command", requires = "username", group = "password", value_parser = NonEmptyStringValueParser::new())]
    pub password_command: Option<String>,
    /// Use no credentials, even if Docker has some
    #[arg(long, conflicts_with_all = ["username", "password"])]
    pub anonymous: bool,
}

/// Options of `docker regpush auth`.
#[derive(Args, Clone, Debug)]
pub struct AuthOptions {
    /// The registry HOST[:PORT], or a repository there; without it, list all stored credentials
    #[arg(value_name = "REGISTRY[/REPOSITORY]")]
    pub registry: Option<String>,
    /// Prompt for credentials, check them, and save them as docker login does
    #[arg(long, requires = "registry")]
    pub login: bool,
    /// Save the credentials even if the registry does not check them
    #[arg(long, requires = "login")]
    pub force: bool,
    /// Username for the registry
    #[arg(short, long, value_name = "string", requires = "registry", value_parser = username)]
    pub username: Option<String>,
    /// Read the password for --username from stdin
    #[arg(long, requires = "username", group = "password")]
    pub password_stdin: bool,
    /// Shell command that prints the password for --username
    #[arg(long, value_name = "command", requires = "username", group = "password", value_parser = NonEmptyStringValueParser::new())]
    pub password_command: Option<String>,
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Output format: "table", "json" (one object per line) (default "table")
    #[arg(long, value_enum, default_value_t, value_name = "string")]
    pub format: ListFormat,
}

/// Options of `docker regpush ls`.
#[derive(Args, Clone, Debug)]
pub struct LsOptions {
    /// A registry or a repository; without it, list local images tagged for a registry
    #[arg(value_name = "REGISTRY[/REPOSITORY]")]
    pub registry: Option<String>,
    #[command(flatten)]
    pub given: CredentialArgs,
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Output format: "table", "json" (one object per line) (default "table")
    #[arg(long, value_enum, default_value_t, value_name = "string")]
    pub format: ListFormat,
}

/// Parses a boolean with the rules of Go's `strconv.ParseBool`, as docker does in flags and settings.
///
/// # Errors
/// The text is not a boolean for Go, for example `yes` or `on`.
pub fn go_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// Returns a parser that accepts any path, even an empty path, which docker treats as unset.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Parses a duration such as `90s`, `1m30s` or `2h`. Shortens a duration of more than a year to one year.
fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    humantime::parse_duration(text).map(|duration| duration.min(YEAR))
}

/// Parses a number of bytes such as `300`, `256k`, `5m` or `1g`, with the units of curl: `k` is 1024 bytes.
///
/// # Errors
/// The text is not such a number.
fn size(text: &str) -> Result<u64, &'static str> {
    let parsed = parse_size::Config::new().with_binary().parse_size(text);
    parsed.map_err(|_| "expected a number of bytes such as 300, 256k, 5m or 1g")
}

/// Checks a user name. Rejects a colon, which ends the user name in Basic authentication (RFC 7617, 2).
fn username(typed: &str) -> Result<String, &'static str> {
    match typed {
        "" => Err("a user name is required"),
        typed if typed.contains(':') => Err("a user name cannot contain a colon"),
        typed => Ok(typed.to_owned()),
    }
}

/// The subcommands. To push an image with the name of a subcommand, users add a tag: `hook:latest`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Show stored credentials for a registry and check that they work
    #[command(help_template = HELP_OF_A_COMMAND, after_help = AUTH_AFTER_HELP, next_display_order = None)]
    Auth(AuthOptions),
    /// List local images, the repositories of a registry, or the tags of a repository
    #[command(help_template = HELP_OF_A_COMMAND, after_help = LS_AFTER_HELP, next_display_order = None)]
    Ls(LsOptions),
    /// Manage the hint that docker shows after a failed docker push
    #[command(help_template = HELP_OF_COMMANDS)]
    Hook {
        #[command(subcommand)]
        action: HookAction,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum HookAction {
    /// Enable the hint after a failed docker push
    Install,
    /// Disable the hint after a failed docker push
    Remove,
    /// Show whether the hint is enabled, and whether docker shows hints
    Status,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    #[default]
    Auto,
    Tty,
    Plain,
    /// The plugin's events, one per line.
    Json,
    /// The engine's own objects, one per line.
    Rawjson,
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Ref,
    Json,
}

/// The plugin's action if the tag already exists in the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IfExists {
    #[default]
    Overwrite,
    Update,
    Skip,
    Fail,
}

/// Whether the engine uploads the image, or the plugin through a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RelayMode {
    #[default]
    Auto,
    Always,
    Never,
}

/// Whether the plugin verifies, after a push, that the registry serves the pushed image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    #[default]
    Auto,
    Always,
    Never,
}

/// The output format of the subcommands `auth` and `ls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    #[default]
    Table,
    Json,
}

/// The arguments after `docker regpush`, if docker runs the plugin.
#[derive(Debug, Parser)]
#[command(
    name = "docker-regpush",
    bin_name = "docker regpush",
    override_usage = "docker regpush [OPTIONS] IMAGE...\n        docker regpush [OPTIONS] IMAGE... --to DESTINATION...",
    version = VERSION,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    next_display_order = None,
    about = ABOUT,
    help_template = HELP,
    after_help = AFTER_HELP
)]
pub struct PluginCommand {
    #[command(flatten)]
    pub push: PushOptions,
    #[command(subcommand)]
    pub subcommand: Option<Subcommand>,
}

/// The command line if the user runs `docker-regpush` without docker, including docker's options.
#[derive(Debug, Parser)]
#[command(
    name = "docker-regpush",
    override_usage = "docker-regpush [OPTIONS] IMAGE...\n        docker-regpush [OPTIONS] IMAGE... --to DESTINATION...",
    version = VERSION,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    next_display_order = None,
    about = ABOUT,
    help_template = HELP_WITH_DOCKERS,
    after_help = AFTER_HELP
)]
pub struct StandaloneCommand {
    #[command(flatten)]
    pub push: PushOptions,
    #[command(flatten)]
    pub docker: DockerOptions,
    #[command(subcommand)]
    pub subcommand: Option<Subcommand>,
}

/// The version, and the commit that the program was built from: `0.1.0 (1a2b3c4d5e6f)`. `-modified` after the commit means that
/// the source code had changes that were not committed. The commit is missing in a build from a source archive.
pub const VERSION: &str = env!("REGPUSH_VERSION");

const ABOUT: &str = "Push local images and verify the result";

/// The template of the help, in the order of docker's help. Like docker's help, this template has no list of
/// arguments.
const HELP: &str = "\
Usage:  {usage}

{about}

Commands:
{subcommands}

Options:
{options}{after-help}";

/// The template of the help if the user runs `docker-regpush` without docker. `{all-args}`
/// prints the plugin's and docker's options, with a heading for each group.
const HELP_WITH_DOCKERS: &str = "\
Usage:  {usage}

{about}

Commands:
{subcommands}

{all-args}{after-help}";

const HELP_OF_A_COMMAND: &str = "\
Usage:  {usage}

{about}

Options:
{options}{after-help}";

const HELP_OF_COMMANDS: &str = "\
Usage:  {usage}

{about}

Commands:
{subcommands}

Options:
{options}";

const AUTH_AFTER_HELP: &str = "\
Exit status:
  0 credentials accepted · 3 missing or refused · others as for a push

Examples:
  docker regpush auth
  docker regpush auth registry.example.com
  docker regpush auth registry.example.com/team/app
  docker regpush auth --login registry.example.com
  docker regpush auth -u ci --password-stdin registry.example.com <token.txt";

const LS_AFTER_HELP: &str = "\
Examples:
  docker regpush ls
  docker regpush ls registry.example.com
  docker regpush ls --format json registry.example.com/team/app";

const AFTER_HELP: &str = "\
Each option can be set by a variable: REGPUSH_PROGRESS=plain, REGPUSH_DRY_RUN=1.

Exit status:
  0 pushed · 1 refused by the registry · 3 credentials missing or refused
  4 engine error · 5 no such image · 6 network, TLS or registry error after all retries
  7 stalled or timed out · 8 tag exists (--if-exists fail) · 9 verification failed
  125 usage · 130 interrupted · 143 terminated · 129 hung up · 131 quit

Examples:
  docker regpush registry.example.com/team/app:1.2
  docker regpush app:1.2 web:3 --to registry.example.com/team/
  digest=$(docker regpush -q --format json app:1 --to localhost:5000/ | jq -r .digest)
  docker regpush -u ci --password-stdin registry.example.com/app:1 <token.txt

Run 'docker regpush COMMAND --help' for more information on a command.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_with_the_units_of_curl() {
        let table = [
            ("0", Some(0)),
            ("300", Some(300)),
            ("256k", Some(256 << 10)),
            ("5M", Some(5 << 20)),
            ("1g", Some(1 << 30)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("5x", None),
            ("99999999999g", None),
        ];
        for (text, want) in table {
            assert_eq!(size(text).ok(), want, "{text}");
        }
    }
}
