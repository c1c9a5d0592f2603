//! Types for digests, descriptors, manifests and indexes.
//!
//! The crate `oci-spec` is not used: registries and engines also send Docker's own media types, leave out
//! fields that the specification requires, and add other fields.
//!
//! Source: OCI image specification 1.1; Docker's schema 2 has the same fields.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::platform::Platform;

/// Identifies a blob or a manifest by digest.
///
/// Source: OCI image specification 1.1, `descriptor.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    pub digest: String,
    /// The size of the blob or manifest in bytes; 0 if the size is missing.
    #[serde(default, deserialize_with = "size")]
    pub size: u64,
    /// The download URLs of a foreign layer, which need not be in the registry.
    #[serde(default)]
    pub urls: Vec<String>,
    /// The platform of a manifest in an index, as received: neither normalized nor sanitized.
    #[serde(default)]
    pub platform: Option<Box<Platform>>,
}

impl Descriptor {
    pub fn new(digest: String, size: u64) -> Self {
        Self { digest, size, ..Self::default() }
    }
}

/// Parses a size. `f64` accepts any JSON number, and `as u64` clamps numbers out of range. A value that is
/// not a number becomes 0.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_f64().unwrap_or_default() as u64)
}

/// The manifest of one image.
///
/// Source: OCI image specification 1.1, `manifest.md`.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// The configuration of the image. docker's classic store uses the digest of the configuration as the
    /// image's ID.
    pub config: Option<Descriptor>,
    /// The layers of the image, starting with the lowest.
    pub layers: Vec<Descriptor>,
}

/// The index of a multi-platform image: a manifest for each platform, and attestations about these manifests.
///
/// Source: OCI image specification 1.1, `image-index.md`.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub manifests: Vec<Descriptor>,
}

/// The document that a tag or a digest names in a registry: a manifest or an index.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Fields")]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// The fields of a manifest and of an index. The fields that are present decide the kind, because `mediaType`
/// may be missing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    manifests: Option<Vec<Descriptor>>,
}

impl TryFrom<Fields> for Document {
    type Error = &'static str;

    /// Rejects a document that is both a manifest and an index, because two programs could read two different
    /// images from the document (CVE-2021-41190).
    fn try_from(Fields { config, layers, manifests }: Fields) -> Result<Self, Self::Error> {
        let is_manifest = config.is_some() || !layers.is_empty();
        match manifests {
            Some(manifests) if !is_manifest => Ok(Self::Index(Index { manifests })),
            Some(manifests) if !manifests.is_empty() => Err("a manifest and an index in one"),
            _ => Ok(Self::Manifest(Manifest { config, layers })),
        }
    }
}

/// Returns whether a string is a digest, `algorithm:hex`. A digest contains no character that can control a
/// terminal.
pub fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.bytes().all(|b| b.is_ascii_alphanumeric())
            && (32..=128).contains(&hex.len())
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Returns the SHA-256 hash of `bytes` in lower-case hexadecimal (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// Returns bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(descriptors: &[Descriptor]) -> Vec<&str> {
        descriptors.iter().map(|descriptor| descriptor.digest.as_str()).collect()
    }

    #[test]
    fn tells_manifests_from_indexes() {
        let manifest = r#"{"config":{"digest":"c","size":-1},"layers":[{"digest":"a"},{"digest":"b","urls":["u"],"new":1}]}"#;
        let Document::Manifest(manifest) = serde_json::from_str(manifest).unwrap() else {
            panic!("not a manifest")
        };
        assert_eq!(
            manifest.config,
            Some(Descriptor::new("c".to_owned(), 0)),
            "negative sizes are clamped to 0"
        );
        assert_eq!(digests(&manifest.layers), ["a", "b"]);
        assert_eq!(manifest.layers[1].urls, ["u"]);
        let index = r#"{"mediaType":"x","manifests":[{"digest":"a","size":7,"platform":{"os":"linux","architecture":"arm","variant":"v6"}}]}"#;
        let Document::Index(index) = serde_json::from_str(index).unwrap() else { panic!("not an index") };
        assert_eq!((digests(&index.manifests), index.manifests[0].size), (vec!["a"], 7));
        let platform = index.manifests[0].platform.as_ref().map(ToString::to_string);
        assert_eq!(platform.as_deref(), Some("linux/arm/v6"));
        assert!(matches!(serde_json::from_str("{}").unwrap(), Document::Manifest(_)));
        let sizes = r#"{"config":{"digest":"c","size":"528"},"manifests":[]}"#;
        assert!(matches!(serde_json::from_str(sizes).unwrap(), Document::Manifest(_)));
        let both = r#"{"layers":[{"digest":"a"}],"manifests":[{"digest":"b"}]}"#;
        for odd in ["1", r#"{"manifests":{}}"#, r#"{"layers":[{}]}"#, both] {
            assert!(serde_json::from_str::<Document>(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn accepts_only_digests_with_algorithm_and_hexadecimal_digits() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(is_digest(&format!("sha256:{hex}")) && is_digest(&format!("sha512:{hex}{hex}")));
        for odd in
            ["", "sha256:", "sha256:short", &hex, &format!("sha256:{hex}\u{1b}"), &format!("sha 256:{hex}")]
        {
            assert!(!is_digest(odd), "{odd:?}");
        }
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
    }
}
