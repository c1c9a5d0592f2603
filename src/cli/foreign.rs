//! Tips for options of other tools that users try: docker, podman, skopeo, crane, regctl, oras and kaniko.

use clap::error::{ContextKind, ContextValue, ErrorKind};

const TLS: &str = "pass `--tls-verify=false` to accept any certificate, or `--plain-http` for plain HTTP";
const PASSWORD: &str = "pass the password on stdin: `--username NAME --password-stdin <FILE`";
const STORED: &str = "the plugin uses docker's credentials: pass docker's `--config DIR` before `regpush`, or set DOCKER_AUTH_CONFIG";
const TEMPLATE: &str =
    "the plugin has no Go templates: `--format ref` prints NAME@DIGEST, `--format json` an object for jq";
const TEMPLATE_OF_LISTS: &str =
    "the plugin has no Go templates: `--format json` prints an object per line for jq";
const DESTINATION: &str = "name the destination with `--to`: `docker regpush IMAGE --to DESTINATION`";

/// Replaces clap's tip for an unknown option or an invalid value with a tip that names the option of the plugin that
/// does the same, if the option or value is one of another tool.
///
/// * `is_push`: the command line has no subcommand.
pub fn with_tip(mut error: clap::Error, is_push: bool) -> clap::Error {
    let argument = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => {
            argument(ContextKind::InvalidArg).and_then(|option| tip(option, is_push))
        }
        ErrorKind::InvalidValue => argument(ContextKind::InvalidArg)
            .zip(argument(ContextKind::InvalidValue))
            .filter(|(option, value)| option.starts_with("--format") && value.contains("{{"))
            .map(|_| if is_push { TEMPLATE } else { TEMPLATE_OF_LISTS }),
        _ => None,
    };
    if let Some(tip) = tip {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Returns the tip for an option of another tool.
fn tip(option: &str, is_push: bool) -> Option<&'static str> {
    Some(match option.split('=').next().unwrap_or_default() {
        "--dest-tls-verify" | "--insecure" | "--insecure-registry" | "--skip-tls-verify" | "-k" => TLS,
        "--password" | "-p" | "--creds" | "--dest-creds" | "--dest-username" | "--dest-password" => PASSWORD,
        "--authfile" | "--dest-authfile" | "--registry-config" => STORED,
        _ if !is_push => return None,
        "--tag" | "-t" | "--destination" | "-d" | "--dest" | "--repo" | "--name" => DESTINATION,
        "--registry" => "write the registry into the name, or pass `--to HOST/`",
        "--all" => "pass `--all-tags` for all tags, or `--platform all` for all platforms",
        "--multi-arch" | "--all-platforms" => "pass `--platform all` for all platforms",
        "--digestfile" | "--iidfile" | "--image-name-with-digest-file" => "pass `--digest-file FILE`",
        "--retry" | "--retry-times" | "--image-push-retry" | "--push-retry" => "pass `--retries N`",
        "--jobs" | "-j" | "--concurrency" => "pass `--parallel N`",
        "--force" | "-f" | "--overwrite" => "a push replaces an existing tag, unless you pass `--if-exists`",
        "--user" => "pass `--username NAME --password-stdin`",
        "--output" | "-o" => "pass `--format json` for a result to parse",
        "--verbose" | "-v" => "pass docker's `--debug` before `regpush`",
        _ => return None,
    })
}
