//! Digests and descriptors.
//!
//! Source: OCI image specification 1.1.

use sha2::{Digest as _, Sha256};

/// What a tag in a registry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub digest: String,
    /// Of the manifest, in bytes.
    pub size: u64,
}

/// `algorithm:hex`, and nothing that a terminal would act on.
pub fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.bytes().all(|b| b.is_ascii_alphanumeric())
            && (32..=128).contains(&hex.len())
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// The SHA-256 of these bytes, in lower-case hexadecimal (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
