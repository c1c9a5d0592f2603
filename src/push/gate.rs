//! Synchronizes the pushes of a call: one push goes first, and the others wait for it.
//!
//! Each registry has a [`Gate`]. Its credentials are looked up once, tried by one push, and prompted for once. Parallel
//! pushes with a wrong password would cause as many failed logins, and registries may lock the account.
//!
//! Each repository has a [`Lead`]. The tags of a repository mostly share layers, but an engine sends a layer again for
//! each push that begins before the registry has it (docker 28's containerd store sent the 5 blobs of 6 tags 22 times;
//! measured).

use std::cell::Cell;

use tokio::sync::{Mutex, MutexGuard};

use crate::credentials::Credentials;
use crate::credentials::keyring::LookedUp;
use crate::credentials::login::{Login, Source};

/// Credentials that the pushes to a registry use.
#[derive(Clone, Debug)]
pub struct ActiveCredentials {
    /// The number of these credentials among those for this registry, from 1. 0: [`anonymous`](Self::anonymous).
    pub number: u32,
    pub credentials: Credentials,
    pub login: Login,
    /// The repository that these were typed for, because the earlier credentials may not push to it. `None`: all.
    only_for: Option<String>,
}

impl ActiveCredentials {
    /// Returns empty credentials, for steps that do not contact the registry.
    pub fn anonymous() -> Self {
        let credentials = Credentials::anonymous();
        let login = Login::new(&credentials, Source::Nothing, Vec::new());
        Self { number: 0, credentials, login, only_for: None }
    }
}

/// All credentials of the call for one registry, in the order in which they were found or typed.
#[derive(Debug, Default)]
pub struct Logins {
    active: Vec<ActiveCredentials>,
    /// The first credentials, looked up before a push needs them. The first push uses them and shows their warnings.
    pub prefetched: Option<LookedUp>,
}

impl Logins {
    /// Returns whether no credentials were looked up so far.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.prefetched.is_none()
    }

    /// Returns the newest credentials for this repository or for all repositories.
    pub fn of(&self, repository: &str) -> Option<&ActiveCredentials> {
        let is_for_it =
            |active: &&ActiveCredentials| active.only_for.as_deref().is_none_or(|only| only == repository);
        self.active.iter().rfind(is_for_it)
    }

    /// Returns the first credentials with a higher number.
    pub fn newer_than(&self, number: u32) -> Option<&ActiveCredentials> {
        self.active.iter().find(|active| active.number > number)
    }

    /// Adds credentials, and returns them with their number.
    ///
    /// * `only_for`: the one repository that uses them; `None`: they replace all earlier credentials.
    pub fn add(
        &mut self,
        credentials: Credentials,
        login: Login,
        only_for: Option<String>,
    ) -> ActiveCredentials {
        let number = u32::try_from(self.active.len()).unwrap_or(u32::MAX).saturating_add(1);
        let active = ActiveCredentials { number, credentials, login, only_for };
        self.active.push(active.clone());
        active
    }
}

/// Held by the push that looks up credentials, uses them first, or prompts for others.
pub type Pass<'a> = MutexGuard<'a, Logins>;

#[derive(Debug)]
pub struct Gate {
    logins: Mutex<Logins>,
    /// The registry has accepted a push with the newest credentials for all repositories.
    is_open: Cell<bool>,
    /// A prompt for this registry gave no usable credentials. The user is not prompted again in this call.
    pub has_prompt_failed: Cell<bool>,
    /// Credentials that were typed or given in this call must still be saved.
    pub must_be_saved: Cell<bool>,
}

impl Gate {
    /// * `must_be_saved`: credentials that are typed or given in this call must be saved (`--save-credentials`).
    pub fn new(must_be_saved: bool) -> Self {
        Self {
            logins: Mutex::default(),
            is_open: Cell::new(false),
            has_prompt_failed: Cell::new(false),
            must_be_saved: Cell::new(must_be_saved),
        }
    }

    /// Waits until no other push holds the pass.
    pub async fn enter(&self) -> Pass<'_> {
        self.logins.lock().await
    }

    /// Returns whether several pushes may use the credentials at once.
    pub fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// Releases the pass and opens the gate for all pushes, because the registry has accepted the push with the pass.
    /// Does nothing without a pass.
    pub fn open(&self, pass: &mut Option<Pass<'_>>) {
        if pass.take().is_some() {
            self.is_open.set(true);
        }
    }

    /// Closes the gate, because one push must try new credentials alone.
    pub fn close(&self) {
        self.is_open.set(false);
    }
}

/// Lets one push into a repository go first. The others follow when a push has succeeded.
#[derive(Debug, Default)]
pub struct Lead {
    turn: Mutex<()>,
    is_open: Cell<bool>,
}

impl Lead {
    /// Waits for the push that runs alone. Returns a guard if no push has succeeded so far; the caller runs alone
    /// while it holds the guard.
    pub async fn follow(&self) -> Option<MutexGuard<'_, ()>> {
        if self.is_open.get() {
            return None;
        }
        let turn = self.turn.lock().await;
        Some(turn).filter(|_| !self.is_open.get())
    }

    /// Records that a push has succeeded, so that the others no longer wait for each other.
    pub fn open(&self) {
        self.is_open.set(true);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Polls a future once; `None`: it is pending.
    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn add(logins: &mut Logins, only_for: Option<&str>) -> u32 {
        let login = Login::new(&Credentials::anonymous(), Source::Prompt, Vec::new());
        logins.add(Credentials::anonymous(), login, only_for.map(str::to_owned)).number
    }

    #[test]
    fn uses_the_newest_credentials_for_a_repository() {
        let mut logins = Logins::default();
        assert!(logins.is_empty() && logins.of("r/a").is_none());
        assert_eq!(
            [add(&mut logins, None), add(&mut logins, Some("r/a")), add(&mut logins, Some("r/b"))],
            [1, 2, 3]
        );
        let number = |logins: &Logins, repository| logins.of(repository).map(|active| active.number);
        assert_eq!(number(&logins, "r/a"), Some(2));
        assert_eq!(number(&logins, "r/b"), Some(3));
        assert_eq!(number(&logins, "r/c"), Some(1), "credentials of other repositories are not used");
        assert_eq!(add(&mut logins, None), 4);
        assert_eq!(number(&logins, "r/a"), Some(4), "credentials for all repositories replace earlier ones");
        let newer = |number| logins.newer_than(number).map(|active| active.number);
        assert_eq!([newer(0), newer(1), newer(4)], [Some(1), Some(2), None]);
    }

    #[test]
    fn admits_one_push_until_the_gate_opens() {
        let gate = Gate::new(false);
        let mut pass = now(gate.enter());
        assert!(pass.is_some() && now(gate.enter()).is_none(), "the second push waits");
        gate.open(&mut pass);
        assert!(gate.is_open() && pass.is_none() && now(gate.enter()).is_some());
        gate.close();
        gate.open(&mut None);
        assert!(!gate.is_open(), "only the holder of the pass opens the gate");
    }

    #[test]
    fn first_push_to_a_repository_delays_the_others() {
        let lead = Lead::default();
        let first = now(lead.follow()).expect("the first push does not wait");
        assert!(first.is_some() && now(lead.follow()).is_none(), "the second push waits");
        drop(first);
        let second = now(lead.follow()).expect("the first push has failed");
        assert!(second.is_some(), "the second push runs alone");
        lead.open();
        assert!(now(lead.follow()).expect("the repository is open to all pushes").is_none());
    }
}
