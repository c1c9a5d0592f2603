//! Prints help in docker's style.

use std::io::{self, Write};

use clap::Command;
use clap::error::ErrorKind;

use crate::cli::env::variables_set;

/// Hides default and possible values, because in docker's style the one line of an option names them.
pub fn with_plain_help(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_action().takes_values() {
            true => arg.hide_default_value(true).hide_possible_values(true),
            false => arg,
        })
        .mut_subcommands(with_plain_help)
}

/// Prints the message of clap; help is printed in docker's style.
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

/// Replaces `--progress <string>` by `--progress string`, and keeps the text after it in its column.
fn in_dockers_style(line: &str) -> String {
    if !line.trim_start().starts_with('-') {
        return line.to_owned();
    }
    // `--flag=false` works as in docker, whose help does not mention it either.
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
