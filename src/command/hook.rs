//! The command `hook`: installs or removes the hook by which docker shows a hint after a failed `docker push`.

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::str::Utf8Error;

use crate::cli::{DockerOptions, HookAction, go_bool};
use crate::docker::config::{self, ConfigError};
use crate::docker::edit::{Change, EditError, edit};
use crate::docker::file::{Mode, read_file};
use crate::docker::hook::{EntryError, HookError, install, is_installed, remove};
use crate::error::Error;
use crate::print::tell_error;
use crate::text::sanitize;

/// Runs `hook install`, `hook remove` or `hook status`, and returns the exit status of the program.
pub fn run(action: HookAction, docker: &DockerOptions) -> u8 {
    match carry_out(action, docker.config.as_deref()) {
        Ok((told, status)) => {
            // Ignores the write error, since a closed stdout is not an error of the command.
            let _ = io::stdout().write_all(told.as_bytes());
            status
        }
        Err(error) => {
            let error = Error::from(error);
            tell_error(&error);
            error.exit_status()
        }
    }
}

fn carry_out(action: HookAction, flag: Option<&Path>) -> Result<(String, u8), HookError> {
    let path = config::directory(flag)?.join("config.json");
    let bytes = match read_file(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(ConfigError::Unreadable { path, source }.into()),
    };
    let refused = |error| match error {
        EntryError::Malformed(reason) => HookError::Malformed { path: path.clone(), reason },
        EntryError::Foreign { key, value } => {
            HookError::Foreign { path: path.clone(), key, value: sanitize(&value) }
        }
    };
    // Invalid UTF-8 in config.json is an error, because the rest of the file must be written back unchanged.
    let not_text = |error: Utf8Error| refused(EntryError::Malformed(error.to_string()));
    let text = bytes.as_ref().map(|bytes| str::from_utf8(bytes)).transpose().map_err(not_text)?;
    let change = |change: fn(Option<&str>) -> Result<Change, EntryError>| {
        // Returns early without a change, because `edit` would create the directory of a missing config.json.
        if let Change::Nothing = change(text).map_err(refused)? {
            return Ok(false);
        }
        edit(&path, Mode::AsItIs, change).map_err(|error| match error {
            EditError::Io(source) => HookError::Unwritable { path: path.clone(), source },
            EditError::NotUtf8(error) => not_text(error),
            EditError::Change(error) => refused(error),
        })
    };
    let shown = path.display();
    match action {
        HookAction::Status => {
            let (told, status) = match is_installed(text.unwrap_or_default()) {
                Ok(true) => ("installed".to_owned(), 0),
                Ok(false) => ("not installed".to_owned(), 1),
                Err(EntryError::Foreign { value, .. }) => {
                    (format!("set to `{}` by another program", sanitize(&value)), 0)
                }
                Err(error) => return Err(refused(error)),
            };
            Ok((format!("hook: {told} in {shown}\n{}", hints_told(text)), status))
        }
        HookAction::Install => {
            let done = if change(install)? { "installed" } else { "already installed" };
            Ok((format!("hook: {done} in {shown}\n{}", hints_told(text)), 0))
        }
        HookAction::Remove => {
            let done = if change(remove)? { "removed from" } else { "not installed in" };
            Ok((format!("hook: {done} {shown}\n"), 0))
        }
    }
}

/// Describes for the user whether docker shows hints of plugins, and names the setting that decides. Reads the
/// settings in docker's order of precedence.
fn hints_told(text: Option<&str>) -> String {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let config: serde_json::Value = serde_json::from_str(text.unwrap_or_default()).unwrap_or_default();
    let feature = config::field(&config, "features").and_then(|features| features["hooks"].as_str());
    let told = variable("DOCKER_CLI_HOOKS")
        .map(|value| ("DOCKER_CLI_HOOKS", value))
        .or_else(|| variable("DOCKER_CLI_HINTS").map(|value| ("DOCKER_CLI_HINTS", value)))
        .or_else(|| feature.map(|value| ("features.hooks", value.to_owned())));
    let set = |place| match place {
        "features.hooks" => "`\"features\": {\"hooks\": \"true\"}` in config.json".to_owned(),
        variable => format!("{variable}=true"),
    };
    match told {
        Some((place, value)) if go_bool(&value) == Ok(true) => {
            format!("hints: on ({place}); docker shows them on a terminal\n")
        }
        // docker ignores the settings after the first one that is set.
        Some((place, value)) => format!(
            "hints: off ({place} is `{}`); to show them on a terminal, set {}\n",
            sanitize(&value),
            set(place)
        ),
        None => format!(
            "hints: off; to show them on a terminal, set {}, or {}\n",
            set("DOCKER_CLI_HINTS"),
            set("features.hooks")
        ),
    }
}
