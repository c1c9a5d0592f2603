//! One push by the engine to the relay, for the pushes of an image to one registry or several.
//!
//! [`SharedPush::run`] lets the engine push. The push to each registry has a [`Participant`], which receives the news of the
//! engine and the upload to the registry.

use std::cell::RefCell;
use std::mem::take;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use hyper::StatusCode;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cli::RelayMode;
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::push::{PushRequest, PushStream};
use crate::engine::tag::TemporaryTag;
use crate::event::{Event, LayerState};
use crate::oci::Descriptor;
use crate::present::presenter::Level;
use crate::progress::Progress;
use crate::push::error::{AttemptError, PushError};
use crate::push::naming::remove_tag;
use crate::push::session::Session;
use crate::push::subject::{Subject, inspect_all};
use crate::push::upload::stream::{AFTER_REFUSAL, StreamFacts, finished, until};
use crate::reference::Reference;
use crate::relay::job::Job;
use crate::relay::reach::{self, Obstacle, Unreachable};
use crate::relay::upstream::{SentManifest, Settings, Upstream};
use crate::relay::watched::Watched;
use crate::relay::{Relay, address, leftover};

/// The reason why an image cannot go through the relay.
pub enum OpenError {
    /// The engine cannot use the relay.
    Unusable(Obstacle),
    Failed(AttemptError),
}

impl From<PushError> for OpenError {
    fn from(error: PushError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<String> for OpenError {
    fn from(reason: String) -> Self {
        Self::Unusable(Obstacle { reason, hint: None })
    }
}

/// News of the engine for each push.
pub enum News {
    Event(Event),
    /// The engine is at work.
    Work,
    /// A note or a warning for the user.
    Line(Level, String),
}

/// The reason why the engine's push failed.
pub enum EngineFailure {
    /// The engine refused the push. `message`: the engine's raw message; `status`: the HTTP status of the response, if the
    /// response was an error.
    Refused { message: String, status: Option<StatusCode> },
    /// Another failure, until a push has taken it. `EngineError` cannot be cloned, so one push reports it.
    Other(RefCell<Option<EngineError>>),
}

/// The end of the engine's push.
pub struct EngineEnd {
    pub facts: StreamFacts,
    /// The progress of the layers as the engine reported it.
    pub progress: Progress,
    pub failure: Option<EngineFailure>,
    /// The engine has reached the relay.
    pub was_reached: bool,
    /// The `address:port` of the relay.
    pub domain: String,
    /// The manifests of the image.
    pub manifests: Vec<SentManifest>,
    /// The manifest that the tag names, if the registries have it or get it.
    pub manifest: Option<Descriptor>,
}

/// A push by the engine to the relay, and what the pushes to the registries know of it.
pub struct SharedPush {
    /// The references under which the registries get the image.
    references: Vec<Reference>,
    state: Watched<State>,
}

struct State {
    /// The senders of news to the participants; `None`: the push of the participant has ended, or it goes on alone.
    participants: Vec<Option<mpsc::UnboundedSender<News>>>,
    /// A push has reached its upload.
    is_wanted: bool,
    opened: Option<Opened>,
    end: Option<Rc<EngineEnd>>,
    is_cleaned_up: bool,
    /// The notes and warnings that came after the end of all pushes.
    late: Vec<(Level, String)>,
}

enum Opened {
    /// The registries, in the order of the references.
    Yes(Vec<Arc<Upstream>>),
    Unusable(Obstacle),
    /// The failure, which the push with this index reports.
    Failed(usize, Option<AttemptError>),
}

/// The part of one push in a shared push. Dropping it ends the upload to its registry.
pub struct Participant {
    shared: Rc<SharedPush>,
    index: usize,
    pub news: mpsc::UnboundedReceiver<News>,
}

impl SharedPush {
    /// * `references`: the references under which the registries get the image.
    pub fn new(references: Vec<Reference>) -> (Rc<Self>, Vec<Participant>) {
        let channels = references.iter().map(|_| mpsc::unbounded_channel());
        let (senders, receivers): (Vec<_>, Vec<_>) = channels.unzip();
        let state = State {
            participants: senders.into_iter().map(Some).collect(),
            is_wanted: false,
            opened: None,
            end: None,
            is_cleaned_up: false,
            late: Vec::new(),
        };
        let shared = Rc::new(Self { references, state: Watched::new(state) });
        let participant = |(index, news)| Participant { shared: Rc::clone(&shared), index, news };
        let participants = receivers.into_iter().enumerate().map(participant).collect();
        (shared, participants)
    }

    fn tell(&self, news: impl Fn() -> News) {
        for participant in self.state.lock().participants.iter().flatten() {
            // The receiver exists as long as the participant.
            let _ = participant.send(news());
        }
    }

    /// Tells one push a note or a warning for the user, or keeps it if all pushes have ended.
    fn tell_one(&self, level: Level, line: String) {
        let mut state = self.state.lock();
        match state.participants.iter().flatten().next() {
            Some(participant) => _ = participant.send(News::Line(level, line)),
            None => state.late.push((level, line)),
        }
    }

    /// Waits until the engine's push has ended and its temporary name is removed.
    pub async fn cleaned_up(&self) {
        self.state.until(|state| state.is_cleaned_up.then_some(())).await;
    }

    /// Waits for the end of the engine's push.
    pub async fn end(&self) -> Rc<EngineEnd> {
        self.state.until(|state| state.end.clone()).await
    }

    /// Returns the end of the engine's push, if the engine has sent the manifests of the image.
    pub fn complete_end(&self) -> Option<Rc<EngineEnd>> {
        let end = self.state.lock().end.clone();
        let has_tag = |end: &EngineEnd| end.manifests.iter().any(|manifest| manifest.by_digest.is_none());
        end.filter(|end| end.failure.is_none() && has_tag(end))
    }

    /// Returns the notes and warnings that came after the end of all pushes.
    pub fn take_late(&self) -> Vec<(Level, String)> {
        take(&mut self.state.lock().late)
    }

    pub fn is_cleaned_up(&self) -> bool {
        self.state.lock().is_cleaned_up
    }

    /// Lets the engine push the image as soon as the first push wants it, until the engine has sent the image, or no push wants
    /// it any more.
    ///
    /// * `subject`: the image. The references of the participants count, and not that of the subject.
    /// * `wants_objects`: report the JSON objects of the engine's stream.
    pub async fn run(
        &self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        wants_objects: bool,
    ) {
        let is_wanted = self.state.until(|state| match state.is_wanted {
            true => Some(true),
            false => state.participants.iter().all(Option::is_none).then_some(false),
        });
        if is_wanted.await {
            self.push(session, engine, subject, wants_objects).await;
        }
        self.state.change(|state| state.is_cleaned_up = true);
    }

    async fn push(
        &self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
        wants_objects: bool,
    ) {
        let first = self.state.lock().participants.iter().position(Option::is_some).unwrap_or_default();
        let subject = Subject { reference: &self.references[first], ..*subject };
        let open = match self.open(session, engine, &subject).await {
            Ok(open) => open,
            Err(error) => {
                let opened = match error {
                    OpenError::Unusable(obstacle) => Opened::Unusable(obstacle),
                    OpenError::Failed(error) => Opened::Failed(first, Some(error)),
                };
                return self.state.change(|state| state.opened = Some(opened));
            }
        };
        let settings = settings(session);
        let upstreams: Vec<_> = self
            .references
            .iter()
            .map(|reference| {
                let sources = mount_sources(&open.repositories, reference);
                Upstream::new(reference.domain(), settings.clone(), sources)
            })
            .collect();
        self.state.change(|state| {
            for (participant, upstream) in state.participants.iter().zip(&upstreams) {
                if participant.is_none() {
                    upstream.stop();
                }
            }
            state.opened = Some(Opened::Yes(upstreams.clone()));
        });
        let (path, tag) = (open.name.path().to_owned(), open.name.tag_or_latest().to_owned());
        let job = Job::new(path, tag, upstreams);
        let end = self.follow(engine, &subject, wants_objects, &open, &job).await;
        self.state.change(|state| state.end = Some(Rc::new(end)));
        let Open { relay, tag, .. } = open;
        if let Some(tag) = tag
            && let Some(warning) = remove_tag(session, engine, tag).await
        {
            self.tell_one(Level::Warning, warning);
        }
        if relay.is_forwarded() {
            // The next image needs no other login.
            session.forwarded.borrow_mut().push(relay);
        }
    }
}

impl Participant {
    pub fn shared(&self) -> &Rc<SharedPush> {
        &self.shared
    }

    /// Waits until the relay can receive the image, and returns the upload to the registry of this push.
    ///
    /// # Errors
    /// The image cannot go through the relay. `None`: another push reports the failure.
    pub async fn upstream(&self) -> Result<Arc<Upstream>, Option<OpenError>> {
        let shared = &self.shared;
        shared.state.change(|state| state.is_wanted = true);
        let opened = shared.state.until(|state| match &mut state.opened {
            Some(Opened::Yes(upstreams)) => Some(Ok(Arc::clone(&upstreams[self.index]))),
            Some(Opened::Unusable(obstacle)) => Some(Err(Some(OpenError::Unusable(obstacle.clone())))),
            Some(Opened::Failed(at, error)) => {
                Some(Err(error.take_if(|_| *at == self.index).map(OpenError::Failed)))
            }
            None => None,
        });
        opened.await
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.shared.state.change(|state| {
            state.participants[self.index] = None;
            if let Some(Opened::Yes(upstreams)) = &state.opened {
                upstreams[self.index].stop();
            }
        });
    }
}

struct Open {
    relay: Relay,
    /// The name under which the engine pushes the image to the relay.
    name: Reference,
    /// The temporary tag with this name. `None`: the image had this name before.
    tag: Option<TemporaryTag>,
    /// The repositories that have the image, as the engine knows.
    repositories: Vec<String>,
}

impl SharedPush {
    /// Listens on a loopback address, and gives the image a temporary name there.
    async fn open(
        &self,
        session: &Session<'_>,
        engine: &mut Engine,
        subject: &Subject<'_>,
    ) -> Result<Open, OpenError> {
        let reference = subject.reference;
        let directory = session.keyring.config.path.parent().unwrap_or(Path::new("."));
        let naming = session.naming.lock().await;
        leftover::remove_old(directory, engine).await;
        drop(naming);
        let domains: Vec<&str> = self.references.iter().map(Reference::domain).collect();
        let mut preferred = address::preferred(&address::user(), &domains.join(" "));
        loop {
            let (relay, warning) = listen(session, engine, subject, preferred).await?;
            if let Some(warning) = warning {
                self.tell_one(Level::Warning, warning);
            }
            let image = inspect_all(engine, subject).await;
            let image = image.map_err(|error| OpenError::Failed(subject.attempt_error(error)))?;
            let name = format!("{}/{}:{}", relay.domain(), reference.path(), reference.tag_or_latest());
            let name: Reference = name.parse().map_err(|error| format!("`{name}`: {error}"))?;
            let (id, repositories) = (image.id, image.repositories);
            match engine.inspect(&name.canonical()).await {
                Err(EngineError::Answered { status: StatusCode::NOT_FOUND, .. }) => {}
                Err(error) => return Err(subject.engine_error(error).into()),
                Ok(own) if own.id == id => return Ok(Open { relay, name, tag: None, repositories }),
                // Another image has this name. Another port makes another name.
                Ok(_) if preferred.port() != 0 => {
                    preferred = SocketAddr::from((preferred.ip(), 0));
                    continue;
                }
                Ok(other) => {
                    let found = other.id;
                    return Err(PushError::Taken { reference: name.familiar(), found, id }.into());
                }
            }
            let record = leftover::record(directory, engine, &name, &id, relay.address());
            if let Err(error) = &record {
                let (name, directory) = (name.familiar(), directory.display());
                let note = format!("cannot record the temporary name {name} in `{directory}`: {error}");
                self.tell_one(Level::Note, note);
            }
            let naming = session.naming.lock().await;
            let tag = engine.tag(subject.local_name, &id, &name, record.ok()).await;
            drop(naming);
            let tag = tag.map_err(|error| subject.engine_error(error))?;
            session.added_tags.borrow_mut().insert(name.canonical());
            return Ok(Open { relay, name, tag: Some(tag), repositories });
        }
    }

    /// Sends the push request, and follows the engine's push until its end, or until no registry is left.
    async fn follow(
        &self,
        engine: &mut Engine,
        subject: &Subject<'_>,
        wants_objects: bool,
        open: &Open,
        job: &Arc<Job>,
    ) -> EngineEnd {
        let credentials = job.guard.credentials();
        let request = PushRequest {
            reference: &open.name,
            credentials: &credentials,
            platform: subject.platform,
            wants_objects,
        };
        let (mut facts, mut progress) = (StreamFacts::default(), Progress::default());
        let mut pushing = Some(Box::pin(engine.push(&request)));
        let mut stream: Option<PushStream> = None;
        // Declared after `pushing` and `stream`, so that the engine's connections close first if this future is dropped.
        let server = open.relay.serve(job);
        let mut deadline: Option<Instant> = None;
        let mut waits = job.waits();
        let failed = loop {
            tokio::select! {
                biased;
                () = job.ended() => break None,
                // The push to a registry that has all data so far is not stalled.
                _ = waits.changed() => self.tell(|| News::Work),
                () = until(deadline) => break None,
                answer = finished(&mut pushing) => {
                    pushing = None;
                    match answer {
                        Ok(answer) => stream = Some(answer),
                        Err(error) => break Some(error),
                    }
                }
                more = next(&mut stream, |event| {
                    facts.apply(&event);
                    self.report(&event, progress.apply(&event), open.name.domain());
                }) => match more {
                    Ok(true) => {}
                    Ok(false) => {
                        stream = None;
                        break None;
                    }
                    Err(error) => break Some(error),
                }
            }
            if facts.refusal.is_some() && deadline.is_none() {
                deadline = Some(Instant::now() + AFTER_REFUSAL);
            }
        };
        // Close the engine's connections before its push request, so that the engine sees no failure that it would retry.
        drop(server);
        drop(pushing);
        if let Some(stream) = stream
            && !engine.stop(stream).await
        {
            self.tell_one(Level::Note, "the engine did not confirm that it stopped the push".to_owned());
        }
        let failure = match (facts.refusal.clone(), failed) {
            (Some(message), _) => Some(EngineFailure::Refused { message, status: None }),
            (None, Some(EngineError::Answered { status, message })) => {
                Some(EngineFailure::Refused { message, status: Some(status) })
            }
            (None, Some(error)) => {
                Some(EngineFailure::Other(RefCell::new(Some(engine.explain(error).await))))
            }
            (None, None) => None,
        };
        EngineEnd {
            facts,
            progress,
            failure,
            was_reached: job.guard.was_reached(),
            domain: open.name.domain().to_owned(),
            manifests: job.take_manifests(),
            manifest: job.manifest(&job.tag),
        }
    }

    /// Tells the pushes about an event of the engine's stream. Only the states of layers that the engine does not send are
    /// told, since the relay reports the others.
    ///
    /// * `has_changed`: the event changed the progress of the engine.
    /// * `domain`: the `address:port` of the relay.
    fn report(&self, event: &Event, has_changed: bool, domain: &str) {
        match event {
            Event::Layer {
                state: LayerState::AlreadyExists | LayerState::MountedFrom(_) | LayerState::SkippedForeign,
                ..
            } => self.tell(|| News::Event(event.clone())),
            // The engine may compress a layer before it sends data.
            Event::Layer { .. } if has_changed => self.tell(|| News::Work),
            Event::Note { text } if text.contains(domain) => {}
            Event::Note { .. } | Event::Object { .. } => self.tell(|| News::Event(event.clone())),
            // The facts have these, and the registries may not have stored a pushed manifest so far.
            Event::Layer { .. }
            | Event::Pushed { .. }
            | Event::Refused { .. }
            | Event::ContentMissing
            | Event::PlatformInsteadOfIndex(_) => {}
        }
    }
}

/// Returns the options of uploads through the relay.
pub fn settings(session: &Session<'_>) -> Settings {
    let options = session.options;
    Settings { retries: options.retries, rate: session.rate.clone(), chunk_size: options.chunk_size }
}

/// Checks whether the engine can use the relay. Does not check an engine over ssh, since this would need one more login; the push
/// itself shows whether such an engine reaches the relay.
///
/// # Errors
/// The engine cannot use the relay, or cannot be reached.
pub async fn check_reach(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
) -> Result<(), OpenError> {
    if session.options.relay == RelayMode::Always && engine.is_connect_expensive() {
        return Ok(());
    }
    let preferred = address::preferred(&address::user(), subject.reference.domain());
    listen(session, engine, subject, preferred).await.map(|_| ())
}

/// Listens on a loopback address that the engine can reach. Also returns a warning for the user.
///
/// * `preferred`: the address to use, if it is free.
async fn listen(
    session: &Session<'_>,
    engine: &mut Engine,
    subject: &Subject<'_>,
    preferred: SocketAddr,
) -> Result<(Relay, Option<String>), OpenError> {
    let endpoint = engine.endpoint();
    if !endpoint.address.is_here() && session.options.relay != RelayMode::Always {
        return Err(OpenError::Unusable(Obstacle {
            reason: format!("the engine is on another machine ({endpoint})"),
            hint: Some("pass `--relay always` to upload its images through this machine".to_owned()),
        }));
    }
    let idle = session.forwarded.borrow_mut().pop();
    if let Some(relay) = idle.filter(Relay::is_forwarded) {
        return Ok((relay, None));
    }
    let listening = reach::listen(preferred, engine, &session.reach).await;
    listening.map_err(|error| match error {
        Unreachable::Obstacle(obstacle) => OpenError::Unusable(obstacle),
        Unreachable::Engine(error) => subject.engine_error(error).into(),
    })
}

/// Returns the paths of other repositories of the registry that have the image, from the engine's `RepoDigests`.
fn mount_sources(repositories: &[String], reference: &Reference) -> Vec<String> {
    /// More repositories than this would cost more requests than the mounts save.
    const MOST: usize = 2;
    let names = repositories.iter().filter_map(|name| name.parse::<Reference>().ok());
    let others = names.filter(|name| name.domain() == reference.domain() && name.path() != reference.path());
    others.take(MOST).map(|name| name.path().to_owned()).collect()
}

/// Waits for more of the engine's stream; forever if there is no stream.
async fn next(stream: &mut Option<PushStream>, on_event: impl FnMut(Event)) -> Result<bool, EngineError> {
    match stream {
        Some(stream) => stream.next(on_event).await,
        None => std::future::pending().await,
    }
}
