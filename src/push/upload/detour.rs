//! Chooses another spelling of the registry's name (for example `Localhost:5000` for `localhost:5000`, or
//! `registry-1.docker.io` for `docker.io`) if an upload that hangs in the engine blocks pushes under the usual name.

use std::collections::{HashMap, HashSet};

use crate::reference::Reference;

/// The repositories in which an upload hangs, after a stall in docker's classic store.
///
/// The classic store runs one upload for each layer and repository, shared by all pushes. The store never cancels an
/// upload whose connection hangs (measured: docker 20.10 and 28), so later pushes to the repository wait forever. Under
/// another spelling of the registry's name, the engine starts a new upload.
#[derive(Debug, Default)]
pub struct Detours {
    /// The number of spellings of the registry's name under which an upload hangs, by repository. The first of these
    /// spellings is the usual name, which the reference contains.
    blocked: HashMap<String, u32>,
    /// The number of uploads in this run of the plugin that hang.
    hanging: u32,
    /// The registries that the engine cannot reach under another spelling of their names.
    closed: HashSet<String>,
    /// The repositories to which layers must not be mounted from other repositories.
    without_mounts: HashSet<String>,
}

impl Detours {
    /// If more uploads than this number hang, pushes use no other spelling of the registry's name. The engine runs five
    /// uploads at once (dockerd's `--max-concurrent-uploads`), including uploads that hang while the connection exists.
    /// If two uploads hang and the next upload hangs too, the engine can still run two uploads for other pushes.
    const MOST: u32 = 2;

    pub fn blocked(&self, reference: &Reference) -> u32 {
        self.blocked.get(&reference.repository()).copied().unwrap_or_default()
    }

    /// Records that an upload to the repository hangs. If one upload blocks several pushes, only the first call of this
    /// method counts the upload.
    ///
    /// * `blocked_before`: the value of [`blocked`](Self::blocked) when the push began.
    pub fn hangs(&mut self, reference: &Reference, blocked_before: u32) {
        let blocked = self.blocked.entry(reference.repository()).or_default();
        if *blocked == blocked_before {
            *blocked += 1;
            self.hanging += 1;
        }
    }

    /// Returns whether uploads of this run of the plugin hang, and may occupy the engine's upload slots.
    pub fn has_hanging(&self) -> bool {
        self.hanging > 0
    }

    /// Makes later pushes to the repository use another name of the registry, so that the engine finds no layers to mount
    /// from other repositories.
    pub fn avoid_mounts(&mut self, reference: &Reference) {
        self.without_mounts.insert(reference.repository());
    }

    pub fn avoids_mounts(&self, reference: &Reference) -> bool {
        self.without_mounts.contains(&reference.repository())
    }

    /// Returns the reference with another name of the registry. `None`: use the name in the reference.
    pub fn name(&self, reference: &Reference) -> Option<Reference> {
        if self.avoids_mounts(reference) {
            return reference.under_loopback_name().or_else(|| reference.under_another_name(1));
        }
        reference.under_another_name(self.next(reference)?)
    }

    /// Records that the engine cannot reach the registry under another spelling of the registry's name.
    pub fn close(&mut self, reference: &Reference) {
        self.closed.insert(reference.domain().to_owned());
    }

    /// Returns the number of the next spelling of the registry's name, for [`Reference::under_another_name`]. `None`:
    /// use the name in the reference, because no upload under that name hangs or no other spelling can help.
    fn next(&self, reference: &Reference) -> Option<u32> {
        let is_possible = self.hanging <= Self::MOST && !self.closed.contains(reference.domain());
        Some(self.blocked(reference)).filter(|blocked| is_possible && *blocked > 0)
    }

    /// Returns the maximum number of further attempts that can help after a stall. `None`: no limit, since no upload to
    /// the repository hangs.
    pub fn left(&self, reference: &Reference) -> Option<u32> {
        self.blocked.get(&reference.repository())?;
        let is_closed = self.closed.contains(reference.domain());
        Some(if is_closed { 0 } else { (Self::MOST + 1).saturating_sub(self.hanging) })
    }
}
