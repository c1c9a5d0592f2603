//! Reads the options of a push from `REGPUSH_*` environment variables.

use std::env;
use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Args, Command, Id};

use crate::cli::{ConnectionArgs, PushOptions, go_bool};

/// Lets environment variables set the long options of a push: `REGPUSH_PROGRESS=plain`, `REGPUSH_DRY_RUN=1`. The variables
/// of [`ConnectionArgs`] set the options of `auth` and `ls` too.
/// Commas separate several values of an option. An empty variable counts as unset.
///
/// An option on the command line overrides the variable of the same option, and the variables of options that
/// contradict this option.
///
/// * `words`: the words of the command line.
pub fn with_variables(command: Command, words: &[OsString]) -> Command {
    /// Pairs of an option on the command line, and the options whose variables this option overrides.
    const STRONGER: [(&str, &[&str]); 6] = [
        ("anonymous", &["username", "password_stdin", "password_command", "save_credentials"]),
        ("username", &["anonymous"]),
        ("password_stdin", &["anonymous", "password_command"]),
        ("password_command", &["anonymous", "password_stdin"]),
        ("save_credentials", &["anonymous"]),
        ("progress", &["quiet"]),
    ];
    let set = set();
    if set.is_empty() {
        return command;
    }
    let typed = command.clone().ignore_errors(true).try_get_matches_from(words).ok();
    let is_typed = |id: &str| {
        let source = typed.as_ref().and_then(|typed| typed.value_source(id));
        source == Some(ValueSource::CommandLine)
    };
    let is_weaker =
        |id: &Id| STRONGER.iter().any(|(strong, weak)| weak.contains(&id.as_str()) && is_typed(strong));
    let connection = ConnectionArgs::augment_args(Command::new("connection"));
    let is_about_connection = |id: &Id| connection.get_arguments().any(|arg| arg.get_id() == id);
    set.into_iter().filter(|(id, _)| !is_weaker(id)).fold(command, |mut command, (id, name)| {
        if is_about_connection(&id) {
            for subcommand in ["auth", "ls"] {
                command = command.mut_subcommand(subcommand, |command| with_variable(command, &id, &name));
            }
        }
        with_variable(command, &id, &name)
    })
}

fn with_variable(command: Command, id: &Id, name: &str) -> Command {
    command.mut_arg(id.clone(), |arg| {
        match (arg.get_action(), env::var(name)) {
            // Split only a variable at commas, because a value on the command line may contain commas.
            (ArgAction::Append, Ok(list)) => {
                arg.default_values(list.split(',').map(str::to_owned).collect::<Vec<_>>())
            }
            _ => arg.env(name.to_owned()).hide_env(true),
        }
    })
}

/// Returns each option that a `REGPUSH_*` variable sets, with the name of the variable.
fn set() -> Vec<(Id, String)> {
    let push = PushOptions::augment_args(Command::new("push"));
    let of = |arg: &Arg| {
        let name = variable(arg)?;
        let value = env::var_os(&name).filter(|value| !value.is_empty())?;
        let is_off = is_flag(arg) && value.to_str().is_some_and(|value| go_bool(value) == Ok(false));
        (!is_off).then(|| (arg.get_id().clone(), name))
    };
    push.get_arguments().filter_map(of).collect()
}

/// Returns the names of the `REGPUSH_*` variables that set options, to show after a usage error.
pub fn variables_set() -> Vec<String> {
    set().into_iter().map(|(_, name)| name).collect()
}

/// Lets flags have a boolean value, as in docker. For example, `--dry-run=false` overrides
/// `REGPUSH_DRY_RUN=1`.
pub fn with_boolean_flags(command: Command) -> Command {
    command.mut_subcommands(with_boolean_flags).mut_args(|arg| match is_flag(&arg) {
        true => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("b")
            .default_value("false")
            .default_missing_value("true")
            .value_parser(go_bool),
        false => arg,
    })
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Returns the name of the `REGPUSH_*` variable for an option; `None` if the option is hidden or has no long
/// name.
pub fn variable(arg: &Arg) -> Option<String> {
    arg.get_long().filter(|_| !arg.is_hide_set()).map(variable_of)
}

/// Returns the name of the `REGPUSH_*` variable for the option with this long name, such as `chunk-size`.
pub fn variable_of(long: &str) -> String {
    format!("REGPUSH_{}", long.to_uppercase().replace('-', "_"))
}
