//! What may be typed.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, ValueEnum};

/// Docker's own options. They come before the plugin's name, and mean what they mean to docker.
///
/// Source: docker/cli `cli/flags/options.go`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Docker's options")]
pub struct DockerOptions {
    /// Docker's config directory [default: $DOCKER_CONFIG or ~/.docker]
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// The context that names the engine [default: $DOCKER_CONTEXT or the current one]
    #[arg(short, long, value_name = "NAME")]
    pub context: Option<String>,
    /// Show each call to the engine
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// The engine's socket, such as unix:///var/run/docker.sock [default: $DOCKER_HOST]
    #[arg(short = 'H', long = "host", value_name = "URL")]
    pub hosts: Vec<String>,
    /// debug, info, warn, error or fatal; debug is the same as -D
    #[arg(short, long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Use TLS (TCP engines only)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    pub tls: Option<bool>,
    #[arg(long, value_name = "FILE", hide = true)]
    pub tlscacert: Option<PathBuf>,
    #[arg(long, value_name = "FILE", hide = true)]
    pub tlscert: Option<PathBuf>,
    #[arg(long, value_name = "FILE", hide = true)]
    pub tlskey: Option<PathBuf>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    pub tlsverify: Option<bool>,
}

impl DockerOptions {
    /// The level as docker reads it: in any case.
    pub fn log_level(&self) -> Option<String> {
        self.log_level.as_ref().map(|level| level.to_lowercase())
    }

    pub fn is_debug(&self) -> bool {
        self.debug || self.log_level().is_some_and(|level| level == "debug" || level == "trace")
    }
}

/// What a push takes.
#[derive(Args, Clone, Debug)]
pub struct PushOptions {
    /// The image, named for its registry: [HOST[:PORT]/]PATH[:TAG]
    #[arg(value_name = "IMAGE")]
    pub image: String,
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
    /// Log in as NAME for this push alone
    #[arg(short, long, value_name = "NAME", requires = "password_stdin", value_parser = username)]
    pub username: Option<String>,
    /// Read the password for --username from stdin
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Push without credentials, whatever Docker holds
    #[arg(long, conflicts_with_all = ["username", "password_stdin"])]
    pub anonymous: bool,
    /// Never ask for a login; nor is asked where stdin or stderr is no terminal
    #[arg(long)]
    pub no_prompt: bool,
    /// Accepted and ignored, as in docker 29
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_value_t = true, default_missing_value = "true")]
    pub disable_content_trust: bool,
}

/// Basic authentication ends a user name at the first colon (RFC 7617, 2).
fn username(typed: &str) -> Result<String, &'static str> {
    match typed {
        "" => Err("a user name is needed"),
        typed if typed.contains(':') => Err("a user name cannot have a colon"),
        typed => Ok(typed.to_owned()),
    }
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

/// What follows the plugin's name.
#[derive(Debug, Parser)]
#[command(
    name = "docker-regpush",
    bin_name = "docker regpush",
    override_usage = "docker regpush [OPTIONS] IMAGE",
    version,
    about = ABOUT,
    long_about = None,
    after_help = AFTER_HELP
)]
pub struct PluginCommand {
    #[command(flatten)]
    pub push: PushOptions,
}

/// The same without docker, its options among ours.
#[derive(Debug, Parser)]
#[command(
    name = "docker-regpush",
    override_usage = "docker-regpush [OPTIONS] IMAGE",
    version,
    about = ABOUT,
    long_about = None,
    after_help = AFTER_HELP
)]
pub struct StandaloneCommand {
    #[command(flatten)]
    pub push: PushOptions,
    #[command(flatten)]
    pub docker: DockerOptions,
}

const ABOUT: &str = "\
Push a local image to its registry.

The engine pushes, with the login that Docker holds for the registry. If the
registry refuses that, regpush asks for another at the terminal, has it checked,
and pushes again.";

const AFTER_HELP: &str = "\
Exit status:
  0 pushed · 1 refused by the registry · 3 credentials missing or refused · 4 no engine
  5 no such image · 6 network, TLS or registry trouble · 125 usage
  130 interrupted · 143 terminated · 129 hung up

Examples:
  docker regpush registry.example.com/team/app:1.2
  image=$(docker regpush -q localhost:5000/app)
  docker regpush -u ci --password-stdin registry.example.com/app:1 <token.txt";
