//! The state that all pushes in one run of the plugin share.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::time::Instant;

use crate::cli::PushOptions;
use crate::credentials::command::Given;
use crate::credentials::keyring::{Keyring, LookedUp, Wanted};
use crate::credentials::prompt::Terminal;
use crate::present::presenter::{Level, Reporter};
use crate::push::gate::Gate;
use crate::push::pool::RegistryPool;
use crate::push::upload::detour::Detours;
use crate::reference::Reference;
use crate::relay::Relay;
use crate::relay::rate::RateLimit;
use crate::relay::reach::Reach;

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
    /// The gates, by the domain of the registry, or by the repository if the repository has credentials of its own.
    gates: HashMap<String, Gate>,
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
    /// Whether an engine on this machine can reach the relay.
    pub reach: OnceCell<Reach>,
    /// The relays that no push uses, and to which ssh forwards a port of the engine's machine.
    pub forwarded: RefCell<Vec<Relay>>,
    /// The limit of `--limit-rate`, for all uploads through the relay.
    pub rate: Option<Arc<RateLimit>>,
}

impl<'a> Session<'a> {
    /// * `references`: the references that this run of the plugin pushes to.
    pub fn new<'r>(
        options: &'a PushOptions,
        keyring: Keyring,
        terminal: Option<Terminal>,
        references: impl Iterator<Item = &'r Reference>,
        pool: RegistryPool,
    ) -> Self {
        let mut gates = HashMap::new();
        for reference in references {
            let gate = |repository| Gate::new(repository, options.save_credentials);
            gates.entry(reference.domain().to_owned()).or_insert_with(|| gate(None));
            if keyring.is_scoped(reference) {
                let repository = reference.repository();
                gates.entry(repository.clone()).or_insert_with(|| gate(Some(repository)));
            }
        }
        Self {
            options,
            keyring,
            terminal,
            naming: Mutex::default(),
            dialogue: Mutex::default(),
            gates,
            pool,
            detours: RefCell::default(),
            last_movement: Cell::new(Instant::now()),
            added_tags: RefCell::default(),
            reach: OnceCell::new(),
            forwarded: RefCell::default(),
            rate: options.limit_rate.and_then(NonZeroU64::new).map(|rate| Arc::new(RateLimit::new(rate))),
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

    /// Returns the gate of the credentials that a push to a reference uses.
    pub fn gate(&self, reference: &Reference) -> &Gate {
        self.gates.get(&reference.repository()).unwrap_or_else(|| &self.gates[reference.domain()])
    }

    /// Looks up the credentials for a push in the keyring.
    pub async fn look_up(&self, reference: &Reference, reporter: &Reporter) -> LookedUp {
        let repository = self.gate(reference).repository.as_ref().map(|_| reference.path());
        let wanted = Wanted::to_push(reference.domain(), repository);
        let dialogue = self.lock_terminal_for_helper().await;
        let held = dialogue.is_some().then(|| reporter.hold());
        let found = self.keyring.look_up(&wanted, |line| reporter.say(Level::Asking, line)).await;
        drop((held, dialogue));
        found
    }

    /// Looks up the credentials for all references in advance, since credential helpers and the engine may be slow.
    ///
    /// * `references`: credential helpers prompt in this order.
    pub async fn prefetch_credentials(&self, references: &[Reference], reporter: &Reporter) {
        // The command may ask its user, so it runs only when a push needs the password.
        if matches!(self.keyring.given, Some(Given::Command(_))) {
            return;
        }
        let mut seen = HashSet::new();
        let first =
            references.iter().filter(|reference| seen.insert(std::ptr::from_ref(self.gate(reference))));
        let lookups = first.map(async |reference| {
            let mut pass = self.gate(reference).enter().await;
            // A push may have looked up the credentials already.
            if pass.is_empty() {
                pass.prefetched = Some(self.look_up(reference, reporter).await);
            }
        });
        join_all(lookups).await;
    }
}
