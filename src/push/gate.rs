//! Synchronizes the pushes in one run of the plugin: one push runs first, and the other pushes wait.
//!
//! Each registry has a [`Gate`]. Only one push at a time looks up credentials, tries new credentials, or prompts the
//! user. Parallel pushes with a wrong password would cause several failed logins, and the registry may lock the
//! account.
//!
//! Each repository has a [`Lead`], which lets one push at a time run until a push has succeeded. The tags of a
//! repository mostly share layers. An engine sends a shared layer several times if several pushes begin before the
//! registry has the layer. (Measured: for 6 tags with 5 blobs in total, the containerd store of docker 28 sent blobs 22
//! times.)

use std::cell::Cell;
use std::time::SystemTime;

use tokio::sync::{Mutex, MutexGuard};

use crate::credentials::Credentials;
use crate::credentials::keyring::LookedUp;
use crate::credentials::login::{Login, Source};

/// One set of credentials for a registry, used by the pushes in this run of the plugin.
#[derive(Clone, Debug)]
pub struct ActiveCredentials {
    /// The position of these credentials in [`Logins`], counted from 1; 0 for [`anonymous`](Self::anonymous).
    pub number: u32,
    pub credentials: Credentials,
    pub login: Login,
    /// The only repository that uses these credentials, typed because the earlier credentials have no push access.
    /// `None`: all repositories of the registry.
    pub only_for: Option<String>,
    found_at: SystemTime,
}

impl ActiveCredentials {
    /// Returns whether the secret has expired since the plugin found it, by the clock of this machine.
    pub fn has_expired(&self) -> bool {
        self.login.expires.is_some_and(|end| self.found_at < end && end <= SystemTime::now())
    }

    /// Returns empty credentials, for steps of a push that do not contact the registry.
    pub fn anonymous() -> Self {
        let credentials = Credentials::anonymous();
        let login = Login::new(&credentials, Source::Nothing, Vec::new());
        Self { number: 0, credentials, login, only_for: None, found_at: SystemTime::now() }
    }
}

/// All credentials for one registry in this run of the plugin, in the order in which the credentials were found or
/// typed.
#[derive(Debug, Default)]
pub struct Logins {
    active: Vec<ActiveCredentials>,
    /// The credentials that were looked up before any push needed credentials. The first push takes these credentials
    /// and shows the warnings of the lookup.
    pub prefetched: Option<LookedUp>,
}

impl Logins {
    /// Returns whether no credentials for the registry were looked up or typed so far.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.prefetched.is_none()
    }

    /// Returns the newest credentials that apply to the given repository.
    pub fn of(&self, repository: &str) -> Option<&ActiveCredentials> {
        let is_for_it =
            |active: &&ActiveCredentials| active.only_for.as_deref().is_none_or(|only| only == repository);
        self.active.iter().rfind(is_for_it)
    }

    /// Returns the first credentials whose number is higher than the given number.
    pub fn newer_than(&self, number: u32) -> Option<&ActiveCredentials> {
        self.active.iter().find(|active| active.number > number)
    }

    /// Adds credentials, and returns the credentials with their number.
    ///
    /// * `only_for`: the only repository that uses the credentials. `None`: the credentials replace all earlier
    ///   credentials, for all repositories.
    pub fn add(
        &mut self,
        credentials: Credentials,
        login: Login,
        only_for: Option<String>,
    ) -> ActiveCredentials {
        let number = u32::try_from(self.active.len()).unwrap_or(u32::MAX).saturating_add(1);
        let active = ActiveCredentials { number, credentials, login, only_for, found_at: SystemTime::now() };
        self.active.push(active.clone());
        active
    }
}

/// The guard of the lock in a registry's [`Gate`]. A push holds this guard (the pass) while the push looks up
/// credentials, tries new credentials, or prompts the user.
pub type Pass<'a> = MutexGuard<'a, Logins>;

#[derive(Debug)]
pub struct Gate {
    /// The only repository that uses the gate and its credentials; `None`: all repositories of the registry that have no
    /// gate of their own.
    pub repository: Option<String>,
    logins: Mutex<Logins>,
    /// The registry has accepted a push with the newest credentials, so pushes may run in parallel.
    is_open: Cell<bool>,
    /// A prompt for the registry gave no usable credentials. The plugin does not prompt again for this registry in
    /// this run.
    pub has_prompt_failed: Cell<bool>,
    /// The command of `--password-command` ran again after a refusal, and the registry has accepted no push since.
    pub has_renewed: Cell<bool>,
    /// The user passed `--save-credentials`, and no push has tried to save the registry's credentials so far.
    pub must_be_saved: Cell<bool>,
}

impl Gate {
    /// * `repository`: see [`Gate::repository`].
    /// * `must_be_saved`: the user passed `--save-credentials`.
    pub fn new(repository: Option<String>, must_be_saved: bool) -> Self {
        Self {
            repository,
            logins: Mutex::default(),
            is_open: Cell::new(false),
            has_prompt_failed: Cell::new(false),
            has_renewed: Cell::new(false),
            must_be_saved: Cell::new(must_be_saved),
        }
    }

    /// Waits until no other push holds the pass, and returns the pass.
    pub async fn enter(&self) -> Pass<'_> {
        self.logins.lock().await
    }

    /// Returns whether several pushes may use the registry's newest credentials at the same time.
    pub fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// Releases the pass and lets all pushes run, because the registry has accepted the push that held the pass. Does
    /// nothing if `pass` is `None`.
    pub fn open(&self, pass: &mut Option<Pass<'_>>) {
        if pass.take().is_some() {
            self.is_open.set(true);
            self.has_renewed.set(false);
        }
    }

    /// Closes the gate after the user has typed credentials, so that only one push tries the typed credentials.
    pub fn close(&self) {
        self.is_open.set(false);
    }
}

/// Lets one push to a repository run alone. After a push has succeeded, the other pushes to the repository run in
/// parallel.
#[derive(Debug, Default)]
pub struct Lead {
    turn: Mutex<()>,
    is_open: Cell<bool>,
}

impl Lead {
    /// Waits while another push to the repository runs alone. Returns a guard if no push has succeeded so far. While
    /// the caller holds the guard, no other push to the repository runs.
    pub async fn follow(&self) -> Option<MutexGuard<'_, ()>> {
        if self.is_open.get() {
            return None;
        }
        let turn = self.turn.lock().await;
        Some(turn).filter(|_| !self.is_open.get())
    }

    /// Records that a push to the repository has succeeded, so that other pushes no longer wait.
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

    /// Polls a future once. Returns `None` if the future is pending.
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
        let gate = Gate::new(None, false);
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
