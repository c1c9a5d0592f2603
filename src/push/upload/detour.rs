//! Other names for a registry, under which the engine pushes around an upload that hangs.

use std::collections::{HashMap, HashSet};

use crate::reference::Reference;

/// Other names for a registry, used after a stall in docker's classic store.
///
/// That store runs one upload of a layer to a repository at a time, for all pushes that need it, and never gives up
/// one whose connection hangs (docker 20.10 and 28: measured). Another push of the same name would wait for it
/// forever. Under another name of the registry the engine starts another upload.
#[derive(Debug, Default)]
pub struct Detours {
    /// By repository: how many names are blocked, its own first.
    blocked: HashMap<String, u32>,
    /// Uploads of this call that hang.
    hanging: u32,
    /// Registries that the engine does not reach under another name.
    closed: HashSet<String>,
}

impl Detours {
    /// Each upload that hangs takes one of the five places that the engine has for uploads (dockerd's
    /// `--max-concurrent-uploads`), for as long as its connection lasts: two are left for others.
    const MOST: u32 = 2;

    pub fn blocked(&self, reference: &Reference) -> u32 {
        self.blocked.get(&reference.repository()).copied().unwrap_or_default()
    }

    /// Records that an upload hangs. Pushes that began at once wait for the same upload, which counts once.
    ///
    /// * `blocked_before`: [`blocked`](Self::blocked) when the push began.
    pub fn hangs(&mut self, reference: &Reference, blocked_before: u32) {
        let blocked = self.blocked.entry(reference.repository()).or_default();
        if *blocked == blocked_before {
            *blocked += 1;
            self.hanging += 1;
        }
    }

    /// The engine does not reach the registry under another name.
    pub fn close(&mut self, reference: &Reference) {
        self.closed.insert(reference.domain().to_owned());
    }

    /// The number of the registry's other name to use next; `None`: use its own, since it is not blocked or no other
    /// helps.
    pub fn next(&self, reference: &Reference) -> Option<u32> {
        let is_possible = self.hanging <= Self::MOST && !self.closed.contains(reference.domain());
        Some(self.blocked(reference)).filter(|blocked| is_possible && *blocked > 0)
    }

    /// How many more attempts can help after a stall; `None`: no limit, since no upload hangs.
    pub fn left(&self, reference: &Reference) -> Option<u32> {
        self.blocked.get(&reference.repository())?;
        let is_closed = self.closed.contains(reference.domain());
        Some(if is_closed { 0 } else { (Self::MOST + 1).saturating_sub(self.hanging) })
    }
}
