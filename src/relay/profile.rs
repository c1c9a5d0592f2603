//! The rules of known registries for uploads, and the sizes of the chunks into which the plugin divides a blob.

use std::ops::RangeInclusive;

use crate::registry::ChunkLimits;
use crate::relay::window::KEPT;

/// The largest size in bytes of a chunk, since the plugin holds each chunk in memory.
const MAX_CHUNK: u64 = 64 << 20;
/// The smallest size in bytes to which chunks shrink after a refusal because of the size.
const MIN_CHUNK: u64 = 256 << 10;

/// The rules of a registry for uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The accepted sizes of a chunk in bytes, except the last chunk; `None`: the registry accepts no chunks.
    chunks: Option<RangeInclusive<u64>>,
    /// The last chunk must be in the request that finishes the upload.
    pub last_chunk_finishes: bool,
    /// The registry answers how much of an upload it has received, so that the upload can go on after a failure.
    pub can_resume: bool,
    /// The registry accepts a large blob in the request that finishes the upload.
    pub accepts_large_put: bool,
}

impl Profile {
    const USUAL: Self = Self {
        chunks: Some(1..=MAX_CHUNK),
        last_chunk_finishes: false,
        can_resume: true,
        accepts_large_put: true,
    };

    /// Returns what the registry with this `host[:port]` accepts.
    pub fn of(domain: &str) -> Self {
        let host = domain.split(':').next().unwrap_or_default();
        let is_private_ecr = (host.contains(".dkr.ecr") && host.contains(".amazonaws.com"))
            || (host.contains(".dkr-ecr") && host.ends_with(".on.aws"));
        let is_ecr = is_private_ecr || host == "public.ecr.aws";
        match host {
            // oras-project/rust-oci-client#35: a larger chunk is answered 416.
            "ghcr.io" => Self { chunks: Some(1..=4 << 20), ..Self::USUAL },
            // aws/containers-roadmap#2831, openai/tart#159: the answer to PATCH is 201, its `Range` is always that of the first
            // chunk, and an empty last request is refused. A part of fewer than 5 MiB must be the last.
            _ if is_ecr => Self {
                chunks: Some(5 << 20..=MAX_CHUNK),
                last_chunk_finishes: true,
                can_resume: false,
                ..Self::USUAL
            },
            // goharbor/harbor#23015: one PUT may have about 20 MB. opencontainers/artifacts#55: an upload is lost after a reset.
            _ if host.ends_with(".azurecr.io") => {
                Self { chunks: None, can_resume: false, accepts_large_put: false, ..Self::USUAL }
            }
            // https://cloud.google.com/artifact-registry/docs/reference/docker-api: no chunked uploads.
            _ if host.ends_with("-docker.pkg.dev") || host == "gcr.io" || host.ends_with(".gcr.io") => {
                Self { chunks: None, ..Self::USUAL }
            }
            _ => Self::USUAL,
        }
    }

    /// Returns whether the registry accepts chunks.
    pub fn accepts_chunks(&self) -> bool {
        self.chunks.is_some()
    }

    /// Returns the size in bytes of the chunks of a blob; `None`: the blob is sent in one stream.
    ///
    /// * `asked`: the value of `--chunk-size`; 0: one stream.
    /// * `limits`: the limits from the registry's responses in this call, which take precedence.
    /// * `size`: the size of the blob in bytes, if known.
    pub fn chunk_size(&self, asked: Option<u64>, limits: ChunkLimits, size: Option<u64>) -> Option<u64> {
        if asked == Some(0) {
            return None;
        }
        let ChunkLimits { min, max, refused, requires_length } = limits;
        let usual = self.chunks.clone().unwrap_or(1..=MAX_CHUNK);
        let told = max.filter(|max| size.is_none_or(|size| size > *max)).map(|max| max.min(KEPT));
        // The length of a chunk is known, unlike that of a blob that arrives.
        let with_length = (requires_length && size.is_none()).then_some(KEPT);
        let size = match refused.and_then(smaller) {
            Some(size) => size,
            None => asked.filter(|_| self.accepts_chunks()).or(told).or(with_length)?,
        };
        let size = size.clamp(*usual.start(), *usual.end());
        Some(size.max(min.unwrap_or(1)).min(max.unwrap_or(MAX_CHUNK)).clamp(1, MAX_CHUNK))
    }
}

/// Returns whether smaller chunks than of this size in bytes are possible.
pub fn can_shrink(size: u64) -> bool {
    smaller(size).is_some()
}

/// Returns the next smaller size of chunks after the registry refused a request with this number of bytes; `None`: the size
/// is the smallest already.
pub fn smaller(refused: u64) -> Option<u64> {
    // The largest power of two that is smaller.
    let size = 1 << refused.saturating_sub(1).checked_ilog2()?;
    (refused > MIN_CHUNK).then(|| size.clamp(MIN_CHUNK, KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn chunks_have_the_size_that_the_registry_accepts() {
        let none = ChunkLimits::default();
        let refused = |refused| ChunkLimits { refused: Some(refused), ..none };
        let told = |min, max| ChunkLimits { min, max, ..none };
        let with_length = ChunkLimits { requires_length: true, ..none };
        let ecr = "1234.dkr.ecr.eu-west-1.amazonaws.com";
        let table = [
            // registry, --chunk-size, limits, size of the blob, expected size of the chunks
            ("r.example.com", None, none, None, None),
            ("r.example.com:5000", Some(5 * MIB), none, None, Some(5 * MIB)),
            ("r.example.com", Some(0), refused(9), None, None),
            ("r.example.com", Some(1 << 40), none, None, Some(MAX_CHUNK)),
            ("r.example.com", None, refused(100 * MIB), None, Some(16 * MIB)),
            ("r.example.com", Some(9 * MIB), refused(4 * MIB), None, Some(2 * MIB)),
            ("r.example.com", None, with_length, None, Some(16 * MIB)),
            ("r.example.com", None, with_length, Some(MIB), None),
            ("r.example.com", None, told(None, Some(95 * MIB)), None, Some(16 * MIB)),
            ("r.example.com", None, told(None, Some(MIB)), Some(MIB), None),
            ("r.example.com", None, told(None, Some(MIB)), Some(MIB + 1), Some(MIB)),
            ("r.example.com", Some(MIB), told(Some(2 * MIB), None), None, Some(2 * MIB)),
            ("r.example.com", Some(MIB), told(Some(2 * MIB), Some(3)), None, Some(3)),
            ("ghcr.io", Some(9 * MIB), none, None, Some(4 * MIB)),
            (ecr, Some(MIB), none, None, Some(5 * MIB)),
            (ecr, None, none, None, None),
            (ecr, None, refused(8 * MIB), None, Some(5 * MIB)),
            ("ghcr.io", None, refused(500 * MIB), None, Some(4 * MIB)),
            ("1234.dkr-ecr.eu-west-1.on.aws", Some(MIB), none, None, Some(5 * MIB)),
            ("x.azurecr.io", Some(MIB), none, None, None),
            ("x.azurecr.io", None, refused(8 * MIB), None, Some(4 * MIB)),
            ("europe-docker.pkg.dev", Some(MIB), none, None, None),
            ("eu.gcr.io", Some(MIB), none, None, None),
        ];
        for (domain, asked, limits, size, want) in table {
            let found = Profile::of(domain).chunk_size(asked, limits, size);
            assert_eq!(found, want, "{domain} {asked:?} {limits:?} {size:?}");
        }
    }

    #[test]
    fn refused_sizes_shrink_to_the_smallest() {
        let table = [
            (3 << 30, Some(16 * MIB)),
            (12 * MIB, Some(8 * MIB)),
            (8 * MIB, Some(4 * MIB)),
            (0, None),
            (300 << 10, Some(MIN_CHUNK)),
            (MIN_CHUNK, None),
        ];
        for (size, want) in table {
            assert_eq!(smaller(size), want, "{size}");
        }
    }
}
