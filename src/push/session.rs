//! The state that the pushes of a call share.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use futures_util::future::join_all;
use tokio::sync::{Mutex, MutexGuard};

use crate::cli::PushOptions;
use crate::credentials::keyring::{Keyring, LookedUp};
use crate::credentials::prompt::Terminal;
use crate::net::Trace;
use crate::present::presenter::{Level, Reporter};
use crate::push::gate::Gate;
use crate::push::pool::RegistryPool;
use crate::push::upload::detour::Detours;
use crate::reference::Reference;

/// The state that the pushes of a call share.
pub struct Session<'a> {
    pub options: &'a PushOptions,
    pub keyring: Keyring,
    /// The terminal for prompts; `None`: the user cannot be prompted.
    pub terminal: Option<Terminal>,
    /// Held while a tag is added or removed. podman 4.3 loses tags if two are changed at once.
    pub naming: Mutex<()>,
    /// Held while a prompt, or a credential helper that may prompt, uses the terminal.
    dialogue: Mutex<()>,
    /// By the domain of the registry.
    pub gates: HashMap<String, Gate>,
    /// For queries that the engine cannot make, or makes more slowly.
    pub pool: RegistryPool,
    /// Shared, because an upload that hangs blocks later pushes too.
    pub detours: RefCell<Detours>,
    /// Canonical names of the tags that this call has added. An engine deletes an image with its last name, and these
    /// names are removed later.
    pub added_tags: RefCell<HashSet<String>>,
}

impl<'a> Session<'a> {
    /// * `references`: the references that the call pushes to.
    pub fn new<'r>(
        options: &'a PushOptions,
        keyring: Keyring,
        terminal: Option<Terminal>,
        references: impl Iterator<Item = &'r Reference>,
        trace: Option<Trace>,
    ) -> Self {
        let gate =
            |reference: &Reference| (reference.domain().to_owned(), Gate::new(options.save_credentials));
        Self {
            options,
            keyring,
            terminal,
            naming: Mutex::default(),
            dialogue: Mutex::default(),
            gates: references.map(gate).collect(),
            pool: RegistryPool::new(trace),
            detours: RefCell::default(),
            added_tags: RefCell::default(),
        }
    }

    /// Waits until no prompt and no credential helper uses the terminal.
    pub async fn lock_terminal(&self) -> MutexGuard<'_, ()> {
        self.dialogue.lock().await
    }

    /// Waits for the terminal on behalf of a credential helper. `None`: helpers have a timeout and cannot prompt.
    pub async fn lock_terminal_for_helper(&self) -> Option<MutexGuard<'_, ()>> {
        match self.keyring.helper_timeout {
            Some(_) => None,
            None => Some(self.lock_terminal().await),
        }
    }

    /// Looks up the credentials for a registry in the keyring.
    pub async fn look_up(&self, registry: &str, reporter: &Reporter) -> LookedUp {
        let dialogue = self.lock_terminal_for_helper().await;
        let held = dialogue.is_some().then(|| reporter.hold());
        let found = self.keyring.look_up(registry, |line| reporter.say(Level::Asking, line)).await;
        drop((held, dialogue));
        found
    }

    /// Looks up credentials before the pushes need them, since credential helpers and the engine may be slow.
    ///
    /// * `registries`: without duplicates, in the order in which their helpers may prompt.
    pub async fn prefetch_credentials(&self, registries: &[String], reporter: &Reporter) {
        let lookups = registries.iter().map(async |registry| {
            let mut pass = self.gates[registry].enter().await;
            // A push may have looked them up first.
            if pass.is_empty() {
                pass.prefetched = Some(self.look_up(registry, reporter).await);
            }
        });
        join_all(lookups).await;
    }
}
