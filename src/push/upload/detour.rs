//! Chooses an alternative name of the registry if an upload that hangs in the engine blocks pushes under the usual
//! name.

use std::collections::{HashMap, HashSet};

use crate::reference::Reference;

/// The repositories in which an upload hangs, after a stall in docker's classic store.
///
/// The classic store runs one upload for each layer and repository, shared by all pushes. The store never cancels an
/// upload whose connection hangs (measured: docker 20.10 and 28), so later pushes to the repository wait forever.
/// Under an alternative name of the registry, the engine starts a new upload.
#[derive(Debug, Default)]
pub struct Detours {
    /// The number of blocked names of the registry, by repository. The first name is the name in the reference.
    blocked: HashMap<String, u32>,
    /// The number of uploads in this run of the plugin that hang.
    hanging: u32,
    /// Registries that the engine cannot reach under an alternative name.
    closed: HashSet<String>,
}

impl Detours {
    /// The maximum number of pushes under an alternative name. Each upload that hangs occupies one of the engine's
    /// five upload slots (dockerd's `--max-concurrent-uploads`) while the connection of the upload exists. The
    /// maximum leaves two slots for other pushes.
    const MOST: u32 = 2;

    pub fn blocked(&self, reference: &Reference) -> u32 {
        self.blocked.get(&reference.repository()).copied().unwrap_or_default()
    }

    /// Records that an upload to the repository hangs. An upload that blocks several pushes counts once.
    ///
    /// * `blocked_before`: the value of [`blocked`](Self::blocked) when the push began.
    pub fn hangs(&mut self, reference: &Reference, blocked_before: u32) {
        let blocked = self.blocked.entry(reference.repository()).or_default();
        if *blocked == blocked_before {
            *blocked += 1;
            self.hanging += 1;
        }
    }

    /// Records that the engine cannot reach the registry under an alternative name.
    pub fn close(&mut self, reference: &Reference) {
        self.closed.insert(reference.domain().to_owned());
    }

    /// Returns the number of the alternative name to use next. `None`: use the name in the reference, because that
    /// name is not blocked or no alternative name can help.
    pub fn next(&self, reference: &Reference) -> Option<u32> {
        let is_possible = self.hanging <= Self::MOST && !self.closed.contains(reference.domain());
        Some(self.blocked(reference)).filter(|blocked| is_possible && *blocked > 0)
    }

    /// Returns how many more attempts can help after a stall. `None`: no limit, since no upload to the repository
    /// hangs.
    pub fn left(&self, reference: &Reference) -> Option<u32> {
        self.blocked.get(&reference.repository())?;
        let is_closed = self.closed.contains(reference.domain());
        Some(if is_closed { 0 } else { (Self::MOST + 1).saturating_sub(self.hanging) })
    }
}
