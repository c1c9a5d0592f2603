//! Says which platforms of an image are sent.

use std::cell::RefCell;
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::images::ImageInspect;
use crate::event::Narrowed;
use crate::platform::{Platform, PlatformSelection};
use crate::present::presenter::ImageReporter;
use crate::push::error::PushError;
use crate::push::platforms::Platforms;
use crate::push::subject::Subject;
use crate::reference::Reference;

/// How long the engine may take to inspect an image whose push is over.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Says once in a push which platforms are sent, whichever part of the push has inspected the image first.
pub struct Announcer<'a> {
    reference: &'a Reference,
    selection: Option<&'a PlatformSelection>,
    reporter: ImageReporter<'a>,
    state: RefCell<State>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The push itself inspects the image, so a background task must not announce it.
    Claimed,
    /// `None`: the image is for one platform, or the engine does not list platforms.
    Done(Option<Platforms>),
}

impl<'a> Announcer<'a> {
    pub fn new(
        reference: &'a Reference,
        selection: Option<&'a PlatformSelection>,
        reporter: ImageReporter<'a>,
    ) -> Self {
        Self { reference, selection, reporter, state: RefCell::new(State::Open) }
    }

    pub fn is_done(&self) -> bool {
        matches!(*self.state.borrow(), State::Done(_))
    }

    /// There is nothing to say about this image.
    pub fn skip(&self) {
        if !self.is_done() {
            *self.state.borrow_mut() = State::Done(None);
        }
    }

    /// The platforms that were announced.
    pub fn platforms(&self) -> Option<Platforms> {
        match &*self.state.borrow() {
            State::Done(platforms) => platforms.clone(),
            State::Open | State::Claimed => None,
        }
    }

    /// Says which platforms are sent, unless that was said before.
    ///
    /// # Errors
    /// [`PushError::Incomplete`] for `--platform all`.
    pub fn announce(&self, image: &ImageInspect) -> Result<(), PushError> {
        if self.is_done() {
            return Ok(());
        }
        let platforms = Platforms::of(&image.manifests, self.platform());
        if self.selection == Some(&PlatformSelection::All)
            && let Some(Platforms { missing, .. }) = &platforms
            && !missing.is_empty()
        {
            let (reference, platforms) = (self.reference.familiar(), missing.clone());
            return Err(PushError::Incomplete { reference, platforms });
        }
        self.finish(platforms);
        Ok(())
    }

    /// The same for a task in the background, which cannot end the push.
    pub fn announce_in_background(&self, image: &ImageInspect) {
        if *self.state.borrow() == State::Open {
            self.finish(Platforms::of(&image.manifests, self.platform()));
        }
    }

    /// Inspects and announces an image that was not announced before its push.
    ///
    /// # Errors
    /// Those of [`announce`](Self::announce). If the engine does not answer in time, nothing is said.
    pub async fn announce_late(&self, engine: &mut Engine, subject: &Subject<'_>) -> Result<(), PushError> {
        if self.is_done() {
            return Ok(());
        }
        *self.state.borrow_mut() = State::Claimed;
        match tokio::time::timeout(TIMEOUT, engine.inspect(subject.local_name)).await {
            Ok(Ok(image)) => self.announce(&image),
            _ => Ok(()),
        }
    }

    /// Records that the engine sent one platform instead of all, and returns the warning about that.
    pub fn narrow(&self, Narrowed { platform, digest, index }: Narrowed) -> String {
        let what = platform.clone().unwrap_or_else(|| "the platform that is".to_owned());
        let mut platforms = self.platforms().unwrap_or_default();
        (platforms.sent, platforms.others) = (platform.into_iter().collect(), 0);
        *self.state.borrow_mut() = State::Done(Some(platforms));
        format!(
            "not every platform of the image is here; only {what} was pushed under this tag: {digest} in place of the index {index}"
        )
    }

    fn finish(&self, platforms: Option<Platforms>) {
        if let Some(platforms) = &platforms {
            self.reporter.note(&platforms.announce(self.platform()));
        }
        *self.state.borrow_mut() = State::Done(platforms);
    }

    fn platform(&self) -> Option<&'a Platform> {
        self.selection.and_then(PlatformSelection::one)
    }
}
