//! The state that all pushes in one run of the plugin share.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use futures_util::future::join_all;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::cli::PushOptions;
use crate::credentials::keyring::{Keyring, LookedUp};
use crate::credentials::prompt::Terminal;
use crate::net::Trace;
use crate::present::presenter::{Level, Reporter};
use crate::push::gate::Gate;
use crate::push::pool::RegistryPool;
use crate::push::upload::detour::Detours;
use crate::reference::Reference;

/// The state that all pushes in one run of the plugin share.
pub struct Session<'a> {
    pub options: &'a PushOptions,
    pub keyring: Keyring,
    /// The terminal for prompts; `None`: the user cannot be prompted.
    pub terminal: Option<Terminal>,
    /// Locked while a local tag is added or removed. podman 4.3 loses tags if two tags are changed at the same time.
    pub naming: Mutex<()>,
    /// Locked while a prompt, or a credential helper that may prompt, uses the terminal.
    dialogue: Mutex<()>,
    /// The gates of the registries, by the domain of the registry.
    pub gates: HashMap<String, Gate>,
    /// Direct connections to registries, for queries that the engine cannot make or makes more slowly.
    pub pool: RegistryPool,
    /// The repositories in which an upload hangs. Shared by all pushes, because an upload that hangs also blocks later
    /// pushes.
    pub detours: RefCell<Detours>,
    /// The time at which the engine last reported that it sent bytes for any push of this run of the plugin.
    pub last_movement: Cell<Instant>,
    /// The canonical names of the local tags that this run of the plugin has added and removes later. An image must
    /// have a tag outside this set, since engines delete an image together with its last tag.
    pub added_tags: RefCell<HashSet<String>>,
}

impl<'a> Session<'a> {
    /// * `references`: the references that this run of the plugin pushes to.
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
            last_movement: Cell::new(Instant::now()),
            added_tags: RefCell::default(),
        }
    }

    /// Waits until no prompt and no credential helper uses the terminal, and locks the terminal.
    pub async fn lock_terminal(&self) -> MutexGuard<'_, ()> {
        self.dialogue.lock().await
    }

    /// Locks the terminal for a credential helper. Returns `None` if helpers have a timeout and so cannot prompt.
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

    /// Looks up the credentials for all registries in advance, since credential helpers and the engine may be slow.
    ///
    /// * `registries`: the domains of the registries, without duplicates. Credential helpers prompt in this order.
    pub async fn prefetch_credentials(&self, registries: &[String], reporter: &Reporter) {
        let lookups = registries.iter().map(async |registry| {
            let mut pass = self.gates[registry].enter().await;
            // A push may have looked up the credentials already.
            if pass.is_empty() {
                pass.prefetched = Some(self.look_up(registry, reporter).await);
            }
        });
        join_all(lookups).await;
    }
}
