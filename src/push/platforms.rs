//! Computes which platforms of an image a push sends.

use serde::Serialize;

use crate::engine::images::LocalManifest;
use crate::platform::Platform;

/// The platforms of an image, and which platforms a push sends. The JSON output is a public format: fields may be
/// added, never renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Platforms {
    /// The platforms that the push sends, according to the engine.
    pub sent: Vec<String>,
    /// The platforms of the image that the engine does not have.
    pub missing: Vec<String>,
    /// The number of attestations and other manifests that the push sends in addition to the platforms.
    pub others: usize,
    /// The number of platforms of the image, including `missing` platforms.
    pub all: usize,
    /// The number of attestations and other manifests that the engine does not have.
    #[serde(skip)]
    pub missing_others: usize,
}

impl Platforms {
    /// Returns the platforms that a push would send.
    ///
    /// Returns `None` if the image has one platform, if the engine does not list platforms, or if the engine does not
    /// have the wanted platform. A push of a missing platform fails with the engine's error.
    ///
    /// If the engine does not have all platforms, the engine may push the manifest of one platform instead of the
    /// index (moby `daemon/containerd/image_push.go`).
    pub fn of(manifests: &[LocalManifest], wanted: Option<&Platform>) -> Option<Self> {
        let is_wanted = |platform: &Platform| wanted.is_none_or(|wanted| platform.is(wanted));
        let images =
            manifests.iter().filter_map(|manifest| Some((manifest.platform.as_ref()?, manifest.is_here)));
        let here = images.clone().filter(|(platform, is_here)| *is_here && is_wanted(platform));
        let missing = images.clone().filter(|(_, is_here)| !is_here);
        let named = |(platform, _): (&Platform, bool)| platform.to_string();
        let all = images.count();
        let others = manifests.len() - all;
        let found = Self {
            sent: here.map(named).collect(),
            missing: missing.map(named).collect(),
            others: if wanted.is_some() { 0 } else { others },
            all,
            missing_others: manifests
                .iter()
                .filter(|manifest| manifest.platform.is_none() && !manifest.is_here)
                .count(),
        };
        (all + others > 1 && !found.sent.is_empty()).then_some(found)
    }

    /// Returns a message that tells the user which platforms the push sends.
    pub fn announce(&self, wanted: Option<&Platform>) -> String {
        let others = match self.others {
            0 => String::new(),
            1 => " and 1 attestation".to_owned(),
            others => format!(" and {others} attestations"),
        };
        let sent = self.sent.join(", ");
        match (wanted, self.missing.as_slice()) {
            (Some(wanted), _) => {
                format!("platforms: only {wanted}, one of {}, without attestations", self.all)
            }
            (None, []) => format!("platforms: {sent}{others}, all in the engine"),
            (None, missing) => format!(
                "platforms: the engine has {sent}, but not {}; the engine pushes one platform only, without attestations, and the tag then names this image, even if it names the complete one now",
                missing.join(", ")
            ),
        }
    }
}
