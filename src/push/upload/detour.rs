//! Chooses another name of the registry for a push that would otherwise wait for an upload that hangs in the engine.

use std::collections::{HashMap, HashSet};

use crate::reference::Reference;

/// The repositories in which an upload hangs, after a stall in docker's classic store.
///
/// For each layer and repository, that store runs one upload, shared by all pushes that need it. It never cancels an
/// upload whose connection hangs (docker 20.10 and 28: measured), so each further push to this repository waits
/// forever. Under another name of the registry, the engine starts a new upload.
#[derive(Debug, Default)]
pub struct Detours {
    /// By repository: how many of the registry's names are blocked. The first is the name in the reference.
    blocked: HashMap<String, u32>,
    /// How many uploads of this call hang.
    hanging: u32,
    /// Registries that the engine cannot reach under another name.
    closed: HashSet<String>,
}

impl Detours {
    /// The maximum number of detours. An upload that hangs occupies one of the engine's five upload slots (dockerd's
    /// `--max-concurrent-uploads`) while its connection exists. Two detours leave two slots for other pushes.
    const MOST: u32 = 2;

    pub fn blocked(&self, reference: &Reference) -> u32 {
        self.blocked.get(&reference.repository()).copied().unwrap_or_default()
    }

    /// Records that an upload hangs. Pushes that began together wait for the same upload, which counts once.
    ///
    /// * `blocked_before`: the value of [`blocked`](Self::blocked) when the push began.
    pub fn hangs(&mut self, reference: &Reference, blocked_before: u32) {
        let blocked = self.blocked.entry(reference.repository()).or_default();
        if *blocked == blocked_before {
            *blocked += 1;
            self.hanging += 1;
        }
    }

    /// Records that the engine cannot reach the registry under another name.
    pub fn close(&mut self, reference: &Reference) {
        self.closed.insert(reference.domain().to_owned());
    }

    /// Returns the number of the registry's other name to use next. `None`: use the name in the reference, since it
    /// is not blocked or no other name can help.
    pub fn next(&self, reference: &Reference) -> Option<u32> {
        let is_possible = self.hanging <= Self::MOST && !self.closed.contains(reference.domain());
        Some(self.blocked(reference)).filter(|blocked| is_possible && *blocked > 0)
    }

    /// Returns how many more attempts can help after a stall. `None`: no limit, since no upload to it hangs.
    pub fn left(&self, reference: &Reference) -> Option<u32> {
        self.blocked.get(&reference.repository())?;
        let is_closed = self.closed.contains(reference.domain());
        Some(if is_closed { 0 } else { (Self::MOST + 1).saturating_sub(self.hanging) })
    }
}
