//! The events of a push, as reported by the engine or by the relay.

use std::fmt;

/// An event from the engine's stream, or from the relay. All strings are [sanitized](crate::text::sanitize), except in
/// [`Event::Refused`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The state of a layer. `id`: 12 hex digits of the layer's diff ID or digest, or of the relay's upload if the digest is
    /// not known.
    Layer { id: String, state: LayerState },
    /// The registry accepted the manifest (status line `TAG: digest: … size: …`). `size`: the size of the manifest in
    /// bytes.
    Pushed { tag: String, digest: String, size: u64 },
    /// The engine does not have all platforms of the image, and pushed the manifest of one platform under the image's
    /// tag.
    PlatformInsteadOfIndex(Narrowed),
    /// The engine's store lacks blobs of the image. The engine reports an error next.
    ContentMissing,
    /// The push failed. `message`: the engine's raw error message, which [`crate::failure`] classifies.
    Refused { message: String },
    /// A status line of the engine that no other variant describes.
    Note { text: String },
    /// A JSON object of the engine's stream, reported before the events decoded from this object. Reported only if
    /// [requested](crate::engine::stream::Decoder::with_objects). `line`: the object on one line, safe to print on a
    /// terminal.
    Object { line: String },
}

/// The manifest of one platform that an engine pushed instead of the image's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowed {
    /// The platform, for example `linux/amd64`. `None`: the engine did not report the platform.
    pub platform: Option<String>,
    /// The digest of the pushed manifest, which the tag in the registry now names.
    pub digest: String,
    /// The digest of the image's index, which the tag in the registry does not name.
    pub index: String,
}

impl Event {
    /// Applies a function to the strings of an event, except to tags and digests.
    pub fn map_text(self, change: impl Fn(String) -> String) -> Self {
        match self {
            Self::Layer { id, state } => {
                let state = match state {
                    LayerState::MountedFrom(text) => LayerState::MountedFrom(change(text)),
                    LayerState::Other(text) => LayerState::Other(change(text)),
                    state => state,
                };
                Self::Layer { id: change(id), state }
            }
            Self::Refused { message } => Self::Refused { message: change(message) },
            Self::Note { text } => Self::Note { text: change(text) },
            // Tags and digests remain unchanged, since the plugin compares them with other tags and digests.
            event @ (Self::Pushed { .. } | Self::PlatformInsteadOfIndex(_) | Self::ContentMissing) => event,
            Self::Object { line } => Self::Object { line: change(line) },
        }
    }
}

/// The state of one layer. Sizes are in bytes. The classic store reports sizes of the uncompressed layer, and the
/// containerd store reports sizes of the blob. `current` may exceed `total`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerState {
    Preparing,
    Waiting,
    Pushing {
        current: u64,
        total: u64,
    },
    Pushed,
    AlreadyExists,
    MountedFrom(String),
    /// The engine itself, or the relay, retries the layer after a wait.
    Retrying {
        seconds: u64,
    },
    /// The engine does not push the layer, which other servers host: a layer of Windows.
    SkippedForeign,
    /// A status that the plugin does not recognize, shown unchanged. The engine's statuses are not a documented API.
    Other(String),
}

impl LayerState {
    /// Returns whether the engine does no more for the layer.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Pushed | Self::AlreadyExists | Self::MountedFrom(_) | Self::SkippedForeign)
    }
}

impl fmt::Display for LayerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparing => f.write_str("Preparing"),
            Self::Waiting => f.write_str("Waiting"),
            Self::Pushing { .. } => f.write_str("Pushing"),
            Self::Pushed => f.write_str("Pushed"),
            Self::AlreadyExists => f.write_str("Layer already exists"),
            Self::MountedFrom(repository) => write!(f, "Mounted from {repository}"),
            Self::Retrying { seconds } => write!(f, "Retrying in {seconds} seconds"),
            Self::SkippedForeign => f.write_str("Skipped foreign layer"),
            Self::Other(status) => f.write_str(status),
        }
    }
}
