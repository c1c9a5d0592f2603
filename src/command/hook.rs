//! `hook`: installs and removes the hint after a failed `docker push`.

use std::env;
use std::io::{self, Write};
use std::path::Path;

use crate::cli::{DockerOptions, HookAction, go_bool};
use crate::docker::config::{self, ConfigError};
use crate::docker::file::{read_file, write_file};
use crate::docker::hook::{EditError, HookError, install, is_installed, remove};
use crate::error::Error;
use crate::print::tell_error;
use crate::text::clean;

/// Carries out `hook install`, `remove` or `status`; the exit status.
pub fn run(action: HookAction, docker: &DockerOptions) -> u8 {
    match carry_out(action, docker.config.as_deref()) {
        Ok((told, status)) => {
            // Who does not read it does not need it.
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
    let unreadable = |source| ConfigError::Unreadable { path: path.clone(), source };
    let before = match read_file(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(error).into()),
    };
    let refused = |error| match error {
        EditError::Malformed(reason) => HookError::Malformed { path: path.clone(), reason },
        EditError::Foreign(value) => HookError::Foreign { path: path.clone(), value: clean(&value) },
    };
    let text = match &before {
        // Unlike for reading, nothing is replaced: what is written back has to be what was there.
        Some(bytes) => {
            Some(str::from_utf8(bytes).map_err(|error| refused(EditError::Malformed(error.to_string())))?)
        }
        None => None,
    };
    let write = |after: Option<&str>| {
        write_file(&path, before.as_deref(), after)
            .map_err(|source| HookError::Unwritable { path: path.clone(), source })
    };
    let shown = path.display();
    match action {
        HookAction::Status => {
            let (told, status) = match is_installed(text.unwrap_or_default()) {
                Ok(true) => ("installed".to_owned(), 0),
                Ok(false) => ("not installed".to_owned(), 1),
                Err(EditError::Foreign(value)) => (format!("`{}`, by another hand,", clean(&value)), 0),
                Err(error) => return Err(refused(error)),
            };
            Ok((format!("hook: {told} in {shown}\n{}", hints_told(text)), status))
        }
        HookAction::Install => match install(text).map_err(refused)? {
            Some(after) => {
                write(Some(&after))?;
                Ok((format!("hook: installed in {shown}\n{}", hints_told(text)), 0))
            }
            None => Ok((format!("hook: is installed in {shown}\n{}", hints_told(text)), 0)),
        },
        HookAction::Remove => match remove(text.unwrap_or_default()).map_err(refused)? {
            Some(after) => {
                write(after.as_deref())?;
                Ok((format!("hook: removed from {shown}\n"), 0))
            }
            None => Ok((format!("hook: is not installed in {shown}\n"), 0)),
        },
    }
}

/// Whether docker shows hints of plugins at all, in its order, with what turns them on.
fn hints_told(text: Option<&str>) -> String {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let config: serde_json::Value = serde_json::from_str(text.unwrap_or_default()).unwrap_or_default();
    let feature = config::field(&config, "features").and_then(|features| features["hooks"].as_str());
    let told = variable("DOCKER_CLI_HOOKS")
        .map(|value| ("DOCKER_CLI_HOOKS", value))
        .or_else(|| variable("DOCKER_CLI_HINTS").map(|value| ("DOCKER_CLI_HINTS", value)))
        .or_else(|| feature.map(|value| ("features.hooks", value.to_owned())));
    match told {
        Some((place, value)) if go_bool(&value) == Ok(true) => format!("hints: on, by {place}; docker shows them on a terminal\n"),
        _ => "hints: off; docker shows them on a terminal with DOCKER_CLI_HINTS=true, or `\"features\": {\"hooks\": \"true\"}` in config.json\n".to_owned(),
    }
}
