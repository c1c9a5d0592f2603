//! Parses the plugin's command line, as docker passes it or as the user types it without docker.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::cli::env::{with_boolean_flags, with_variables};
use crate::cli::foreign::with_tip;
use crate::cli::help::with_plain_help;
use crate::cli::{
    AuthOptions, DockerOptions, HookAction, LOG_LEVELS, LsOptions, PluginCommand, PushOptions,
    StandaloneCommand, Subcommand,
};
use crate::plugin::NAME;

/// A parsed command line of the plugin.
#[derive(Debug)]
pub struct Call {
    pub docker: DockerOptions,
    pub command: Command,
}

#[derive(Debug)]
pub enum Command {
    Push(Box<PushOptions>),
    Auth(AuthOptions),
    Ls(LsOptions),
    Hook(HookAction),
}

/// The command line that docker passes on from the user: docker's options, the plugin's name, and the
/// plugin's arguments.
#[derive(Parser)]
#[command(
    name = "docker",
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true
)]
struct FromDocker {
    #[command(flatten)]
    docker: DockerOptions,
    #[arg(short, long)]
    help: bool,
    #[arg(short, long)]
    version: bool,
    #[command(subcommand)]
    rest: Rest,
}

#[derive(clap::Subcommand)]
enum Rest {
    #[command(external_subcommand)]
    Words(Vec<OsString>),
}

/// Parses a command line, as docker passes it or as the user types it without docker.
///
/// # Errors
/// An error from clap: a usage error, or the help or version that the user requested.
pub fn parse(args: &[OsString]) -> Result<Call, clap::Error> {
    if let Ok(FromDocker { docker, help, version, rest: Rest::Words(words) }) =
        FromDocker::try_parse_from(args)
    {
        match words.split_first() {
            Some((name, _)) if name == NAME && help => return parse_plugin(docker, &["--help".into()]),
            // For `docker -v regpush`, docker runs the plugin with the arguments `-v regpush`.
            Some((name, _)) if name == NAME && version => return parse_plugin(docker, &["--version".into()]),
            Some((name, rest)) if name == NAME => return parse_plugin(docker, rest),
            // For `docker help regpush hook`, docker runs the plugin, which must print its help and exit with
            // 0.
            Some((word, rest)) if word == "help" => {
                return parse_help(docker, rest.strip_prefix(&[OsString::from(NAME)]).unwrap_or(rest));
            }
            // In `docker-regpush -D hook`, clap would parse the subcommand after docker's option as an image.
            Some((word, _)) if PluginCommand::command().find_subcommand(word).is_some() => {
                return parse_plugin(docker, &words);
            }
            _ => {}
        }
    }
    let command: StandaloneCommand = parse_words(args).map_err(|error| with_tip(error, true))?;
    checked(command.docker, command.push, command.subcommand, StandaloneCommand::command())
}

fn parse_plugin(docker: DockerOptions, rest: &[OsString]) -> Result<Call, clap::Error> {
    if let [word, of @ ..] = rest
        && word == "help"
    {
        return parse_help(docker, of);
    }
    let words: Vec<OsString> = [NAME.into()].into_iter().chain(rest.iter().cloned()).collect();
    let is_push = !rest.iter().any(|word| PluginCommand::command().find_subcommand(word).is_some());
    let command: PluginCommand = parse_words(&words).map_err(|error| with_tip(misplaced(error), is_push))?;
    checked(docker, command.push, command.subcommand, PluginCommand::command())
}

/// Parses the words of a command line, together with the `REGPUSH_*` variables.
fn parse_words<C: CommandFactory + FromArgMatches>(words: &[OsString]) -> Result<C, clap::Error> {
    let mut command = with_plain_help(with_variables(with_boolean_flags(C::command()), words));
    let matches = command.try_get_matches_from_mut(words)?;
    C::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Replaces clap's error for a docker option after `regpush` with an error that says where the option
/// belongs.
fn misplaced(error: clap::Error) -> clap::Error {
    let option = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) if error.kind() == ErrorKind::UnknownArgument => option.clone(),
        _ => return error,
    };
    let name = option.split('=').next().unwrap_or_default();
    if !DockerOptions::spellings().iter().any(|spelling| spelling == name) {
        return error;
    }
    let reason = format!(
        "`{name}` is an option of docker, and goes before the plugin's name: `docker {name} … regpush …`"
    );
    PluginCommand::command().error(ErrorKind::UnknownArgument, reason)
}

/// Returns the help of the subcommand that `of` names, or the general help if `of` names no subcommand.
fn parse_help(docker: DockerOptions, of: &[OsString]) -> Result<Call, clap::Error> {
    let has_own = of.first().is_some_and(|word| PluginCommand::command().find_subcommand(word).is_some());
    let command = of.iter().take(usize::from(has_own)).cloned();
    parse_plugin(docker, &command.chain(["--help".into()]).collect::<Vec<_>>())
}

/// Checks option values and combinations of options for which clap has no rule, and returns the parsed command
/// line.
fn checked(
    docker: DockerOptions,
    push: PushOptions,
    subcommand: Option<Subcommand>,
    mut command: clap::Command,
) -> Result<Call, clap::Error> {
    if docker.hosts.len() > 1 {
        return Err(command.error(ErrorKind::TooManyValues, "specify only one -H"));
    }
    if let Some(level) = docker.log_level().filter(|level| !LOG_LEVELS.contains(&level.as_str())) {
        return Err(command.error(ErrorKind::InvalidValue, format!("unable to parse logging level: {level}")));
    }
    let command = match subcommand {
        None => Command::Push(Box::new(push)),
        Some(Subcommand::Hook { action }) => Command::Hook(action),
        Some(Subcommand::Auth(options)) => {
            let has_password = options.password_stdin || options.password_command.is_some();
            if options.username.is_some() && !options.login && !has_password {
                let reason = "--username requires --login, which prompts for the password, or --password-stdin, or --password-command";
                return Err(command.error(ErrorKind::MissingRequiredArgument, reason));
            }
            Command::Auth(options)
        }
        Some(Subcommand::Ls(options)) => Command::Ls(options),
    };
    Ok(Call { docker, command })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::VERSION;

    fn push(call: &Call) -> &PushOptions {
        let Command::Push(options) = &call.command else { panic!("{call:?}") };
        options
    }

    fn image(call: &Call) -> &str {
        &push(call).images[0]
    }

    fn parse_words(line: &str) -> Result<Call, clap::Error> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&args)
    }

    #[test]
    fn reads_dockers_options_before_the_plugin_name() {
        let call = parse_words("x --config=C -H U -D --log-level debug regpush -q app:1").unwrap();
        assert_eq!(call.docker.config.as_deref(), Some("C".as_ref()));
        assert_eq!(call.docker.hosts, ["U"]);
        assert!(call.docker.debug && push(&call).quiet);
        assert_eq!(image(&call), "app:1");

        let call = parse_words("x -DHregpush -c far --tls --tlsverify=false regpush regpush").unwrap();
        assert_eq!(call.docker.hosts, ["regpush"]);
        assert_eq!(image(&call), "regpush");
        assert_eq!((call.docker.tls, call.docker.tlsverify), (Some(true), Some(false)));

        let call = parse_words("x -D=false --debug=1 --tls=F --tlsverify=T regpush app").unwrap();
        assert_eq!(
            (call.docker.debug, call.docker.tls, call.docker.tlsverify),
            (true, Some(false), Some(true))
        );
        assert!(parse_words("x --tls=yes regpush app").is_err());
        let call = parse_words("x --tlscert= --config= regpush app").unwrap();
        assert_eq!((call.docker.tlscert, call.docker.config), (Some("".into()), Some("".into())));
        // As in docker, the last value of a repeated option wins.
        let call = parse_words("x -c one -c two regpush -q -q --format json --format ref app").unwrap();
        assert_eq!(call.docker.context.as_deref(), Some("two"));

        for (level, is_debug) in
            [("debug", true), ("DEBUG", true), ("trace", true), ("warning", false), ("Info", false)]
        {
            let call = parse_words(&format!("x -l {level} regpush app")).unwrap();
            assert_eq!(call.docker.is_debug(), is_debug, "{level}");
        }

        let call = parse_words("x regpush -- -a").unwrap();
        assert_eq!(image(&call), "-a", "the reference parser refuses it later");
    }

    #[test]
    fn standalone_calls_accept_options_in_any_order() {
        for line in ["x -H U -q app:1", "x -q app:1 -H U", "x -H U regpush -q app:1"] {
            let call = parse_words(line).unwrap();
            assert_eq!(
                (call.docker.hosts.as_slice(), image(&call)),
                (&["U".to_owned()][..], "app:1"),
                "{line}"
            );
            assert!(push(&call).quiet, "{line}");
        }
    }

    #[test]
    fn tells_subcommands_from_images() {
        for line in ["x regpush hook install", "x hook install", "x -D --config C hook install"] {
            let call = parse_words(line).unwrap();
            assert!(matches!(call.command, Command::Hook(HookAction::Install)), "{line}: {call:?}");
        }
        assert_eq!(image(&parse_words("x regpush hook:latest").unwrap()), "hook:latest");
        let behind = parse_words("x regpush -c far app").unwrap_err().to_string();
        assert!(behind.contains("`docker -c … regpush …`") && !behind.contains("tip:"), "{behind}");
        let many = parse_words("x regpush -q app ls").unwrap();
        assert_eq!(push(&many).images, ["app", "ls"], "after an image, `ls` is an image too");
        assert!(matches!(parse_words("x regpush ls").unwrap().command, Command::Ls(_)));
        assert!(matches!(parse_words("x -D auth --login h:1").unwrap().command, Command::Auth(_)));
        assert_eq!(image(&parse_words("x regpush ls:latest").unwrap()), "ls:latest");
        for line in ["x help regpush hook", "x regpush help hook", "x regpush hook --help"] {
            let help = parse_words(line).unwrap_err().to_string();
            assert!(
                help.contains("docker regpush hook <COMMAND>") && help.contains("install"),
                "{line}: {help}"
            );
        }
    }

    #[test]
    fn passes_engine_options_on_to_docker() {
        let line = "x --config=C -D -H U --tlsverify --tlscacert F regpush app";
        let arguments = parse_words(line).unwrap().docker.arguments();
        assert_eq!(arguments, ["--config", "C", "--tlscacert", "F", "--host", "U", "--tlsverify=true"]);
        assert_eq!(parse_words("x -c far regpush app").unwrap().docker.arguments(), ["--context", "far"]);
    }

    #[test]
    fn accepts_each_way_to_request_help_and_version() {
        for line in [
            "x regpush --help",
            "x regpush -h",
            "x --help regpush",
            "x help regpush",
            "x regpush help",
            "x help",
        ] {
            let help = parse_words(line).unwrap_err();
            assert_eq!(help.exit_code(), 0, "{line}");
            assert!(help.to_string().contains("Usage:  docker regpush"), "{line}: {help}");
        }
        assert!(parse_words("x --help").unwrap_err().to_string().contains("Usage:  docker-regpush"));
        for line in ["x regpush --version", "x -v regpush", "x --version"] {
            let version = parse_words(line).unwrap_err();
            assert_eq!(version.to_string(), format!("docker-regpush {VERSION}\n"), "{line}");
            assert!(!version.use_stderr(), "{line}");
        }
    }

    #[test]
    fn rejects_invalid_arguments_as_usage_errors() {
        let lines = [
            "x regpush",
            "x regpush --parallel 0 a",
            "x regpush --platform linux/a/b/c a",
            "x regpush --nope a",
            "x -H a -H b regpush app",
            "x -l loud regpush app",
            "x regpush -u me app",
            "x regpush --password-stdin app",
            "x regpush --anonymous -u me --password-stdin app",
            "x regpush --progress fancy app",
            "x regpush -H U app",
            "x regpush hook",
            "x regpush hook nonsense",
            "x regpush auth --login",
            "x regpush auth -u me localhost:5000",
            "x regpush auth --password-stdin localhost:5000",
            "x regpush auth a b",
            "x regpush ls a b",
            "x regpush ls -u me localhost:5000",
            "x regpush --save-credentials --anonymous app",
        ];
        for line in lines {
            assert!(parse_words(line).unwrap_err().use_stderr(), "{line}");
        }
    }
}
