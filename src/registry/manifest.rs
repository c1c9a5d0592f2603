//! Parses the manifests and indexes that a registry serves.

use crate::oci::{Descriptor, Document, is_digest, sha256};

/// A manifest or an index that a registry sent.
#[derive(Clone, Debug)]
pub struct ServedManifest {
    /// The digest and size of the manifest, computed from the bytes that the registry sent.
    pub descriptor: Descriptor,
    content: Document,
}

impl ServedManifest {
    /// Parses the bytes of a manifest or an index that a registry sent.
    ///
    /// # Errors
    /// The bytes are not the JSON of a manifest or an index.
    pub fn parse(body: &[u8]) -> serde_json::Result<Self> {
        let digest = format!("sha256:{}", sha256(body));
        let content = serde_json::from_slice(body)?;
        Ok(Self { descriptor: Descriptor::new(digest, body.len() as u64), content })
    }

    /// Returns whether the manifest has this digest. Only a SHA-256 digest is compared; a digest of another
    /// algorithm is accepted.
    pub(super) fn is_called(&self, digest: &str) -> bool {
        self.descriptor.digest == digest || !digest.starts_with("sha256:")
    }

    /// Returns the digest of the image's configuration, or `None` for an index.
    pub fn config(&self) -> Option<&str> {
        let Document::Manifest(manifest) = &self.content else { return None };
        manifest.config.as_ref().map(|config| config.digest.as_str())
    }

    /// Returns the digests of the image's layers, starting with the lowest, or no digests for an index.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        let layers = match &self.content {
            Document::Manifest(manifest) => manifest.layers.as_slice(),
            Document::Index(_) => &[],
        };
        layers.iter().map(|layer| layer.digest.as_str())
    }

    /// Returns the digests of the manifests in an index, or no digests for the manifest of one image.
    pub fn manifests(&self) -> Vec<String> {
        match &self.content {
            Document::Manifest(_) => Vec::new(),
            Document::Index(index) => digests_of(index.manifests.iter()),
        }
    }

    /// Returns the digests of the image's blobs that must be in the registry: all blobs except foreign
    /// layers.
    pub fn blobs(&self) -> Vec<String> {
        let Document::Manifest(manifest) = &self.content else { return Vec::new() };
        let blobs = manifest.config.iter().chain(&manifest.layers);
        digests_of(blobs.filter(|blob| blob.urls.is_empty()))
    }
}

fn digests_of<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Vec<String> {
    descriptors.map(|descriptor| &descriptor.digest).filter(|digest| is_digest(digest)).cloned().collect()
}
