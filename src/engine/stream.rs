//! Decodes the stream that an engine sends in response to a push.
//!
//! The stream is a sequence of JSON objects. Engines end each object with CRLF or LF, but proxies split the
//! stream at any byte, so a read may end inside an object.
//!
//! Source: moby `api/types/jsonstream` and `auxprogress`, and `daemon/containerd/progress.go`.

use memchr::{memchr2, memchr3};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{Event, LayerState, Narrowed};
use crate::oci::{Descriptor, is_digest};
use crate::platform::Platform;
use crate::secret::Redactor;
use crate::text::{is_harmless, sanitize};

/// One JSON object of the stream. Unknown fields are ignored, and numbers out of range are clamped.
#[derive(Deserialize)]
struct Message {
    status: Option<String>,
    id: Option<String>,
    #[serde(rename = "progressDetail")]
    progress: Option<Progress>,
    #[serde(rename = "errorDetail")]
    error_detail: Option<ErrorDetail>,
    /// The older form of `errorDetail.message`; some engines send only this field.
    error: Option<String>,
    /// The raw JSON of `aux`, because the format of `aux` differs between engines. [`from_aux`] ignores a
    /// value that it cannot parse.
    aux: Option<Box<RawValue>>,
}

/// The fields that the plugin reads from [`Message::aux`], such as the digest of the pushed manifest.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Aux {
    #[serde(rename = "contentMissing")]
    content_missing: bool,
    #[serde(rename = "manifestPushedInsteadOfIndex")]
    platform_instead_of_index: bool,
    #[serde(rename = "originalIndex")]
    index: Option<Box<RawValue>>,
    #[serde(rename = "selectedManifest")]
    manifest: Option<Box<RawValue>>,
    #[serde(rename = "Tag")]
    tag: Option<String>,
    #[serde(rename = "Digest")]
    digest: Option<String>,
    #[serde(rename = "Size")]
    size: Option<f64>,
}

/// The progress of a layer in bytes. `f64` accepts any JSON number, and `as u64` clamps numbers out of range.
#[derive(Clone, Copy, Default, Deserialize)]
struct Progress {
    current: Option<f64>,
    total: Option<f64>,
}

impl Progress {
    fn current(self) -> u64 {
        self.current.unwrap_or_default() as u64
    }

    fn total(self) -> u64 {
        self.total.unwrap_or_default() as u64
    }
}

#[derive(Deserialize)]
struct ErrorDetail {
    #[serde(default)]
    message: String,
}

impl Message {
    /// Reports the events of this object. One object can contain two events, because podman sends `aux` and
    /// `status` together.
    fn report(self, on_event: &mut impl FnMut(Event)) {
        if let Some(event) = self.aux.as_deref().and_then(from_aux) {
            on_event(event);
        }
        let detail = self.error_detail.map(|detail| detail.message).filter(|text| !text.is_empty());
        if let Some(message) = detail.or(self.error) {
            on_event(Event::Refused { message });
        } else if let Some(status) = self.status {
            on_event(match self.id.filter(|id| !id.is_empty()) {
                Some(id) => {
                    let state = layer_state(&status, self.progress.unwrap_or_default());
                    Event::Layer { id: short(&id, MAX_ID), state }
                }
                None => from_digest_line(&status).unwrap_or_else(|| Event::Note { text: sanitize(&status) }),
            });
        }
    }
}

/// Converts the status of a layer in the stream to a [`LayerState`].
fn layer_state(status: &str, progress: Progress) -> LayerState {
    if let Some(from) = status.strip_prefix("Mounted from ") {
        return LayerState::MountedFrom(short(from, MAX_STATE));
    }
    let seconds = status.strip_prefix("Retrying in ").and_then(|s| s.split(' ').next()?.parse().ok());
    if let Some(seconds) = seconds {
        return LayerState::Retrying { seconds };
    }
    match status {
        "Preparing" => LayerState::Preparing,
        "Waiting" => LayerState::Waiting,
        "Pushing" => LayerState::Pushing { current: progress.current(), total: progress.total() },
        "Pushed" => LayerState::Pushed,
        // docker's classic store sends the first message, and the containerd store sends the second.
        "Layer already exists" | "Already exists" => LayerState::AlreadyExists,
        // moby `distribution/push_v2.go`
        "Skipped foreign layer" => LayerState::SkippedForeign,
        other => LayerState::Other(short(other, MAX_STATE)),
    }
}

/// Sanitizes a string and cuts the result to `most` bytes.
fn short(text: &str, most: usize) -> String {
    let mut text = sanitize(text);
    while text.len() > most {
        text.pop();
    }
    text.shrink_to_fit();
    text
}

/// Parses a status such as `1: digest: sha256:… size: 528`. Error messages are not parsed, because an error
/// message may imitate this format.
fn from_digest_line(status: &str) -> Option<Event> {
    let (tag, rest) = status.split_once(": digest: ")?;
    let (digest, size) = rest.split_once(" size: ")?;
    let size = size.trim().parse().ok()?;
    pushed(tag, digest, size)
}

fn from_aux(aux: &RawValue) -> Option<Event> {
    let aux: Aux = serde_json::from_slice(aux.get().as_bytes()).ok()?;
    if aux.content_missing {
        return Some(Event::ContentMissing);
    }
    if aux.platform_instead_of_index {
        let (index, manifest) = (descriptor(aux.index), descriptor(aux.manifest));
        let platform = manifest.platform.map(|platform| Platform { os_version: None, ..*platform });
        return Some(Event::PlatformInsteadOfIndex(Narrowed {
            platform: platform.map(|platform| short(&platform.to_string(), MAX_ID)),
            digest: short(&manifest.digest, MAX_STATE),
            index: short(&index.digest, MAX_STATE),
        }));
    }
    pushed(&aux.tag?, &aux.digest?, aux.size.unwrap_or_default() as u64)
}

/// Parses a descriptor. Returns an empty descriptor if parsing fails, because the descriptor only adds
/// details to [`Event::PlatformInsteadOfIndex`].
fn descriptor(json: Option<Box<RawValue>>) -> Descriptor {
    json.and_then(|json| serde_json::from_slice(json.get().as_bytes()).ok()).unwrap_or_default()
}

fn pushed(tag: &str, digest: &str, size: u64) -> Option<Event> {
    is_digest(digest).then(|| Event::Pushed { tag: sanitize(tag), digest: digest.to_owned(), size })
}

/// The reason why bytes cannot be decoded as a push stream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the engine's answer is not JSON: `{start}`")]
    NotJson { start: String },
    #[error("cannot parse an object from the engine ({reason}): `{start}`")]
    Malformed { start: String, reason: String },
    #[error("the engine sent an object of more than {} MB", MAX_OBJECT / 1_000_000)]
    TooLong,
    #[error("the engine's answer ends in the middle of an object: `{start}`")]
    Truncated { start: String },
}

impl DecodeError {
    /// Returns the error for bytes that are not JSON. The error quotes the first bytes.
    pub fn not_json(bytes: &[u8], redactor: &Redactor) -> Self {
        Self::NotJson { start: excerpt(bytes, redactor) }
    }
}

/// Maximum size in bytes of one JSON object in the stream. An object that reports an error may quote a
/// proxy's HTML page of 200 kB twice (`errorDetail` and `error`), with each `<` escaped as six bytes. Parsing
/// an object takes a multiple of the object's size in memory.
const MAX_OBJECT: usize = 4_000_000;

/// Maximum length in bytes of a layer's ID; longer IDs are cut. Normal IDs have 12 bytes.
const MAX_ID: usize = 64;

/// Maximum length in bytes of a layer's state; longer states are cut. The longest normal state is
/// `Mounted from` with a repository.
const MAX_STATE: usize = 300;

/// Splits the bytes of a stream into JSON objects, and converts each object to events.
///
/// The decoder buffers at most one unfinished object, so memory use does not grow with the stream.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The first bytes of an object whose last byte has not arrived yet.
    unfinished: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Redacts secrets in the events that the decoder reports.
    redactor: Redactor,
    wants_objects: bool,
}

impl Decoder {
    pub fn new(redactor: Redactor) -> Self {
        Self { redactor, ..Self::default() }
    }

    /// Sets whether the decoder also reports each JSON object itself, before the events in the object.
    #[must_use]
    pub fn with_objects(self, wants_objects: bool) -> Self {
        Self { wants_objects, ..self }
    }

    /// Decodes the next bytes of the stream. Reports the events of each object that these bytes complete.
    ///
    /// # Errors
    /// The bytes are not a valid push stream. After an error, the rest of the stream cannot be decoded.
    pub fn decode(&mut self, bytes: &[u8], mut on_event: impl FnMut(Event)) -> Result<(), DecodeError> {
        let (mut start, mut at) = (0, 0);
        while at < bytes.len() {
            if self.depth == 0 {
                match bytes[at] {
                    b'{' => (self.depth, start) = (1, at),
                    byte if byte.is_ascii_whitespace() => {}
                    _ => return Err(DecodeError::not_json(&bytes[at..], &self.redactor)),
                }
                at += 1;
                continue;
            }
            at += self.skip(&bytes[at..]);
            if self.depth == 0 {
                let object = &bytes[start..at];
                if self.unfinished.is_empty() {
                    self.report(object, &mut on_event)?;
                } else {
                    self.unfinished.extend_from_slice(object);
                    self.report(&self.unfinished, &mut on_event)?;
                    self.unfinished.clear();
                }
            }
        }
        if self.depth > 0 {
            self.unfinished.extend_from_slice(&bytes[start..]);
        }
        if self.unfinished.len() > MAX_OBJECT {
            return Err(DecodeError::TooLong);
        }
        Ok(())
    }

    /// Checks that the stream does not end inside an object.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if the stream ends inside an object.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.depth == 0 {
            Ok(())
        } else {
            Err(DecodeError::Truncated { start: excerpt(&self.unfinished, &self.redactor) })
        }
    }

    fn report(&self, object: &[u8], on_event: &mut impl FnMut(Event)) -> Result<(), DecodeError> {
        let mut on_event = |event: Event| on_event(event.map_text(|text| self.redactor.redact(text)));
        match serde_json::from_slice::<Message>(object) {
            Ok(message) => {
                if self.wants_objects {
                    on_event(Event::Object { line: in_one_line(object) });
                }
                message.report(&mut on_event);
                Ok(())
            }
            Err(error) => {
                // The error message of serde quotes values of the object, which may be secret.
                let reason = sanitize(&self.redactor.redact(error.to_string()));
                Err(DecodeError::Malformed { start: excerpt(object, &self.redactor), reason })
            }
        }
    }

    /// Moves past the next quote, backslash or brace, and returns the number of bytes passed. Only a brace
    /// outside strings can end an object.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        if self.escaped {
            self.escaped = false;
            return 1;
        }
        let next =
            if self.in_string { memchr2(b'"', b'\\', bytes) } else { memchr3(b'"', b'{', b'}', bytes) };
        let Some(next) = next else { return bytes.len() };
        match bytes[next] {
            b'"' => self.in_string = !self.in_string,
            b'{' => self.depth += 1,
            b'}' => self.depth -= 1,
            _ => self.escaped = true,
        }
        next + 1
    }
}

/// Returns a JSON object on one line: line ends and tabs between tokens become spaces. Characters that can
/// control a terminal become `\u` escapes, which JSON allows in strings (RFC 8259, 7).
fn in_one_line(object: &[u8]) -> String {
    let mut line = String::with_capacity(object.len());
    for c in String::from_utf8_lossy(object).chars() {
        match c {
            '\r' | '\n' | '\t' => line.push(' '),
            c if is_harmless(c) => line.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| line += &format!("\\u{unit:04x}")),
        }
    }
    line
}

/// Returns the first 80 characters of unexpected bytes for an error message, redacted and sanitized.
fn excerpt(bytes: &[u8], redactor: &Redactor) -> String {
    const MAX: usize = 80;
    // Redact more bytes than the excerpt shows, because the redactor cannot find a secret that is cut off.
    let start = &bytes[..bytes.len().min(100 * MAX)];
    let text = sanitize(&redactor.redact(String::from_utf8_lossy(start).into_owned()));
    if text.chars().count() <= MAX { text } else { text.chars().take(MAX).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn narrowed(platform: Option<&str>, digest: &str, index: &str) -> Event {
        let platform = platform.map(str::to_owned);
        let (digest, index) = (digest.to_owned(), index.to_owned());
        Event::PlatformInsteadOfIndex(Narrowed { platform, digest, index })
    }

    fn decode_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Event>, DecodeError> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for piece in pieces {
            decoder.decode(piece, |event| events.push(event))?;
        }
        decoder.finish().map(|()| events)
    }

    fn decode(text: &str) -> Result<Vec<Event>, DecodeError> {
        decode_all([text.as_bytes()])
    }

    fn layer(id: &str, state: LayerState) -> Event {
        Event::Layer { id: id.to_owned(), state }
    }

    #[test]
    fn decodes_each_kind_of_message() {
        let pushed = Event::Pushed { tag: "1".to_owned(), digest: DIGEST.to_owned(), size: 528 };
        let digest_line = format!(r#"{{"status":"1: digest: {DIGEST} size: 528"}}"#);
        let aux = format!(r#"{{"progressDetail":{{}},"aux":{{"Tag":"1","Digest":"{DIGEST}","Size":528}}}}"#);
        let table = [
            (
                r#"{"status":"The push refers to repository [localhost:5001/app]"}"#,
                Event::Note { text: "The push refers to repository [localhost:5001/app]".to_owned() },
            ),
            (
                r#"{"status":"Preparing","progressDetail":{},"id":"91efb8fa70ba"}"#,
                layer("91efb8fa70ba", LayerState::Preparing),
            ),
            (
                r#"{"status":"Pushing","progressDetail":{"current":2753536,"total":20971520},"progress":"[==> ]","id":"a"}"#,
                layer("a", LayerState::Pushing { current: 2_753_536, total: 20_971_520 }),
            ),
            (r#"{"status":"Pushing","id":"a"}"#, layer("a", LayerState::Pushing { current: 0, total: 0 })),
            (
                r#"{"status":"Layer already exists","progressDetail":{},"id":"a"}"#,
                layer("a", LayerState::AlreadyExists),
            ),
            (
                r#"{"status":"Already exists","progressDetail":{},"id":"a"}"#,
                layer("a", LayerState::AlreadyExists),
            ),
            (
                r#"{"status":"Mounted from t/other","id":"a"}"#,
                layer("a", LayerState::MountedFrom("t/other".to_owned())),
            ),
            (
                r#"{"status":"Retrying in 14 seconds","id":"a"}"#,
                layer("a", LayerState::Retrying { seconds: 14 }),
            ),
            (
                r#"{"status":"Skipped foreign layer","progressDetail":{},"id":"a"}"#,
                layer("a", LayerState::SkippedForeign),
            ),
            (
                r#"{"status":"Un\u001b[2Javailable","id":"\u001b]a"}"#,
                layer("]a", LayerState::Other("Un[2Javailable".to_owned())),
            ),
            (&digest_line, pushed.clone()),
            (&aux, pushed),
            (r#"{"aux":{"contentMissing":true,"desc":{}}}"#, Event::ContentMissing),
            (
                r#"{"aux":{"manifestPushedInsteadOfIndex":true,"originalIndex":{"digest":"i"},"selectedManifest":{"digest":"m","platform":{"os":"linux","architecture":"arm","variant":"v6"}}}}"#,
                narrowed(Some("linux/arm/v6"), "m", "i"),
            ),
            (r#"{"aux":{"manifestPushedInsteadOfIndex":true}}"#, narrowed(None, "", "")),
            (
                r#"{"aux":{"manifestPushedInsteadOfIndex":true,"originalIndex":{"size":"odd"},"selectedManifest":{"digest":"m","size":"odd","platform":{"os":"windows","os.version":"10.0","architecture":"amd64"}}}}"#,
                narrowed(Some("windows/amd64"), "m", ""),
            ),
            (
                r#"{"errorDetail":{"code":401,"message":"no basic auth credentials"},"error":"no basic auth credentials"}"#,
                Event::Refused { message: "no basic auth credentials".to_owned() },
            ),
            (r#"{"error":"x"}"#, Event::Refused { message: "x".to_owned() }),
            (r#"{"errorDetail":{},"error":"x"}"#, Event::Refused { message: "x".to_owned() }),
        ];
        for (line, want) in table {
            assert_eq!(decode(line), Ok(vec![want]), "{line}");
        }
    }

    #[test]
    fn accepts_a_digest_only_in_its_own_status() {
        let faked = [
            format!(r#"{{"errorDetail":{{"message":"1: digest: {DIGEST} size: 528"}}}}"#),
            format!(r#"{{"status":"1: digest: {DIGEST} size: 528","id":"a"}}"#),
            r#"{"status":"1: digest: sha256:short size: 528"}"#.to_owned(),
            format!(r#"{{"status":"1: digest: {DIGEST} size: many"}}"#),
        ];
        for line in faked {
            let events = decode(&line).unwrap();
            assert!(!events.iter().any(|event| matches!(event, Event::Pushed { .. })), "{line}");
        }
    }

    #[test]
    fn decodes_one_podman_object_as_two_events() {
        let line = format!(
            r#"{{"status":"1: digest: {DIGEST} size: 5","aux":{{"Tag":"1","Digest":"{DIGEST}","Size":5}}}}"#
        );
        assert_eq!(decode(&line).unwrap().len(), 2);
    }

    #[test]
    fn clamps_numbers_out_of_range() {
        let table = [("-5", 0), ("9223372036854775808", 1 << 63), ("1e300", u64::MAX), ("null", 0)];
        for (number, want) in table {
            let line = format!(r#"{{"status":"Pushing","progressDetail":{{"current":{number}}},"id":"a"}}"#);
            assert_eq!(decode(&line), Ok(vec![layer("a", LayerState::Pushing { current: want, total: 0 })]));
        }
    }

    #[test]
    fn reports_malformed_and_truncated_streams() {
        let excerpt = |text: &str| text.to_owned();
        let table = [
            ("<html>\r\n<b>no", DecodeError::NotJson { start: excerpt("<html> <b>no") }),
            ("{\"status\":\"x\"}\r\n<html>", DecodeError::NotJson { start: excerpt("<html>") }),
            ("[1]", DecodeError::NotJson { start: excerpt("[1]") }),
            ("}", DecodeError::NotJson { start: excerpt("}") }),
            (r#"{"status":"x"#, DecodeError::Truncated { start: excerpt(r#"{"status":"x"#) }),
            (r#"{"a":{}"#, DecodeError::Truncated { start: excerpt(r#"{"a":{}"#) }),
        ];
        for (text, want) in table {
            assert_eq!(decode(text), Err(want), "{text}");
        }
        assert!(matches!(decode("{oops}"), Err(DecodeError::Malformed { .. })));
        assert!(matches!(decode(r#"{"status":5}"#), Err(DecodeError::Malformed { .. })));
    }

    #[test]
    fn gives_up_on_an_endless_object() {
        let mut decoder = Decoder::default();
        let piece = vec![b'x'; 1 << 20];
        decoder.decode(br#"{"status":""#, |_| {}).unwrap();
        let result = (0..100).try_for_each(|_| decoder.decode(&piece, |_| {}));
        assert_eq!(result, Err(DecodeError::TooLong));
        assert!(decoder.unfinished.len() <= MAX_OBJECT + piece.len());
    }

    proptest! {
        #[test]
        fn decodes_the_same_events_from_any_chunks(
            texts in proptest::collection::vec("[a-z{}\\\\\"\u{e4} \n]{0,12}", 1..8),
            joint in prop_oneof![Just(""), Just("\n"), Just("\r\n")],
            size in 1_usize..9,
        ) {
            let lines: Vec<String> =
                texts.iter().map(|text| serde_json::json!({"status": text, "id": "a"}).to_string()).collect();
            let stream = lines.join(joint);
            let whole = decode(&stream).unwrap();
            prop_assert_eq!(whole.len(), texts.len());
            prop_assert_eq!(decode_all(stream.as_bytes().chunks(size)).unwrap(), whole);
        }
    }
}
