//! Prints help in docker's style.

use std::io::{self, Write};

use clap::Command;
use clap::error::ErrorKind;

use crate::cli::env::variables_set;

/// Hides clap's lists of default and possible values. In docker's style, the description of an option names
/// these values.
pub fn with_plain_help(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_action().takes_values() {
            true => arg.hide_default_value(true).hide_possible_values(true),
            false => arg,
        })
        .mut_subcommands(with_plain_help)
}

/// Prints a message from clap. If the message is help, prints the help in docker's style.
///
/// # Errors
/// stdout or stderr is closed.
pub fn print(error: &clap::Error) -> io::Result<()> {
    if error.kind() != ErrorKind::DisplayHelp {
        error.print()?;
        let set = variables_set();
        if error.use_stderr() && !set.is_empty() {
            writeln!(io::stderr(), "\noptions set by environment variables: {}", set.join(", "))?;
        }
        return Ok(());
    }
    let text = error.render().to_string();
    io::stdout().write_all(text.split_inclusive('\n').map(in_dockers_style).collect::<String>().as_bytes())
}

/// Converts a line of clap's help to docker's style: replaces `--progress <string>` with `--progress string`,
/// and pads with spaces so that the option's description remains aligned.
fn in_dockers_style(line: &str) -> String {
    if !line.trim_start().starts_with('-') {
        return line.to_owned();
    }
    // Remove the optional value of a flag: as in docker, `--flag=false` works, but the help does not mention
    // it.
    if let Some((before, rest)) = line.split_once("[=<")
        && let Some((name, after)) = rest.split_once(">]")
    {
        return format!("{before}{}{after}", " ".repeat(name.len() + "[=<>]".len()));
    }
    match line.split_once('<').and_then(|(before, rest)| Some((before, rest.split_once('>')?))) {
        Some((before, (name, after))) => format!("{before}{name}  {after}"),
        None => line.to_owned(),
    }
}
