//! The order of pushes, and how many run at once.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::mem::take;
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::cli::{ProgressMode, PushOptions};
use crate::command::push::results::{Finished, Results};
use crate::engine::Engine;
use crate::error::Error;
use crate::present::presenter::{ImageReporter, Reporter};
use crate::push::Push;
use crate::push::gate::Lead;
use crate::push::outcome::Record;
use crate::push::session::Session;
use crate::push::target::Target;

/// Pushes all that has not failed already.
///
/// * `engine`: connected; more connections to it are made as they are needed.
/// * `records`: of each image so far, in the order asked.
///
/// # Errors
/// The user gave up at a prompt. Each image's own failure is with its result.
pub async fn push_all(
    session: &Session<'_>,
    reporter: &Reporter,
    engine: Engine,
    results: &mut Results<'_>,
    records: &mut [Record],
) -> Result<(), Error> {
    let spare = engine.fork();
    let engines = RefCell::new(vec![engine]);
    let work: Vec<Option<Target>> = results
        .asked
        .iter()
        .zip(&results.ended)
        .map(|(asked, ended)| asked.target.clone().filter(|_| ended.is_none()))
        .collect();
    let repository = |target: &Target| target.reference.repository();
    let leads: HashMap<String, Lead> =
        work.iter().flatten().map(|target| (repository(target), Lead::default())).collect();
    let work = work.iter().zip(&mut *records).enumerate();
    let work = work.filter_map(|(at, (target, record))| Some((at, target.as_ref()?, record)));
    // The first into each repository, since the others wait for it.
    let (at_once, mut begun) = (parallel(session.options), HashSet::new());
    let (first, rest): (Vec<_>, Vec<_>) =
        work.partition(|(_, target, _)| at_once == 1 || begun.insert(repository(target)));
    let pushes = first.into_iter().chain(rest).map(|(at, target, record)| {
        let reporter = ImageReporter { reporter, at };
        let (engines, spare, lead) = (&engines, &spare, &leads[&repository(target)]);
        async move {
            let _turn = lead.follow().await;
            // One that is connected, if one is free.
            let mut engine = engines.borrow_mut().pop().unwrap_or_else(|| spare.fork());
            let started = Instant::now();
            let push = Push::new(session, target, &mut engine, reporter, record);
            let result = push.run().await.map_err(Error::from);
            engines.borrow_mut().push(engine);
            if result.is_ok() {
                lead.open();
            }
            (at, Finished { result, record: take(record), elapsed: started.elapsed() })
        }
    });
    let mut pushes = stream::iter(pushes).buffer_unordered(at_once);
    let mut ticks = ticks(reporter);
    let given_up = loop {
        tokio::select! {
            ended = pushes.next() => match ended {
                None => break None,
                // At the prompt: that is meant for all of it.
                Some((at, Finished { result: Err(error @ Error::Cancelled(_)), record, .. })) => {
                    break Some((at, record, error));
                }
                Some((at, ended)) => results.end(at, ended, reporter),
            },
            () = next_tick(&mut ticks) => reporter.tick(),
        }
        results.write_out(reporter);
    };
    drop(pushes);
    if let Some((at, record, error)) = given_up {
        records[at] = record;
        return Err(error);
    }
    results.write_out(reporter);
    Ok(())
}

/// How many images are pushed at once. Lines of engines do not say which image they are about.
fn parallel(options: &PushOptions) -> usize {
    if options.progress == ProgressMode::Rawjson && !options.quiet { 1 } else { options.parallel.get() }
}

fn ticks(reporter: &Reporter) -> Option<Interval> {
    let period = reporter.period()?;
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

async fn next_tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => _ = ticks.tick().await,
        None => std::future::pending().await,
    }
}
