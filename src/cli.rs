//! What may be typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

/// Docker's own options. They come before the plugin's name, and mean what they mean to docker.
///
/// Source: docker/cli `cli/flags/options.go`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Docker's options")]
pub struct DockerOptions {
    /// Docker's config directory [default: $DOCKER_CONFIG or ~/.docker]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = any_path())]
    pub config: Option<PathBuf>,
    /// The context that names the engine [default: $DOCKER_CONTEXT or the current one]
    #[arg(short, long, value_name = "NAME")]
    pub context: Option<String>,
    /// Show each call to the engine
    #[arg(short = 'D', long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub debug: bool,
    /// Where the engine listens: unix://, tcp:// or ssh:// [default: $DOCKER_HOST]
    #[arg(short = 'H', long = "host", value_name = "URL")]
    pub hosts: Vec<String>,
    /// debug, info, warn, error or fatal; debug is the same as -D
    #[arg(short, long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Speak TLS with the engine; also implied by --tlsverify [default: $DOCKER_TLS]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool, value_name = "BOOL")]
    pub tls: Option<bool>,
    /// Trust engines with certificates of this CA [default: ca.pem in $DOCKER_CERT_PATH or ~/.docker]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = any_path())]
    pub tlscacert: Option<PathBuf>,
    /// Show the engine this certificate [default: cert.pem there]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = any_path())]
    pub tlscert: Option<PathBuf>,
    /// Its key [default: key.pem there]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = any_path())]
    pub tlskey: Option<PathBuf>,
    /// Speak TLS, and verify the engine [default: $DOCKER_TLS_VERIFY]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool, value_name = "BOOL")]
    pub tlsverify: Option<bool>,
}

/// What docker takes for a level, and `warning`, which it takes too.
pub const LOG_LEVELS: [&str; 8] = ["debug", "info", "warn", "warning", "error", "fatal", "panic", "trace"];

impl DockerOptions {
    /// The level as docker reads it: in any case.
    pub fn log_level(&self) -> Option<String> {
        self.log_level.as_ref().map(|level| level.to_lowercase())
    }

    pub fn is_debug(&self) -> bool {
        self.debug || self.log_level().is_some_and(|level| level == "debug" || level == "trace")
    }

    /// All spellings of the options, `-c` and `--context` each.
    pub fn spellings() -> Vec<String> {
        let command = Self::augment_args(clap::Command::new("docker"));
        let of = |arg: &clap::Arg| {
            let short = arg.get_short().map(|short| format!("-{short}"));
            [short, arg.get_long().map(|long| format!("--{long}"))]
        };
        command.get_arguments().flat_map(of).flatten().collect()
    }

    /// Those that choose an engine, for a docker that is to reach it for us.
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

/// What a push takes.
#[derive(Args, Clone, Debug)]
pub struct PushOptions {
    /// The image, named for its registry: [HOST[:PORT]/]PATH[:TAG]
    #[arg(value_name = "IMAGE", required = true)]
    image: Option<String>,
    /// Taken only to be refused: clap would take a second one for a command, and say so.
    #[arg(hide = true)]
    surplus: Vec<String>,
    /// Push every tag of the repository IMAGE that is in the engine
    #[arg(short, long)]
    pub all_tags: bool,
    /// Only the result, warnings and errors; the same as --progress none
    #[arg(short, long)]
    pub quiet: bool,
    /// How the way there is shown, on stderr: redrawn (tty), in lines (plain), or not (none)
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "auto|tty|plain|none",
        hide_possible_values = true
    )]
    pub progress: ProgressMode,
    /// The result, on stdout: NAME@DIGEST (ref), or an object with all about it (json)
    #[arg(long, value_enum, default_value_t, value_name = "ref|json", hide_possible_values = true)]
    pub format: Format,
    /// How often to try again where that can help: network, registry trouble, rate limit, stall
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub retries: u32,
    /// End a try in which nothing moves for so long; 0: never
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub stall_timeout: Duration,
    /// Give up an image that is not pushed after so long, all tries together [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// A tag that is in the registry already: push all the same (overwrite), or only what differs (update);
    /// leave any tag alone (skip), or fail if it names another image
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "overwrite|update|skip|fail",
        hide_possible_values = true
    )]
    pub if_exists: IfExists,
    /// Ask the registry afterwards what it serves; who cannot be asked is a warning (auto) or an error (always)
    #[arg(long, value_enum, default_value_t, value_name = "auto|always|never", hide_possible_values = true)]
    pub verify: Verify,
    /// Push nothing; say what a push would find, whether it may write, and end with its status
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub given: GivenLogin,
    /// Never ask for a login; nor is asked where stdin or stderr is no terminal
    #[arg(long)]
    pub no_prompt: bool,
    /// Keep a login that was typed or given, as `docker login` does, once the registry took it
    #[arg(long, conflicts_with = "anonymous")]
    pub save_credentials: bool,
    /// Accepted and ignored, as in docker 29
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_value_t = true, default_missing_value = "true")]
    pub disable_content_trust: bool,
}

impl PushOptions {
    /// The image as it was typed.
    ///
    /// # Errors
    /// How many there are, if that is not one.
    pub fn one_image(&self) -> Result<&str, usize> {
        match &self.image {
            Some(image) if self.surplus.is_empty() => Ok(image),
            image => Err(self.surplus.len() + image.iter().count()),
        }
    }
}

/// A login for one call, before all that Docker holds.
#[derive(Args, Clone, Debug, Default)]
pub struct GivenLogin {
    /// Log in as NAME for this call alone
    #[arg(short, long, value_name = "NAME", requires = "password_stdin", value_parser = username)]
    pub username: Option<String>,
    /// Read the password for --username from stdin
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Use no credentials, whatever Docker holds
    #[arg(long, conflicts_with_all = ["username", "password_stdin"])]
    pub anonymous: bool,
}

/// What `auth` takes.
#[derive(Args, Clone, Debug)]
pub struct AuthOptions {
    /// The registry, HOST[:PORT]; without it, all that Docker holds a login for
    pub registry: Option<String>,
    /// Ask for a login, have the registry check it, and keep it as `docker login` does
    #[arg(long, requires = "registry")]
    pub login: bool,
    /// The account to log in with
    #[arg(short, long, value_name = "NAME", requires = "registry", value_parser = username)]
    pub username: Option<String>,
    /// Read the password for --username from stdin
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// A table, or an object a line (json)
    #[arg(long, value_enum, default_value_t, value_name = "table|json", hide_possible_values = true)]
    pub format: ListFormat,
}

/// What `ls` takes.
#[derive(Args, Clone, Debug)]
pub struct LsOptions {
    /// A registry, or a repository in it; without it, the engine's images that name a registry
    #[arg(value_name = "REGISTRY[/REPOSITORY]")]
    pub registry: Option<String>,
    #[command(flatten)]
    pub given: GivenLogin,
    /// A table, or an object a line (json)
    #[arg(long, value_enum, default_value_t, value_name = "table|json", hide_possible_values = true)]
    pub format: ListFormat,
}

/// A boolean as docker's flags and settings take it: Go's `strconv.ParseBool`.
///
/// # Errors
/// Anything else, `yes` and `on` among it.
pub fn go_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false"),
    }
}

/// For docker an empty path is none.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// `90s`, `1m30s`, `2h`; no longer than a year, which is as good as for ever.
fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    humantime::parse_duration(text).map(|duration| duration.min(YEAR))
}

/// Basic authentication ends a user name at the first colon (RFC 7617, 2).
fn username(typed: &str) -> Result<String, &'static str> {
    match typed {
        "" => Err("a user name is needed"),
        typed if typed.contains(':') => Err("a user name cannot have a colon"),
        typed => Ok(typed.to_owned()),
    }
}

/// Words that are no image; one of that name is written `hook:latest`.
#[derive(Clone, Debug, Subcommand)]
pub enum Words {
    /// Which login Docker holds for a registry, and whether the registry takes it
    #[command(after_help = AUTH_AFTER_HELP)]
    Auth(AuthOptions),
    /// Images that name a registry; a registry's repositories; a repository's tags
    #[command(after_help = LS_AFTER_HELP)]
    Ls(LsOptions),
    /// A hint after a failed `docker push`, shown by docker
    Hook {
        #[command(subcommand)]
        action: HookAction,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum HookAction {
    /// Have docker ask regpush after each `docker push`
    Install,
    /// Take that back
    Remove,
    /// Whether docker asks, and whether it shows hints at all
    Status,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    #[default]
    Auto,
    Tty,
    Plain,
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Ref,
    Json,
}

/// What to do about a tag that is in the registry already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IfExists {
    #[default]
    Overwrite,
    Update,
    Skip,
    Fail,
}

/// Whether the registry is asked what it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    #[default]
    Auto,
    Always,
    Never,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    #[default]
    Table,
    Json,
}

/// What follows the plugin's name.
#[derive(Debug, Parser)]
#[command(
    name = "docker-regpush",
    bin_name = "docker regpush",
    override_usage = "docker regpush [OPTIONS] IMAGE\n       docker regpush auth [OPTIONS] [REGISTRY]\n       docker regpush ls [OPTIONS] [REGISTRY[/REPOSITORY]]\n       docker regpush hook install|remove|status",
    version,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    about = ABOUT,
    long_about = None,
    after_help = AFTER_HELP
)]
pub struct PluginCommand {
    #[command(flatten)]
    pub push: PushOptions,
    #[command(subcommand)]
    pub words: Option<Words>,
}

/// The same without docker, its options among ours.
#[derive(Debug, Parser)]
#[command(
    name = "docker-regpush",
    override_usage = "docker-regpush [OPTIONS] IMAGE\n       docker-regpush auth [OPTIONS] [REGISTRY]\n       docker-regpush ls [OPTIONS] [REGISTRY[/REPOSITORY]]\n       docker-regpush hook install|remove|status",
    version,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    about = ABOUT,
    long_about = None,
    after_help = AFTER_HELP
)]
pub struct StandaloneCommand {
    #[command(flatten)]
    pub push: PushOptions,
    #[command(flatten)]
    pub docker: DockerOptions,
    #[command(subcommand)]
    pub words: Option<Words>,
}

const ABOUT: &str = "\
Push a local image to its registry.

The engine pushes, with the login that Docker holds for the registry. If the
registry refuses that, regpush asks for another at the terminal, has it checked,
and pushes again. What breaks on the way is tried again, a push that stalls is
ended, and the registry is asked whether it serves what was pushed.";

const AUTH_AFTER_HELP: &str = "\
Exit status:
  0 the registry takes the login · 3 there is none, or it is refused · else as for a push

Examples:
  docker regpush auth
  docker regpush auth registry.example.com
  docker regpush auth --login registry.example.com
  docker regpush auth -u ci --password-stdin registry.example.com <token.txt";

const LS_AFTER_HELP: &str = "\
Examples:
  docker regpush ls
  docker regpush ls registry.example.com
  docker regpush ls --format json registry.example.com/team/app";

const AFTER_HELP: &str = "\
Exit status:
  0 in the registry · 1 refused by the registry · 3 credentials missing or refused
  4 no engine · 5 no such image · 6 network, TLS or registry trouble, after every try
  7 stalled or timed out · 8 exists (--if-exists fail) · 9 not what the registry serves
  125 usage · 130 interrupted · 143 terminated · 129 hung up

Examples:
  docker regpush registry.example.com/team/app:1.2
  docker -c build-box regpush --all-tags registry.example.com/team/app
  docker regpush --dry-run registry.example.com/team/app:1.2
  docker regpush --if-exists fail --verify always registry.example.com/team/app:1.2
  image=$(docker regpush -q localhost:5000/app)
  docker regpush -u ci --password-stdin registry.example.com/app:1 <token.txt";
