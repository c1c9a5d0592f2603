//! Computes which platforms of an image a push sends.

use serde::Serialize;

use crate::engine::images::LocalManifest;
use crate::platform::Platform;

/// The platforms of an image, and which of them a push sends. Their JSON is part of a public format: fields may be
/// added, never renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Platforms {
    /// The platforms that the push sends, according to the engine.
    pub sent: Vec<String>,
    /// The platforms that are not in the engine.
    pub missing: Vec<String>,
    /// How many attestations and other manifests the push sends with them.
    pub others: usize,
    /// How many platforms the image is for.
    pub all: usize,
}

impl Platforms {
    /// Returns the platforms that a push would send. `None`: the image is for one platform, the engine does not list
    /// platforms, or it does not have the wanted one (then the push fails with the engine's error).
    ///
    /// An engine that does not have all platforms pushes a single one instead of the index, if it can choose one
    /// (moby `daemon/containerd/image_push.go`).
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
        };
        (all + others > 1 && !found.sent.is_empty()).then_some(found)
    }

    /// Returns a sentence that announces the platforms.
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
                "platforms: the engine has {sent}, but not {}; unless the registry has the rest, the engine pushes one platform only, without attestations",
                missing.join(", ")
            ),
        }
    }
}
