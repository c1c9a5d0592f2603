//! Events of a push.

use std::fmt;

/// One object of the stream. All text in it is [sanitized](crate::text::sanitize), except [`Event::Refused`]'s.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A layer changed, or moved on. `id`: 12 hex digits of its diff ID or digest.
    Layer { id: String, state: LayerState },
    /// `TAG: digest: … size: …`: the registry took the manifest. `size`: of the manifest, in bytes.
    Pushed { tag: String, digest: String, size: u64 },
    /// The engine did not have all of the image, and pushed what it has for one platform under the tag.
    PlatformInsteadOfIndex(Narrowed),
    /// Blobs of the image are not in the engine's store; an error line follows.
    ContentMissing,
    /// The push failed. The engine's own text, raw, for [`crate::failure`] to read.
    Refused { message: String },
    /// Any other status line.
    Note { text: String },
    /// The object itself, before what it says; only where that is [wanted](crate::engine::stream::Decoder::with_objects). In one
    /// line, with nothing in it that a terminal would act on.
    Object { line: String },
}

/// One platform's manifest in place of the index that the image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowed {
    /// `linux/amd64`, where the engine says it.
    pub platform: Option<String>,
    /// Of the manifest, which the tag now names.
    pub digest: String,
    /// Of the index, which it does not.
    pub index: String,
}

impl Event {
    /// The same with this done to the texts that others have written.
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
            // A tag is compared with the one that was asked for, and a digest is one.
            event @ (Self::Pushed { .. } | Self::PlatformInsteadOfIndex(_) | Self::ContentMissing) => event,
            Self::Object { line } => Self::Object { line: change(line) },
        }
    }
}

/// What happens to one layer. Sizes are in bytes, of the uncompressed layer on the classic store,
/// of the blob on the containerd store. `current` may exceed `total`.
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
    /// The engine tries this layer again by itself.
    Retrying {
        seconds: u64,
    },
    /// The engine's words are no documented API: keep and show one we do not know.
    Other(String),
}

impl LayerState {
    /// Nothing more will happen to the layer.
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
