//! Where pushes of a call wait for one of them that goes alone.
//!
//! At the [`Gate`] of a registry its login is looked up once, tried by one push, and asked for once: several
//! pushes at once with a wrong password would cost the registry as many failed logins, and its user perhaps an
//! account. Into a repository the first goes [alone](Lead): tags of it mostly share their layers, and engines
//! send a layer once for each push that begins before it is there (docker 28's containerd store: 4 layers and a
//! configuration under 6 tags at once, sent 22 times in place of 5; measured).

use std::cell::Cell;

use tokio::sync::{Mutex, MutexGuard};

use crate::credentials::Credentials;
use crate::credentials::keyring::LookedUp;
use crate::credentials::login::{Login, Source};

/// Credentials that are in use.
#[derive(Clone, Debug)]
pub struct ActiveCredentials {
    /// Which login of the call this is, counted from 1.
    pub number: u32,
    pub credentials: Credentials,
    pub login: Login,
    /// The repository that it was asked for, where another login may not write; others begin as before.
    only_for: Option<String>,
}

impl ActiveCredentials {
    /// No credentials, for questions that need none.
    pub fn anonymous() -> Self {
        let credentials = Credentials::anonymous();
        let login = Login::new(&credentials, Source::Nothing, Vec::new());
        Self { number: 0, credentials, login, only_for: None }
    }
}

/// All logins of the call for this registry, in the order in which they came up.
#[derive(Debug, Default)]
pub struct Logins {
    active: Vec<ActiveCredentials>,
    /// The first of them, looked up ahead, for the first push to take and to tell of.
    pub prefetched: Option<LookedUp>,
}

impl Logins {
    /// Nobody has looked one up so far.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.prefetched.is_none()
    }

    /// The one to go on with: the last that is for this repository, or for all of them.
    pub fn of(&self, repository: &str) -> Option<&ActiveCredentials> {
        let is_for_it =
            |active: &&ActiveCredentials| active.only_for.as_deref().is_none_or(|only| only == repository);
        self.active.iter().rfind(is_for_it)
    }

    /// One that this push has not tried.
    pub fn newer_than(&self, number: u32) -> Option<&ActiveCredentials> {
        self.active.iter().find(|active| active.number > number)
    }

    /// * `only_for`: a repository; `None`: those before are of no use any more.
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

/// Held by who looks a login up, tries it first, or asks for another.
pub type Pass<'a> = MutexGuard<'a, Logins>;

#[derive(Debug)]
pub struct Gate {
    logins: Mutex<Logins>,
    /// The registry has let a push in with the first of them.
    is_open: Cell<bool>,
    /// A prompt for this registry ended without credentials that help. The user is not asked twice in one call.
    pub has_prompt_failed: Cell<bool>,
    /// A login that was typed or given is still to be kept.
    pub is_to_be_kept: Cell<bool>,
}

impl Gate {
    /// * `is_to_be_kept`: a login that comes up in this call.
    pub fn new(is_to_be_kept: bool) -> Self {
        Self {
            logins: Mutex::default(),
            is_open: Cell::new(false),
            has_prompt_failed: Cell::new(false),
            is_to_be_kept: Cell::new(is_to_be_kept),
        }
    }

    /// Waits until nobody else is at the gate.
    pub async fn enter(&self) -> Pass<'_> {
        self.logins.lock().await
    }

    /// Whether who comes with the first login need not come alone.
    pub fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// The registry has let in who holds the pass, and lets in all others.
    pub fn open(&self, pass: &mut Option<Pass<'_>>) {
        if pass.take().is_some() {
            self.is_open.set(true);
        }
    }

    /// There is another login, to be tried by its owner alone.
    pub fn close(&self) {
        self.is_open.set(false);
    }
}

/// The first push into a repository, which the others follow once it is through.
#[derive(Debug, Default)]
pub struct Lead {
    turn: Mutex<()>,
    is_open: Cell<bool>,
}

impl Lead {
    /// Waits for the push that goes alone. What this returns is held by who does so now, since nobody has got
    /// through so far.
    pub async fn follow(&self) -> Option<MutexGuard<'_, ()>> {
        if self.is_open.get() {
            return None;
        }
        let turn = self.turn.lock().await;
        Some(turn).filter(|_| !self.is_open.get())
    }

    /// A push is through: from now on they need not wait for each other.
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

    /// Polls once; `None`: it waits.
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
    fn the_newest_credentials_for_a_repository_are_used() {
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
        assert_eq!(number(&logins, "r/a"), Some(4), "those for all repositories replace the earlier ones");
        let newer = |number| logins.newer_than(number).map(|active| active.number);
        assert_eq!([newer(0), newer(1), newer(4)], [Some(1), Some(2), None]);
    }

    #[test]
    fn one_push_goes_through_the_gate_until_the_registry_lets_it_in() {
        let gate = Gate::new(false);
        let mut pass = now(gate.enter());
        assert!(pass.is_some() && now(gate.enter()).is_none(), "the second waits");
        gate.open(&mut pass);
        assert!(gate.is_open() && pass.is_none() && now(gate.enter()).is_some());
        gate.close();
        gate.open(&mut None);
        assert!(!gate.is_open(), "only the holder of the pass opens the gate");
    }

    #[test]
    fn pushes_follow_the_first_into_a_repository_once_it_is_through() {
        let lead = Lead::default();
        let first = now(lead.follow()).expect("nothing to wait for");
        assert!(first.is_some() && now(lead.follow()).is_none(), "the second waits");
        drop(first);
        let second = now(lead.follow()).expect("the first has failed");
        assert!(second.is_some(), "so the second goes alone");
        lead.open();
        assert!(now(lead.follow()).expect("open").is_none());
    }
}
