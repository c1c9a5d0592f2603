//! Announces which platforms of an image are sent.

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

/// Timeout of an image inspect after the upload.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Announces the platforms once in a push. Several parts of a push inspect the image; the first one announces.
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

    /// Marks the image as having nothing to announce.
    pub fn skip(&self) {
        if !self.is_done() {
            *self.state.borrow_mut() = State::Done(None);
        }
    }

    /// Returns the announced platforms.
    pub fn platforms(&self) -> Option<Platforms> {
        match &*self.state.borrow() {
            State::Done(platforms) => platforms.clone(),
            State::Open | State::Claimed => None,
        }
    }

    /// Announces which platforms are sent, unless that is done already.
    ///
    /// # Errors
    /// [`PushError::Incomplete`] for `--platform all`, if platforms are missing in the engine.
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

    /// Does the same as [`announce`](Self::announce) for a background task, which cannot fail the push.
    pub fn announce_in_background(&self, image: &ImageInspect) {
        if *self.state.borrow() == State::Open {
            self.finish(Platforms::of(&image.manifests, self.platform()));
        }
    }

    /// Inspects and announces the image after its upload, unless it is announced already.
    ///
    /// # Errors
    /// Those of [`announce`](Self::announce). If the engine does not answer within 2 s, nothing is announced.
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
        let what = platform.clone().unwrap_or_else(|| "one platform".to_owned());
        let mut platforms = self.platforms().unwrap_or_default();
        (platforms.sent, platforms.others) = (platform.into_iter().collect(), 0);
        *self.state.borrow_mut() = State::Done(Some(platforms));
        format!(
            "only {what} was pushed, as {digest}: the engine does not have all platforms of the index {index}"
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
