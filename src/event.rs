//! The events of a push.

use std::fmt;

/// An event from the engine's stream. All text is [sanitized](crate::text::sanitize), except in [`Event::Refused`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The state of a layer. `id`: 12 hex digits of its diff ID or digest.
    Layer { id: String, state: LayerState },
    /// `TAG: digest: … size: …`: the registry accepted the manifest. `size`: of the manifest, in bytes.
    Pushed { tag: String, digest: String, size: u64 },
    /// The engine does not have all platforms, and pushed the manifest of one platform under the tag.
    PlatformInsteadOfIndex(Narrowed),
    /// The engine's store lacks blobs of the image. An error line follows.
    ContentMissing,
    /// The push failed. `message`: the engine's raw text, which [`crate::failure`] classifies.
    Refused { message: String },
    /// Any other status line.
    Note { text: String },
    /// The JSON object itself, before the events that it contains. Only sent if
    /// [wanted](crate::engine::stream::Decoder::with_objects). One line, safe to print on a terminal.
    Object { line: String },
}

/// The manifest of one platform that an engine pushed instead of the image's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowed {
    /// For example `linux/amd64`; `None`: the engine did not report it.
    pub platform: Option<String>,
    /// The digest of the manifest, which the tag now names.
    pub digest: String,
    /// The digest of the index, which the tag does not name.
    pub index: String,
}

impl Event {
    /// Applies a function to the texts that come from engine or registry.
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
            // Unchanged, since these texts are compared: the tag with the requested one, and the digests.
            event @ (Self::Pushed { .. } | Self::PlatformInsteadOfIndex(_) | Self::ContentMissing) => event,
            Self::Object { line } => Self::Object { line: change(line) },
        }
    }
}

/// The state of one layer. Sizes are in bytes: of the uncompressed layer in the classic store, of the blob in the
/// containerd store. `current` may exceed `total`.
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
    /// The engine itself retries the layer after a wait.
    Retrying {
        seconds: u64,
    },
    /// A status that the plugin does not know. Kept and shown, since the engine's texts are not a documented API.
    Other(String),
}

impl LayerState {
    /// Returns whether the registry has the layer.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Pushed | Self::AlreadyExists | Self::MountedFrom(_))
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
            Self::Other(status) => f.write_str(status),
        }
    }
}
