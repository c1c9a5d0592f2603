//! Pushes one local image to all its destinations.

use std::cell::RefCell;
use std::mem::take;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt as _};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::present::presenter::{ImageReporter, Update};
use crate::push::announce::Announcer;
use crate::push::error::PushError;
use crate::push::gate::ActiveCredentials;
use crate::push::image::Push;
use crate::push::outcome::{ImageLog, Outcome, Record, Status};
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::push::target::Target;
use crate::push::upload::Route;
use crate::push::upload::copy::CopyUpload;
use crate::push::upload::relay::RelayUpload;
use crate::push::upload::shared::{OpenError, Participant, SharedPush, check_reach};
use crate::reference::Reference;

/// One local image, and all destinations of that image.
pub struct Batch<'a> {
    pub destinations: Vec<Destination<'a>>,
}

/// One destination of a local image, with the reporter and the record of the push.
pub struct Destination<'a> {
    pub target: &'a Target,
    pub reporter: ImageReporter<'a>,
    pub record: &'a mut Record,
}

/// The end of the push to one destination.
pub struct Ended {
    /// The index of the destination, as in its reporter.
    pub at: usize,
    pub result: Result<Outcome, PushError>,
    pub record: Record,
    pub elapsed: Duration,
}

/// Returns whether the engine can push an image once for several registries. Tells the user if not.
pub async fn can_push_together(
    session: &Session<'_>,
    engine: &mut Engine,
    target: &Target,
    reporter: ImageReporter<'_>,
) -> bool {
    let active = ActiveCredentials::anonymous();
    let subject = Subject::new(target, session.options, &active);
    match check_reach(session, engine, &subject).await {
        Ok(()) => true,
        // The push of each destination reports the failure.
        Err(_) if session.options.relay_wanted_by().is_some() => true,
        Err(OpenError::Failed(_)) => false,
        Err(OpenError::Unusable(obstacle)) => {
            reporter.note(&format!("the engine uploads the image once for each registry: {obstacle}"));
            false
        }
    }
}

/// Pushes an image to its destinations. If there are several, the engine pushes the image once, and the plugin uploads it to
/// all registries at the same time.
///
/// * `on_end`: called at the end of each push.
pub async fn push_batch(
    session: &Session<'_>,
    engine: &mut Engine,
    mut batch: Batch<'_>,
    on_end: &impl Fn(Ended),
) {
    let Some(Destination { target: first, reporter, .. }) = batch.destinations.first() else { return };
    let (first, reporter) = (*first, *reporter);
    if batch.destinations.len() == 1 {
        for destination in batch.destinations.drain(..) {
            on_end(push(session, engine, destination, Route::new(session.options)).await.1);
        }
        return;
    }
    let image = first.local_name.parse().map(|name: Reference| name.familiar());
    let image = image.unwrap_or_else(|_| first.local_name.clone());
    let mut chains: Vec<Vec<Destination<'_>>> = Vec::new();
    for destination in batch.destinations {
        destination.reporter.show(&Update::Shared(&image));
        let domain = destination.target.reference.domain();
        match chains.iter_mut().find(|chain| chain[0].target.reference.domain() == domain) {
            Some(chain) => chain.push(destination),
            None => chains.push(vec![destination]),
        }
    }
    let references = chains.iter().map(|chain| chain[0].target.reference.clone());
    let (shared, participants) = SharedPush::new(references.collect());
    let active = ActiveCredentials::anonymous();
    let subject = Subject::new(first, session.options, &active);
    let spare = engine.fork();
    let chains = chains
        .into_iter()
        .zip(participants)
        .map(|(chain, participant)| push_chain(session, spare.fork(), chain, participant, &shared, on_end));
    join(shared.run(session, engine, &subject, false), join_all(chains)).await;
    shared.take_late().iter().for_each(|(level, line)| reporter.say(*level, line));
}

/// Pushes an image to destinations in one registry. The first push that succeeds brings the layers, which the others use.
///
/// * `participant`: the participant of the first push that needs an upload.
async fn push_chain(
    session: &Session<'_>,
    mut engine: Engine,
    chain: Vec<Destination<'_>>,
    participant: Participant,
    shared: &Rc<SharedPush>,
    on_end: &impl Fn(Ended),
) {
    let after = || Route::Relay(RelayUpload::after(shared));
    let participant = Rc::new(RefCell::new(Some(participant)));
    let mut chain = chain.into_iter();
    while let Some(destination) = chain.next() {
        // A push that needed no upload leaves the participant to the next.
        let is_unused = participant.borrow().is_some();
        let route = if is_unused { Route::Relay(RelayUpload::at(&participant)) } else { after() };
        let (target, ended) = push(session, &mut engine, destination, route).await;
        // An image that the registry had before may have other layers.
        let is_pushed = matches!(&ended.result, Ok(outcome) if outcome.status == Status::Pushed);
        on_end(ended);
        if !is_pushed {
            continue;
        }
        let others = chain.by_ref().map(async |destination| {
            let copy = CopyUpload::new(shared, target.reference.path().to_owned());
            let route = copy.map_or_else(after, Route::Copy);
            on_end(push(session, &mut engine.fork(), destination, route).await.1);
        });
        stream::iter(others).buffer_unordered(session.options.parallel.get()).collect::<()>().await;
    }
}

/// Pushes an image to one destination.
async fn push<'a>(
    session: &Session<'_>,
    engine: &mut Engine,
    destination: Destination<'a>,
    route: Route,
) -> (&'a Target, Ended) {
    let Destination { target, reporter, record } = destination;
    let started = Instant::now();
    let announcer = Announcer::new(&target.reference, session.options.platform.as_ref(), reporter);
    let result = {
        let log = ImageLog { reporter, record: &mut *record };
        Box::pin(Push::new(session, engine, target, route, &announcer, log).run()).await
    };
    (target, Ended { at: reporter.at, result, record: take(record), elapsed: started.elapsed() })
}
