//! Writes the hint that docker shows after a failed `docker push`, and the entry in config.json that makes
//! docker ask the plugin for this hint.
//!
//! Source: docker/cli `cli-plugins/hooks` and `cli-plugins/manager/hooks.go` (docker 26.1 and later; `error-hooks`:
//! docker/cli#6794, docker 29.3).

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;

use jsonc_parser::cst::{CstObject, CstObjectProp, CstRootNode};
use serde::Deserialize;
use serde_json::json;

use crate::docker::config::ConfigError;
use crate::docker::edit::{self, Change, after_brace, first_member};
use crate::failure::{Class, Evidence, classify, is_usage};
use crate::secret::Secret;

/// The docker commands after which docker runs the plugin: `docker push` and `docker image push`.
const COMMANDS: &str = "push,image push";
/// The keys of the entry. docker runs the plugin after each of the commands in `hooks`, and, since 29.3, after each failed
/// command in `error-hooks`. docker runs the plugin only once if both keys match.
const KEYS: [&str; 2] = ["hooks", "error-hooks"];
/// The template of the hint. docker replaces `{{arg . 0}}` with the image name that the user gave to
/// `docker push`. Every docker version with hooks has the functions `arg` and `flag`.
const TEMPLATE: &str = include_str!("../../plugin-metadata/hook.txt");

/// Writes the JSON response that docker expects from the plugin after a `docker push`: a hint. The hint is
/// empty, and docker shows nothing, if the push succeeded or the plugin could not help.
///
/// * `question`: JSON from docker, `{"RootCmd":"push","Flags":{…},"CommandError":"…"}`. The JSON does not
///   contain the image name.
///
/// # Errors
/// stdout is closed or full.
pub fn answer(question: &OsStr, mut out: impl Write) -> io::Result<()> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Question {
        flags: serde_json::Map<String, serde_json::Value>,
        command_error: String,
    }
    let question: Question = serde_json::from_str(&question.to_string_lossy()).unwrap_or_default();
    let options: String = [("all-tags", "--all-tags "), ("platform", r#"--platform {{flag . "platform"}} "#)]
        .into_iter()
        .filter(|(flag, _)| question.flags.get(*flag).is_some_and(|value| value != "false"))
        .map(|(_, option)| option)
        .collect();
    let hint = reason(&question.command_error)
        .map(|reason| TEMPLATE.trim_end().replace("{reason}", reason).replace("{options}", &options));
    let answer = json!({"Type": 0, "Template": hint.unwrap_or_default()});
    writeln!(out, "{answer}")?;
    out.flush()
}

/// Explains why `docker push` failed and what `docker regpush` does in this case. Never quotes `error`, the
/// error message of `docker push`, since docker would execute template actions in this message.
fn reason(error: &str) -> Option<&'static str> {
    // A successful push needs no hint, and neither does a usage error, such as an unknown flag.
    if error.trim().is_empty() || is_usage(error) {
        return None;
    }
    Some(match classify(&Evidence::of_text(error, false)).class {
        Class::Auth => {
            "The registry requires authentication. This command prompts for credentials, checks them and pushes:"
        }
        Class::Denied => {
            "The registry denied access. This command shows which credentials it refused, and prompts for others:"
        }
        Class::Rejected => "The registry rejected the image. This command shows the reason and what to do:",
        Class::Network | Class::Server => {
            "The connection to the registry or the registry itself failed. This command retries and shows each error:"
        }
        Class::RateLimited => "The registry limits requests. Wait a minute, then run:",
        Class::Tls => {
            "The engine cannot establish TLS with the registry. This command shows which setting to change:"
        }
        Class::NotFound => "The engine has no such image. This command suggests similar names:",
        Class::ContentMissing => {
            "The engine does not have all of the image. This command shows what is missing:"
        }
        Class::Engine => {
            "The engine cannot be reached, or could not push. This command shows the reason (docker's options go before `regpush`):"
        }
        Class::Other => "This command shows more details, and what to do:",
        // No hint: docker's own message is enough, or only this plugin reports errors of these classes.
        Class::Reference | Class::Cancelled | Class::Stalled | Class::Exists | Class::Unverified => {
            return None;
        }
    })
}

/// An error while reading or changing the plugin's entry in config.json.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot write `{}`", path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot change `{}`: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("`plugins.regpush.{key}` in `{}` is `{value}`, which `docker regpush` did not set", path.display())]
    Foreign { path: PathBuf, key: &'static str, value: String },
}

impl HookError {
    pub fn class(&self) -> Class {
        Class::Other
    }

    /// Returns a hint that tells the user how to fix config.json, if this error needs one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Malformed { .. } => "fix that file first; docker cannot read it either",
            Self::Foreign { key, .. } => {
                return Some(format!("remove `plugins.regpush.{key}` from that file"));
            }
            Self::Config(_) | Self::Unwritable { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// The reason why the plugin cannot change the content of config.json.
#[derive(Debug, PartialEq, Eq)]
pub enum EntryError {
    Malformed(String),
    Foreign { key: &'static str, value: String },
}

// The text to insert into config.json depends on whether the file already has the JSON objects `plugins` and
// `plugins.regpush`. `remove` recognizes the inserted text by its layout, and can restore the file byte for
// byte. Each text except `NEW_FILE` goes right after an opening brace.

/// The new content of a config.json that was missing or empty before.
const NEW_FILE: &str =
    r#"{"plugins": {"regpush": {"hooks": "push,image push", "error-hooks": "push,image push"}}}"#;
const IN_ROOT: &str =
    "\n\t\"plugins\": {\"regpush\": {\"hooks\": \"push,image push\", \"error-hooks\": \"push,image push\"}}";
const IN_PLUGINS: &str =
    "\n\t\t\"regpush\": {\"hooks\": \"push,image push\", \"error-hooks\": \"push,image push\"}";
const IN_REGPUSH: &str = "\"hooks\": \"push,image push\", \"error-hooks\": \"push,image push\"";

/// Inserts the plugin's entry into the content of config.json. `text` is `None` if the file does not exist.
pub fn install(text: Option<&str>) -> Result<Change, EntryError> {
    let Some(text) = text else { return Ok(changed(format!("{NEW_FILE}\n"))) };
    if text.trim().is_empty() {
        return Ok(changed(format!("{text}{NEW_FILE}")));
    }
    let missing: Vec<String> = KEYS
        .iter()
        .zip(keys_set(text)?)
        .filter(|(_, is_set)| !is_set)
        .map(|(key, _)| format!("\"{key}\": \"{COMMANDS}\""))
        .collect();
    if missing.is_empty() {
        return Ok(Change::Nothing);
    }
    let (_document, root) = parse(text)?;
    let entry = missing.join(", ");
    let (object, entry) = match (nested(&root, &["plugins"])?, nested(&root, &["plugins", "regpush"])?) {
        (None, _) => (root, IN_ROOT),
        (Some(plugins), None) => (plugins, IN_PLUGINS),
        (Some(_), Some(regpush)) => (regpush, entry.as_str()),
    };
    let at = after_brace(&object);
    let end = if object.properties().is_empty() { "\n" } else { "," };
    Ok(changed([&text[..at], entry, end, &text[at..]].concat()))
}

/// Removes the plugin's entry from the content of config.json, or removes a file that the plugin created.
/// `text` is `None` if the file does not exist.
pub fn remove(text: Option<&str>) -> Result<Change, EntryError> {
    let text = text.unwrap_or_default();
    if text == format!("{NEW_FILE}\n") {
        return Ok(Change::Remove);
    }
    if let Some(rest) = text.strip_suffix(NEW_FILE).filter(|rest| rest.trim().is_empty()) {
        return Ok(changed(rest.to_owned()));
    }
    if !is_installed(text)? {
        return Ok(Change::Nothing);
    }
    let (document, root) = parse(text)?;
    for (path, entry) in
        [(&[][..], IN_ROOT), (&["plugins"], IN_PLUGINS), (&["plugins", "regpush"], IN_REGPUSH)]
    {
        let at = after_brace(&nested(&root, path)?.expect("hooks were found in it"));
        let rest = text[at..].strip_prefix(entry);
        // `install` put a comma after the entry, or a line end if the surrounding object was empty.
        if let Some(rest) = rest.and_then(|rest| rest.strip_prefix([',', '\n'])) {
            return Ok(changed([&text[..at], rest].concat()));
        }
    }
    // docker has rewritten config.json in its own layout since `install`, or an older version of the plugin wrote the
    // entry. Remove the entry, and all objects that would become empty.
    let path = ["plugins", "regpush"];
    let regpush = nested(&root, &path)?.expect("hooks were found in it");
    let own: Vec<_> = KEYS.iter().filter_map(|key| regpush.get(key)).collect();
    if regpush.properties().len() > own.len() {
        own.into_iter().for_each(CstObjectProp::remove);
    } else {
        let is_last = |length: &usize| {
            nested(&root, &path[..*length])
                .is_ok_and(|object| object.is_some_and(|object| object.properties().len() > 1))
        };
        let length = (0..path.len()).rev().find(is_last).unwrap_or_default();
        let object = nested(&root, &path[..length])?.expect("hooks were found in it");
        first_member(&object, path[length]).expect("hooks were found in it").remove();
    }
    Ok(changed(document.to_string()))
}

fn changed(text: String) -> Change {
    // The new content is a secret, because config.json may contain passwords.
    Change::Text(Secret::new(text))
}

/// Returns whether the content of config.json has the plugin's entry.
pub fn is_installed(text: &str) -> Result<bool, EntryError> {
    Ok(keys_set(text)?.contains(&true))
}

/// Returns which of [`KEYS`] the content of config.json sets for the plugin.
fn keys_set(text: &str) -> Result<[bool; 2], EntryError> {
    if text.trim().is_empty() {
        return Ok([false; 2]);
    }
    let (_document, root) = parse(text)?;
    let Some(regpush) = nested(&root, &["plugins", "regpush"])? else { return Ok([false; 2]) };
    let mut set = [false; 2];
    for (key, is_set) in KEYS.into_iter().zip(&mut set) {
        let Some(member) = regpush.get(key) else { continue };
        match member.value().and_then(|value| value.as_string_lit()?.decoded_value().ok()) {
            Some(value) if value == COMMANDS => *is_set = true,
            Some(value) => return Err(EntryError::Foreign { key, value }),
            None => return Err(EntryError::Malformed(format!("`plugins.regpush.{key}` is not a string"))),
        }
    }
    Ok(set)
}

/// Parses the content of config.json into a document and its root object. The caller must keep the document
/// as long as the caller uses the object.
fn parse(text: &str) -> Result<(CstRootNode, CstObject), EntryError> {
    // Accept only strict JSON, as docker does: `edit::parse` alone would also accept comments.
    serde_json::from_str::<serde_json::Value>(text)
        .map_err(|error| EntryError::Malformed(error.to_string()))?;
    edit::parse(text).ok_or_else(|| EntryError::Malformed("it is not an object".to_owned()))
}

/// Returns the JSON object at a path of keys, or `None` if a key is missing. As docker does, ignores the case
/// of the first key only.
fn nested(root: &CstObject, path: &[&str]) -> Result<Option<CstObject>, EntryError> {
    let mut object = root.clone();
    for (at, key) in path.iter().enumerate() {
        let Some(property) = (if at == 0 { first_member(&object, key) } else { object.get(key) }) else {
            return Ok(None);
        };
        let Some(next) = property.object_value() else {
            return Err(EntryError::Malformed(format!("`{key}` is not an object")));
        };
        object = next;
    }
    Ok(Some(object))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hint_for(error: &str) -> String {
        let question =
            json!({"RootCmd": "push", "Flags": {"all-tags": "true"}, "CommandError": error}).to_string();
        let mut out = Vec::new();
        answer(OsStr::new(&question), &mut out).unwrap();
        serde_json::from_slice::<serde_json::Value>(&out).unwrap()["Template"].as_str().unwrap().to_owned()
    }

    #[test]
    fn hint_has_the_reason_and_a_command() {
        let command = "docker regpush --all-tags {{arg . 0}}";
        let table = [
            ("no basic auth credentials", "requires authentication"),
            ("denied: requested access to the resource is denied", "requires authentication"),
            ("tag does not exist: localhost:5000/x:1", "no such image"),
            ("toomanyrequests: slow down", "limits requests"),
            ("something new", "shows more"),
        ];
        for (error, words) in table {
            let hint = hint_for(error);
            assert!(hint.contains(words) && hint.contains(command), "{error}: {hint}");
            assert!(hint.lines().count() <= 10, "docker shows no more lines");
        }
        let usage = ["'docker push' requires 1 argument", "unknown flag: --nope"];
        for error in ["", "context canceled", "invalid reference format"].into_iter().chain(usage) {
            assert_eq!(hint_for(error), "", "{error}");
        }
        let platform = r#"{"Flags":{"platform":""},"CommandError":"denied"}"#;
        let mut out = Vec::new();
        answer(OsStr::new(platform), &mut out).unwrap();
        let hint = serde_json::from_slice::<serde_json::Value>(&out).unwrap()["Template"].to_string();
        assert!(hint.contains(r#"docker regpush --platform {{flag . \"platform\"}} {{arg . 0}}"#), "{hint}");
        assert_eq!(
            hint_for("{{ .Evil }} denied").matches("{{").count(),
            1,
            "braces of the error are not template actions"
        );
        let mut out = Vec::new();
        answer(OsStr::new("no JSON"), &mut out).unwrap();
        assert_eq!(out, b"{\"Template\":\"\",\"Type\":0}\n");
    }

    /// Converts a change into a value that tests can compare: `None` if nothing changes, `Some(None)` if the
    /// file is removed.
    #[expect(clippy::option_option, reason = "`None`: no change; `Some(None)`: the file is removed")]
    fn seen(change: Result<Change, EntryError>) -> Result<Option<Option<String>>, EntryError> {
        Ok(match change? {
            Change::Nothing => None,
            Change::Text(text) => Some(Some(text.expose().to_owned())),
            Change::Remove => Some(None),
        })
    }

    fn installed(text: Option<&str>) -> String {
        seen(install(text)).unwrap().unwrap().unwrap()
    }

    /// Contents of config.json that users may have. `remove` must restore each content byte for byte.
    const FILES: [&str; 17] = [
        "",
        "\n",
        "{}",
        "{}\n",
        "{\n}\n",
        "{ }",
        r#"{"auths":{}}"#,
        r#"{ "auths": {} }"#,
        "{\n\t\"auths\": {\n\t\t\"h\": {}\n\t},\n\t\"credsStore\": \"pass\"\n}",
        "{\r\n  \"auths\": {}\r\n}\r\n",
        "{\n\t\"plugins\": {}\n}",
        "{\n\t\"plugins\": {\n\t}\n}",
        r#"{"plugins":{"x":{"y":"z"}},"a":1}"#,
        r#"{"a":{"plugins":{}},"Plugins":{"regpush":{},"RegPush":{"hooks":"x"}}}"#,
        r#"{"plugins":{"regpush":{"other":"1"}}}"#,
        r#"{"plugins":{"regpush":{"other":"{\"hooks\""}},"b":"\\\""}"#,
        r#"{"ü":"\u00fc","plugins":{"regpush":{}}}"#,
    ];

    #[test]
    fn remove_restores_the_file_byte_for_byte() {
        for text in FILES {
            let installed = installed(Some(text));
            assert_eq!(is_installed(&installed), Ok(true), "{text:?}");
            assert_eq!(seen(install(Some(&installed))), Ok(None), "{text:?}: twice");
            assert_eq!(
                seen(remove(Some(&installed))),
                Ok(Some(Some(text.to_owned()))),
                "{text:?}: {installed}"
            );
            assert_eq!(seen(remove(Some(text))), Ok(None), "{text:?}");
        }
        let created = installed(None);
        assert_eq!(seen(remove(Some(&created))), Ok(Some(None)));
    }

    /// Each `docker login` rewrites config.json in docker's own layout and order of keys.
    #[test]
    fn removes_the_entry_from_files_that_docker_rewrote() {
        let table = [
            ("{\"plugins\":{\"regpush\":{\"hooks\":\"push,image push\"}}}", "{}"),
            ("{\n\t\"plugins\": {\"regpush\": {\"hooks\": \"push,image push\"}}}", "{}"),
            (
                "{\n\t\"plugins\": {\n\t\t\"regpush\": {\n\t\t\t\"hooks\": \"push,image push\"\n\t\t}\n\t}\n}",
                "{}",
            ),
            (
                "{\r\n  \"plugins\": {\r\n    \"regpush\": {\r\n      \"hooks\": \"push,image push\"\r\n    }\r\n  }\r\n}",
                "{}",
            ),
            (r#"{"Plugins":{"regpush":{"hooks":"push,image push"}},"plugins":{}}"#, r#"{"plugins":{}}"#),
            (
                "{\n\t\"auths\": {},\n\t\"plugins\": {\n\t\t\"regpush\": {\n\t\t\t\"hooks\": \"push,image push\"\n\t\t}\n\t}\n}",
                "{\n\t\"auths\": {}\n}",
            ),
            (
                "{\n\t\"plugins\": {\n\t\t\"a\": {},\n\t\t\"regpush\": {\n\t\t\t\"hooks\": \"push,image push\"\n\t\t}\n\t},\n\t\"z\": 1\n}",
                "{\n\t\"plugins\": {\n\t\t\"a\": {}\n\t},\n\t\"z\": 1\n}",
            ),
            (
                "{\"plugins\":{\"regpush\":{\"hooks\":\"push,image push\",\"more\":\"1\"}}}",
                "{\"plugins\":{\"regpush\":{\"more\":\"1\"}}}",
            ),
        ];
        for (text, want) in table {
            assert_eq!(seen(remove(Some(text))), Ok(Some(Some(want.to_owned()))), "{text}");
        }
    }

    /// Before docker 29.3, and in earlier versions of the plugin, the entry has only `hooks`.
    #[test]
    fn adds_the_key_that_an_older_entry_lacks() {
        let table = [
            (
                r#"{"plugins":{"regpush":{"hooks":"push,image push"}}}"#,
                r#"{"plugins":{"regpush":{"error-hooks": "push,image push","hooks":"push,image push"}}}"#,
            ),
            (
                r#"{"plugins":{"regpush":{"error-hooks":"push,image push","more":"1"}}}"#,
                r#"{"plugins":{"regpush":{"hooks": "push,image push","error-hooks":"push,image push","more":"1"}}}"#,
            ),
        ];
        for (text, want) in table {
            assert_eq!(seen(install(Some(text))), Ok(Some(Some(want.to_owned()))), "{text}");
            assert_eq!(seen(install(Some(want))), Ok(None), "{want}");
            let without =
                if text.contains("more") { r#"{"plugins":{"regpush":{"more":"1"}}}"# } else { "{}" };
            assert_eq!(seen(remove(Some(want))), Ok(Some(Some(without.to_owned()))), "{want}");
        }
    }

    #[test]
    fn refuses_malformed_files_and_foreign_entries() {
        for text in ["{", "[]", "{} trailing", "{'a':1}", "{\"a\":1,}", "// x\n{}", "{\"plugins\":[]}"] {
            assert!(matches!(seen(install(Some(text))), Err(EntryError::Malformed(_))), "{text}");
        }
        let foreign = r#"{"plugins":{"regpush":{"hooks":"build"}}}"#;
        let error = || EntryError::Foreign { key: "hooks", value: "build".to_owned() };
        assert_eq!(seen(install(Some(foreign))), Err(error()));
        assert_eq!(seen(remove(Some(foreign))), Err(error()));
        let foreign = r#"{"plugins":{"regpush":{"error-hooks":"build"}}}"#;
        let error = EntryError::Foreign { key: "error-hooks", value: "build".to_owned() };
        assert_eq!(seen(install(Some(foreign))), Err(error));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf =
            prop_oneof![Just(json!(null)), any::<bool>().prop_map(|b| json!(b)), ".*".prop_map(|s| json!(s))];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let keys = prop_oneof![Just("plugins".to_owned()), Just("regpush".to_owned()), "[a-c]"];
            prop::collection::btree_map(keys, inner, 0..4).prop_map(|map| json!(map))
        })
    }

    proptest! {
        #[test]
        fn remove_restores_any_config(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            if let Ok(Some(Some(installed))) = seen(install(Some(&text))) {
                prop_assert_eq!(seen(remove(Some(&installed))), Ok(Some(Some(text))));
            }
        }
    }
}
