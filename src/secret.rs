//! Holds passwords and tokens in clear text, and redacts them in messages.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::text::sanitize;

/// A value that must not appear in a log, an error message, the arguments of another process, or `{:?}`
/// output.
///
/// Only [`expose`](Self::expose) returns the clear text, so a search for `expose` finds every use. `Secret`
/// does not implement `Display`, `Deref` or `Serialize`. Dropping a secret overwrites its memory.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(clear: String) -> Self {
        Self(Zeroizing::new(clear))
    }

    /// Returns the clear text. The caller must not keep a copy longer than necessary.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Redacts secrets in messages, because errors from engines, registries and helpers may quote secrets that
/// the plugin sent.
#[derive(Clone, Debug, Default)]
pub struct Redactor(Vec<Secret>);

impl Redactor {
    /// The length of the shortest secret to redact, in bytes. Redacting shorter secrets would garble messages
    /// and protect nothing.
    const SHORTEST: usize = 4;

    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut redactor = Self::default();
        secrets.into_iter().for_each(|secret| redactor.add(&secret));
        redactor
    }

    pub fn add(&mut self, secret: &Secret) {
        let forms = forms(secret).into_iter();
        self.0.extend(forms.filter(|secret| secret.expose().len() >= Self::SHORTEST));
        // Sort the longest secret first, since a secret may contain a shorter secret.
        self.0.sort_by(|a, b| {
            let (a, b) = (a.expose(), b.expose());
            b.len().cmp(&a.len()).then_with(|| a.cmp(b))
        });
        // Remove duplicates, because `redact` searches each message for every encoding. Most secrets look the
        // same in several encodings.
        self.0.dedup_by(|a, b| a.expose() == b.expose());
    }

    /// Replaces each secret in the text with `***`.
    pub fn redact(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| {
            if text.contains(secret.expose()) { text.replace(secret.expose(), "***") } else { text }
        })
    }
}

/// Returns all encodings in which a message may contain a secret: clear, sanitized, JSON, ASCII-only JSON,
/// URL and HTML form.
fn forms(secret: &Secret) -> [Secret; 6] {
    /// The characters that must be percent-encoded in a URL (RFC 3986, 2.3).
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let clear = secret.expose();
    let json = serde_json::to_string(clear).expect("a string becomes JSON");
    let json = json[1..json.len() - 1].to_owned();
    // Some programs write JSON in which all characters except ASCII are escaped.
    let escaped = |unit: u16| match u8::try_from(unit) {
        Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    };
    let ascii = json.encode_utf16().map(escaped).collect::<String>();
    let url = utf8_percent_encode(clear, RESERVED).to_string();
    let form = url.replace("%20", "+");
    [clear.to_owned(), sanitize(clear), json, ascii, url, form].map(Secret::new)
}

/// On Unix, prevents core dumps of this process, which would contain secrets. On Linux, programs that the
/// plugin starts can still dump core.
pub fn forbid_core_dumps() {
    // Ignore an error, because the plugin also works without protection against core dumps.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    #[cfg(all(unix, not(target_os = "linux")))]
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let secret = secret("hunter2");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(Secret(..))");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn redacts_secrets_in_each_encoding() {
        let redactor = Redactor::new(
            ["hunter2", "aHVudGVyMg==", "hunter2 and more", "my-pass!", "Hünter😀", "qu\"ote", "abc"]
                .map(secret),
        );
        let table = [
            ("wrong password hunter2: hunter2", "wrong password ***: ***"),
            ("got `hunter2 and more`", "got `***`"),
            ("Basic aHVudGVyMg==", "Basic ***"),
            ("aHVudGVyMg%3D%3D", "***"),
            ("?password=hunter2+and+more&x=my-pass%21", "?password=***&x=***"),
            (r#"{"password":"qu\"ote"}"#, r#"{"password":"***"}"#),
            (r"got H\u00fcnter\ud83d\ude00", "got ***"),
            ("abc", "abc"),
            ("nothing of it", "nothing of it"),
        ];
        for (text, want) in table {
            assert_eq!(redactor.redact(text.to_owned()), want);
        }
    }
}
