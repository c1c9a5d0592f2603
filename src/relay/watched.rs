//! State that tasks share, and whose changes they wait for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// A value behind a lock. Each change wakes the tasks that wait for one.
#[derive(Debug)]
pub struct Watched<T> {
    value: Mutex<T>,
    version: watch::Sender<()>,
}

impl<T> Watched<T> {
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), version: watch::Sender::new(()) }
    }

    /// Locks the value. A change through the guard wakes no task.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value, and wakes all tasks that wait for a change.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let changed = change(&mut self.lock());
        self.wake();
        changed
    }

    /// Wakes all tasks that wait for a change.
    pub fn wake(&self) {
        self.version.send_replace(());
    }

    /// Returns a receiver that changes after each change of the value.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.version.subscribe()
    }

    /// Waits until `check` returns a result. Calls `check` after each change of the value.
    pub async fn until<R>(&self, mut check: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut changes = self.changes();
        loop {
            if let Some(result) = check(&mut self.lock()) {
                return result;
            }
            // The sender exists as long as `self`, so this wait does not fail.
            let _ = changes.changed().await;
        }
    }
}
