//! The hint that docker shows after a failed `docker push`, and the entry in config.json that has docker
//! ask for it.
//!
//! Source: docker/cli `cli-plugins/hooks` and `cli-plugins/manager/hooks.go` (docker 26.1 and later).

use std::ffi::OsStr;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;

use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::Deserialize;
use serde_json::json;

use crate::docker::config::ConfigError;
use crate::failure::{Class, Evidence, classify, is_usage};

/// The commands docker asks after: `docker push` and its long form.
const COMMANDS: &str = "push,image push";
/// The hint. docker fills in the image, by the functions that every version of it has.
const TEMPLATE: &str = include_str!("../../plugin-metadata/hook.txt");

/// Answers docker's question with a hint; with an empty one, which docker does not show, where there is
/// nothing to say: the push went well, or nothing of ours would help.
///
/// * `question`: `{"RootCmd":"push","Flags":{…},"CommandError":"…"}`. The image is not in it.
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
    let options = if question.flags.contains_key("all-tags") { "--all-tags " } else { "" };
    // There is no such option here yet, and the push would be another without it.
    let is_ours = !question.flags.contains_key("platform");
    let hint = reason(&question.command_error)
        .filter(|_| is_ours)
        .map(|reason| TEMPLATE.trim_end().replace("{reason}", reason).replace("{options}", options));
    let answer = json!({"Type": 0, "Template": hint.unwrap_or_default()});
    writeln!(out, "{answer}")?;
    out.flush()
}

/// Why it failed and what `docker regpush` does about that. The words are ours alone: docker runs them
/// as a template.
pub fn reason(error: &str) -> Option<&'static str> {
    // docker's own complaints about the command line say it all.
    if error.trim().is_empty() || is_usage(error) {
        return None;
    }
    Some(match classify(&Evidence::of_text(error, false)).class {
        Class::Auth => "The registry wants a login. This asks for one, has it checked, and pushes:",
        Class::Denied => {
            "The registry does not allow it. This says whose login it refused, and asks for another:"
        }
        Class::Rejected => "The registry does not take this image. This says why, and what can be done:",
        Class::Network | Class::Server => {
            "The way to the registry broke, or it is in trouble. This tries again, and says which:"
        }
        Class::RateLimited => "The registry is asked too often. In a minute:",
        Class::Tls => "Engine and registry do not agree on TLS. This says what to set where:",
        Class::NotFound => "No such image in the engine. This names those that may be meant:",
        Class::ContentMissing => "Not all of the image is in the engine. This says what is missing:",
        Class::Engine => {
            "The engine cannot be reached, or could not push. This says why (options of docker go before `regpush`):"
        }
        Class::Other => "This says more, and what can be done:",
        // Its own words say it all; or they are ours.
        Class::Reference | Class::Cancelled | Class::Stalled | Class::Exists | Class::Unverified => {
            return None;
        }
    })
}

/// Why config.json was not changed.
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
    #[error("`{}` is left as it is: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("`plugins.regpush.hooks` in `{}` is `{value}`, which regpush did not write", path.display())]
    Foreign { path: PathBuf, value: String },
}

impl HookError {
    pub fn class(&self) -> Class {
        Class::Other
    }

    /// What to change, if that is known.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Malformed { .. } => "mend that file first; docker cannot read it either",
            Self::Foreign { .. } => "take `plugins.regpush.hooks` out of that file",
            Self::Config(_) | Self::Unwritable { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// Why a text cannot be changed.
#[derive(Debug, PartialEq, Eq)]
pub enum EditError {
    Malformed(String),
    Foreign(String),
}

// What is put into the file, by what is there already. Each differs from the others, so that each can be
// taken out again with not a byte left of it: all are put right behind an opening brace.

/// The whole file.
const NEW_FILE: &str = r#"{"plugins": {"regpush": {"hooks": "push,image push"}}}"#;
const IN_ROOT: &str = "\n\t\"plugins\": {\"regpush\": {\"hooks\": \"push,image push\"}}";
const IN_PLUGINS: &str = "\n\t\t\"regpush\": {\"hooks\": \"push,image push\"}";
const IN_REGPUSH: &str = "\"hooks\": \"push,image push\"";

/// The text with our entry; `None`: it has one. `text`: `None` where there is no file.
pub fn install(text: Option<&str>) -> Result<Option<String>, EditError> {
    let Some(text) = text else { return Ok(Some(format!("{NEW_FILE}\n"))) };
    if text.trim().is_empty() {
        return Ok(Some(format!("{text}{NEW_FILE}")));
    }
    if is_installed(text)? {
        return Ok(None);
    }
    let root = parse(text)?;
    let (object, entry) = match (member(&root, "plugins"), nested(&root, &["plugins", "regpush"])?) {
        (None, _) => (&root, IN_ROOT),
        (Some(_), None) => (nested(&root, &["plugins"])?.expect("it is there"), IN_PLUGINS),
        (Some(_), Some(regpush)) => (regpush, IN_REGPUSH),
    };
    let at = object.range.start + 1;
    let end = if object.properties.is_empty() { "\n" } else { "," };
    Ok(Some([&text[..at], entry, end, &text[at..]].concat()))
}

/// The text without our entry; `None`: it has none. `Some(None)`: without the file.
pub fn remove(text: &str) -> Result<Option<Option<String>>, EditError> {
    if text == format!("{NEW_FILE}\n") {
        return Ok(Some(None));
    }
    if let Some(rest) = text.strip_suffix(NEW_FILE).filter(|rest| rest.trim().is_empty()) {
        return Ok(Some(Some(rest.to_owned())));
    }
    if !is_installed(text)? {
        return Ok(None);
    }
    let root = parse(text)?;
    for (path, entry) in
        [(&[][..], IN_ROOT), (&["plugins"], IN_PLUGINS), (&["plugins", "regpush"], IN_REGPUSH)]
    {
        let at = nested(&root, path)?.expect("hooks were found in it").range.start + 1;
        let rest = text[at..].strip_prefix(entry);
        // The comma, or in an object that was empty the line end, is ours too.
        if let Some(rest) = rest.and_then(|rest| rest.strip_prefix([',', '\n'])) {
            return Ok(Some(Some([&text[..at], rest].concat())));
        }
    }
    // docker has written the file anew meanwhile, in its own layout.
    let range = range_of(&root, &["plugins", "regpush", "hooks"])?.expect("hooks were found");
    Ok(Some(Some([&text[..range.start], &text[range.end..]].concat())))
}

/// Whether our entry is there.
pub fn is_installed(text: &str) -> Result<bool, EditError> {
    if text.trim().is_empty() {
        return Ok(false);
    }
    let root = parse(text)?;
    let Some(regpush) = nested(&root, &["plugins", "regpush"])? else { return Ok(false) };
    match member(regpush, "hooks").map(|hooks| &hooks.value) {
        None => Ok(false),
        Some(Value::StringLit(value)) if value.value == COMMANDS => Ok(true),
        Some(Value::StringLit(value)) => Err(EditError::Foreign(value.value.to_string())),
        Some(_) => Err(EditError::Malformed("`plugins.regpush.hooks` is no string".to_owned())),
    }
}

fn parse(text: &str) -> Result<Object<'_>, EditError> {
    // Strictly JSON, as docker reads it.
    serde_json::from_str::<serde_json::Value>(text)
        .map_err(|error| EditError::Malformed(error.to_string()))?;
    let parsed = parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default());
    match parsed.map(|parsed| parsed.value) {
        Ok(Some(Value::Object(root))) => Ok(root),
        Ok(_) => Err(EditError::Malformed("it is no object".to_owned())),
        Err(error) => Err(EditError::Malformed(error.to_string())),
    }
}

/// A member by its key as docker finds it: its own key of the file in any case, the keys of maps exactly.
fn member<'a, 'b>(object: &'a Object<'b>, key: &str) -> Option<&'a ObjectProp<'b>> {
    position(object, key).map(|at| &object.properties[at])
}

fn position(object: &Object<'_>, key: &str) -> Option<usize> {
    let is_named = |property: &ObjectProp<'_>| match property.name.as_str() {
        name if key == "plugins" => name.eq_ignore_ascii_case(key),
        name => name == key,
    };
    object.properties.iter().position(is_named)
}

/// The object at the end of a path of keys; `None`: a key is not there.
fn nested<'a, 'b>(root: &'a Object<'b>, path: &[&str]) -> Result<Option<&'a Object<'b>>, EditError> {
    let mut object = root;
    for key in path {
        match member(object, key).map(|property| &property.value) {
            None => return Ok(None),
            Some(Value::Object(next)) => object = next,
            Some(_) => return Err(EditError::Malformed(format!("`{key}` is no object"))),
        }
    }
    Ok(Some(object))
}

/// What to cut out for a member to be gone, with one comma, and with the objects that would be left empty.
fn range_of(root: &Object<'_>, path: &[&str]) -> Result<Option<Range<usize>>, EditError> {
    let Some((key, parents)) = path.split_last() else { return Ok(None) };
    let Some(object) = nested(root, parents)? else { return Ok(None) };
    let Some(at) = position(object, key) else { return Ok(None) };
    let own = object.properties[at].range();
    if let Some(next) = object.properties.get(at + 1) {
        return Ok(Some(own.start..next.range.start));
    }
    if let Some(previous) = at.checked_sub(1) {
        return Ok(Some(object.properties[previous].range.end..own.end));
    }
    match range_of(root, parents)? {
        Some(range) => Ok(Some(range)),
        // The root stays, empty.
        None => Ok(Some(object.range.start + 1..object.range.end - 1)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(error: &str) -> String {
        let question =
            json!({"RootCmd": "push", "Flags": {"all-tags": "true"}, "CommandError": error}).to_string();
        let mut out = Vec::new();
        answer(OsStr::new(&question), &mut out).unwrap();
        serde_json::from_slice::<serde_json::Value>(&out).unwrap()["Template"].as_str().unwrap().to_owned()
    }

    #[test]
    fn the_hint_says_why_and_what_helps() {
        let command = "docker regpush --all-tags {{arg . 0}}";
        let table = [
            ("no basic auth credentials", "wants a login"),
            ("denied: requested access to the resource is denied", "wants a login"),
            ("tag does not exist: localhost:5000/x:1", "No such image"),
            ("toomanyrequests: slow down", "asked too often"),
            ("something new", "says more"),
        ];
        for (error, words) in table {
            let hint = asked(error);
            assert!(hint.contains(words) && hint.contains(command), "{error}: {hint}");
            assert!(hint.lines().count() <= 10, "docker shows no more lines");
        }
        let usage = ["'docker push' requires 1 argument", "unknown flag: --nope"];
        for error in ["", "context canceled", "invalid reference format"].into_iter().chain(usage) {
            assert_eq!(asked(error), "", "{error}");
        }
        let platform = r#"{"Flags":{"platform":""},"CommandError":"denied"}"#;
        let mut out = Vec::new();
        answer(OsStr::new(platform), &mut out).unwrap();
        assert_eq!(out, b"{\"Template\":\"\",\"Type\":0}\n", "that push would be another");
        assert_eq!(asked("{{ .Evil }} denied").matches("{{").count(), 1, "only ours");
        let mut out = Vec::new();
        answer(OsStr::new("no JSON"), &mut out).unwrap();
        assert_eq!(out, b"{\"Template\":\"\",\"Type\":0}\n");
    }

    /// Files as they may be found, each of which comes back as it was.
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
    fn what_is_installed_can_be_removed_to_the_byte() {
        for text in FILES {
            let installed = install(Some(text)).unwrap().unwrap();
            assert_eq!(is_installed(&installed), Ok(true), "{text:?}");
            assert_eq!(install(Some(&installed)), Ok(None), "{text:?}: twice");
            assert_eq!(remove(&installed), Ok(Some(Some(text.to_owned()))), "{text:?}: {installed}");
            assert_eq!(remove(text), Ok(None), "{text:?}");
        }
        let created = install(None).unwrap().unwrap();
        assert_eq!(remove(&created), Ok(Some(None)));
    }

    /// docker writes the file anew with each login: other layout, keys in its own order.
    #[test]
    fn it_is_found_in_dockers_layout_too() {
        let table = [
            ("{\"plugins\":{\"regpush\":{\"hooks\":\"push,image push\"}}}", "{}"),
            ("{\n\t\"plugins\": {\"regpush\": {\"hooks\": \"push,image push\"}}}", "{}"),
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
            assert_eq!(remove(text), Ok(Some(Some(want.to_owned()))), "{text}");
        }
    }

    #[test]
    fn what_is_not_ours_or_not_understood_is_left_alone() {
        for text in ["{", "[]", "{} trailing", "{'a':1}", "{\"a\":1,}", "// x\n{}", "{\"plugins\":[]}"] {
            assert!(matches!(install(Some(text)), Err(EditError::Malformed(_))), "{text}");
        }
        let foreign = r#"{"plugins":{"regpush":{"hooks":"build"}}}"#;
        assert_eq!(install(Some(foreign)), Err(EditError::Foreign("build".to_owned())));
        assert_eq!(remove(foreign), Err(EditError::Foreign("build".to_owned())));
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
        fn any_config_comes_back_as_it_was(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            if let Ok(Some(installed)) = install(Some(&text)) {
                prop_assert_eq!(remove(&installed), Ok(Some(Some(text))));
            }
        }
    }
}
