//! Tells the user which platforms of an image a push sends.

use std::cell::RefCell;
use std::time::Duration;

use crate::cli::Verify;
use crate::engine::Engine;
use crate::engine::images::ImageInspect;
use crate::event::Narrowed;
use crate::platform::{Platform, PlatformSelection};
use crate::present::presenter::ImageReporter;
use crate::push::error::PushError;
use crate::push::platforms::Platforms;
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::reference::Reference;
use crate::text::counted;

/// The timeout of the request that inspects the image after the upload.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The delay after which a background task inspects the image, to list the image's platforms during the upload. After a
/// shorter upload, the verification may show that the image has one platform, which makes the inspection unnecessary.
/// Docker's containerd store needs about half of the delay for an inspection.
const SHORT_PUSH: Duration = Duration::from_millis(100);

/// Tells the user the platforms of an image at most once in a push. Several steps of a push inspect the image; the
/// first of these steps calls [`announce`](Self::announce).
pub struct Announcer<'a> {
    reference: &'a Reference,
    selection: Option<&'a PlatformSelection>,
    reporter: ImageReporter<'a>,
    state: RefCell<State>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The push itself is inspecting the image, so a background task must not tell the user the platforms.
    Claimed,
    /// No platforms are left to tell the user. `None`: the image has one platform, or the engine does not list
    /// platforms.
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

    /// Records that the push has no platforms to tell the user.
    pub fn skip(&self) {
        if !self.is_done() {
            *self.state.borrow_mut() = State::Done(None);
        }
    }

    /// Returns the platforms that the reporter has shown to the user, or `None` if it has shown none.
    pub fn platforms(&self) -> Option<Platforms> {
        match &*self.state.borrow() {
            State::Done(platforms) => platforms.clone(),
            State::Open | State::Claimed => None,
        }
    }

    /// Tells the user which platforms of the image a push sends, unless the state is [`State::Done`].
    ///
    /// # Errors
    /// [`PushError::Incomplete`] for `--platform all`, if the engine does not have all platforms of the image.
    pub fn announce(&self, image: &ImageInspect) -> Result<(), PushError> {
        if self.is_done() {
            return Ok(());
        }
        let platforms = Platforms::of(&image.manifests, self.platform());
        if self.selection == Some(&PlatformSelection::All)
            && let Some(Platforms { missing, missing_others, .. }) = &platforms
            && (!missing.is_empty() || *missing_others > 0)
        {
            let attestations = (*missing_others > 0).then(|| counted(*missing_others, "attestation"));
            let platforms = missing.iter().cloned().chain(attestations).collect();
            return Err(PushError::Incomplete { reference: self.reference.familiar(), platforms });
        }
        self.finish(platforms);
        Ok(())
    }

    /// Tells the user the platforms from a background task, which cannot make the push fail.
    pub fn announce_in_background(&self, image: &ImageInspect) {
        if *self.state.borrow() == State::Open {
            self.finish(Platforms::of(&image.manifests, self.platform()));
        }
    }

    /// Inspects the image after the upload and shows the platforms to the user, unless the state is [`State::Done`].
    ///
    /// # Errors
    /// The errors of [`announce`](Self::announce). If the engine does not respond within 2 s, this method returns
    /// `Ok` and the reporter shows no platforms.
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

    /// Records that the engine pushed one platform instead of all platforms, and returns a warning for the user.
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

/// Inspects the image during the upload, for the steps after the upload.
///
/// Errors are ignored, since a step after the upload repeats the failed request if necessary.
pub async fn prefetch(
    session: &Session<'_>,
    mut engine: Engine,
    subject: &Subject<'_>,
    announcer: &Announcer<'_>,
) {
    if engine.is_connect_expensive() {
        return;
    }
    if session.options.verify != Verify::Never {
        tokio::time::sleep(SHORT_PUSH).await;
    }
    if !announcer.is_done()
        && let Ok(image) = engine.inspect(subject.local_name).await
    {
        announcer.announce_in_background(&image);
    }
}
