//! The classes of failures.

/// The class of a failure. [`crate::error`] maps each class to an exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Credentials are missing, wrong or expired.
    Auth,
    /// The registry accepts the credentials, but does not allow the account to write to the repository.
    Denied,
    /// The registry refuses the content: immutable tag, quota, size, policy.
    Rejected,
    /// The connection between engine and registry failed.
    Network,
    RateLimited,
    /// The registry has an internal error or is unavailable.
    Server,
    /// The push made no progress for too long, or exceeded `--timeout`. The plugin detects this class, not the engine.
    Stalled,
    Tls,
    /// The engine does not have the image.
    NotFound,
    /// The engine has the image, but not all of its content.
    ContentMissing,
    Reference,
    /// The engine itself failed: unreachable, too old, out of disk space, or stopped during the push.
    Engine,
    Cancelled,
    /// The tag in the registry already names another image, and `--if-exists fail` forbids replacing that image.
    Exists,
    /// The registry does not serve the pushed image.
    Unverified,
    Other,
}

impl Class {
    /// Returns the name of the class in the JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Denied => "denied",
            Self::Rejected => "rejected",
            Self::Network => "network",
            Self::RateLimited => "rate_limited",
            Self::Server => "server",
            Self::Stalled => "stalled",
            Self::Tls => "tls",
            Self::NotFound => "not_found",
            Self::ContentMissing => "content_missing",
            Self::Reference => "reference",
            Self::Engine => "engine",
            Self::Cancelled => "cancelled",
            Self::Exists => "exists",
            Self::Unverified => "unverified",
            Self::Other => "other",
        }
    }
}
