//! Shows progress for programs: prints one JSON object per line. `docs/events.schema.json` describes the format. The
//! format is public: fields may be added, but never renamed.

use std::io::Write;
use std::time::SystemTime;

use humantime::format_rfc3339_millis;
use serde::Serialize;

use crate::event::{Event, LayerState};
use crate::palette::Palette;
use crate::present::board::is_said_again;
use crate::present::lines::Lines;
use crate::present::presenter::{Level, Presenter, Update};
use crate::progress::Progress;

#[derive(Serialize)]
struct Line<'a> {
    /// Time of the event in the format of RFC 3339, in UTC.
    time: String,
    /// The canonical reference of the image that the event concerns; omitted if the event concerns all images.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    /// The canonical reference under which the registry gets the image: the same as `reference`.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(flatten)]
    event: JsonEvent<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum JsonEvent<'a> {
    /// `route`: the route of the upload, `engine`, or `relay` if the plugin uploads the image.
    Start {
        route: &'a str,
    },
    /// The state of a layer. `current` and `total` are the sent bytes and all bytes of the layer, as reported by the
    /// engine. `total` is `null` if the engine has not reported the size.
    Layer {
        id: &'a str,
        state: &'static str,
        text: Option<String>,
        current: u64,
        total: Option<u64>,
    },
    Attempt {
        number: u32,
        of: u32,
        reason: &'a str,
        wait_seconds: f64,
    },
    Note {
        level: &'static str,
        message: &'a str,
    },
}

pub struct Json<W> {
    lines: Lines<W>,
    /// The canonical reference of each image, and the progress of the push of that image.
    images: Vec<(String, Progress)>,
}

impl<W: Write> Json<W> {
    /// * `names`: the canonical references of the images.
    pub fn new(out: W, names: Vec<String>) -> Self {
        let images = names.into_iter().map(|name| (name, Progress::default())).collect();
        Self { lines: Lines::new(out, Palette::default()), images }
    }

    /// Returns the writer to which this presenter prints.
    pub fn into_inner(self) -> W {
        self.lines.out
    }

    fn line(&self, at: Option<usize>, event: JsonEvent<'_>) -> Option<String> {
        let reference = at.and_then(|at| Some(self.images.get(at)?.0.as_str()));
        serde_json::to_string(&Line { time: now(), reference, destination: reference, event }).ok()
    }

    fn tell(&mut self, at: usize, event: JsonEvent<'_>) {
        if let Some(line) = self.line(Some(at), event) {
            self.lines.line(&line);
        }
    }

    fn event(&mut self, at: usize, event: &Event) {
        let Some((_, progress)) = self.images.get_mut(at) else { return };
        let is_old = is_said_again(progress, event);
        let has_changed = progress.apply(event);
        match event {
            Event::Layer { id, state } if has_changed => {
                let Some(layer) = progress.layer(id) else { return };
                let (current, total) = (layer.current, Some(layer.total).filter(|total| *total > 0));
                let (state, text) = (name(state), text(state));
                self.tell(at, JsonEvent::Layer { id, state, text, current, total });
            }
            Event::Note { text } => self.tell(at, JsonEvent::Note { level: "engine", message: text }),
            Event::Pushed { tag, digest, size } if !is_old => {
                let message = format!("{tag}: digest: {digest} size: {size}");
                self.tell(at, JsonEvent::Note { level: "engine", message: &message });
            }
            // All other events repeat an earlier event, or are reported with the result of the push.
            _ => {}
        }
    }
}

impl<W: Write> Presenter for Json<W> {
    fn show(&mut self, at: usize, update: &Update<'_>) {
        match update {
            Update::Start { route, .. } => self.tell(at, JsonEvent::Start { route }),
            Update::Shared(_) => {}
            Update::Push => {
                if let Some((_, progress)) = self.images.get_mut(at) {
                    *progress = Progress::default();
                }
            }
            Update::Event(event) => self.event(at, event),
            Update::Wait(next, reason) => {
                let wait_seconds = (next.wait.as_secs_f64() * 1000.0).round() / 1000.0;
                let (number, of) = (next.number, next.of);
                self.tell(at, JsonEvent::Attempt { number, of, reason, wait_seconds });
            }
            // Prints the fields `time` and `event`, followed by the fields of the result.
            Update::Finished(ending) => {
                if let Some((_, progress)) = self.images.get_mut(at) {
                    *progress = Progress::default();
                }
                let fields = ending.json.strip_prefix('{').unwrap_or_default();
                self.lines.line(&format!(r#"{{"time":"{}","event":"result",{fields}"#, now()));
            }
        }
    }

    fn say(&mut self, at: Option<usize>, level: Level, message: &str) {
        let word = match level {
            Level::Note => "note",
            Level::Notice | Level::Asking => "notice",
            Level::Warning => "warning",
        };
        match self.line(at, JsonEvent::Note { level: word, message }) {
            Some(line) if level == Level::Asking => self.lines.line_now(&line),
            Some(line) => self.lines.line(&line),
            None => {}
        }
    }

    fn hold(&mut self, is_asking: bool) {
        self.lines.hold(is_asking);
    }
}

fn now() -> String {
    format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Returns the word for the state of a layer in the JSON output.
fn name(state: &LayerState) -> &'static str {
    match state {
        LayerState::Preparing => "preparing",
        LayerState::Waiting => "waiting",
        LayerState::Pushing { .. } => "pushing",
        LayerState::Pushed => "pushed",
        LayerState::AlreadyExists => "exists",
        LayerState::MountedFrom(_) => "mounted",
        LayerState::Retrying { .. } => "retrying",
        LayerState::SkippedForeign | LayerState::Other(_) => "other",
    }
}

/// Returns a message with the details of a layer's state; `None` if the state has no details.
fn text(state: &LayerState) -> Option<String> {
    match state {
        LayerState::MountedFrom(_)
        | LayerState::Retrying { .. }
        | LayerState::SkippedForeign
        | LayerState::Other(_) => Some(state.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::present::presenter::Ending;
    use crate::retry::NextAttempt;

    #[test]
    fn prints_each_event_as_one_object() {
        let layer = |state| Event::Layer { id: "aaa".to_owned(), state };
        let mut json = Json::new(Vec::new(), vec!["docker.io/library/app:1".to_owned()]);
        let next = NextAttempt { number: 2, of: 6, wait: Duration::from_millis(1400) };
        let events = [
            layer(LayerState::Waiting),
            layer(LayerState::Waiting),
            layer(LayerState::Pushing { current: 5, total: 9 }),
            layer(LayerState::Retrying { seconds: 5 }),
            layer(LayerState::Pushed),
            Event::Pushed { tag: "1".to_owned(), digest: "sha256:00".to_owned(), size: 5 },
            Event::Pushed { tag: "1".to_owned(), digest: "sha256:00".to_owned(), size: 5 },
        ];
        json.show(0, &Update::Start { is_dry_run: false, route: "engine" });
        for event in &events {
            json.show(0, &Update::Event(event));
        }
        json.show(0, &Update::Wait(&next, "broken pipe"));
        json.say(None, Level::Warning, "odd");
        json.show(
            0,
            &Update::Finished(Ending { is_failure: false, text: "", json: r#"{"status":"pushed"}"# }),
        );
        let shown = String::from_utf8(json.lines.out).unwrap();
        // Removes the time at the start of each line.
        let shown: Vec<&str> =
            shown.lines().map(|line| &line[r#"{"time":"2026-11-22T10:11:12.345Z","#.len()..]).collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        "reference":"docker.io/library/app:1","destination":"docker.io/library/app:1","event":"start","route":"engine"}
        "reference":"docker.io/library/app:1","destination":"docker.io/library/app:1","event":"layer","id":"aaa","state":"waiting","text":null,"current":0,"total":null}
        "reference":"docker.io/library/app:1","destination":"docker.io/library/app:1","event":"layer","id":"aaa","state":"pushing","text":null,"current":5,"total":9}
        "reference":"docker.io/library/app:1","destination":"docker.io/library/app:1","event":"layer","id":"aaa","state":"retrying","text":"Retrying in 5 seconds","current":0,"total":9}
        "reference":"docker.io/library/app:1","destination":"docker.io/library/app:1","event":"layer","id":"aaa","state":"pushed","text":null,"current":9,"total":9}
        "reference":"docker.io/library/app:1","destination":"docker.io/library/app:1","event":"note","level":"engine","message":"1: digest: sha256:00 size: 5"}
        "reference":"docker.io/library/app:1","destination":"docker.io/library/app:1","event":"attempt","number":2,"of":6,"reason":"broken pipe","wait_seconds":1.4}
        "event":"note","level":"warning","message":"odd"}
        "event":"result","status":"pushed"}
        "#);
    }
}
