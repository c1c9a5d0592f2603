//! Decides the order of the pushes, and how many pushes run at the same time.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::take;

use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::cli::{ProgressMode, PushOptions};
use crate::command::push::results::{Finished, Results};
use crate::engine::Engine;
use crate::error::Error;
use crate::present::presenter::{ImageReporter, Reporter};
use crate::push::gate::Lead;
use crate::push::outcome::Record;
use crate::push::session::Session;
use crate::push::target::Target;
use crate::push::{Batch, Destination, push_batch};

/// Pushes every image in `results` that has not failed already.
///
/// * `engine`: a connection to the engine; `push_all` opens more connections when needed.
/// * `records`: the record of each image, in the order of `results.asked`.
///
/// # Errors
/// The user gave up at a prompt. An error that concerns only one image is stored in the result of that image.
pub async fn push_all(
    session: &Session<'_>,
    reporter: &Reporter,
    engine: Engine,
    results: &mut Results<'_>,
    records: &mut [Record],
) -> Result<(), Error> {
    let spare = engine.fork();
    let engines = RefCell::new(vec![engine]);
    let targets: Vec<Option<Target>> = results
        .asked
        .iter()
        .zip(&results.ended)
        .map(|(asked, ended)| asked.target.clone().filter(|_| ended.is_none()))
        .collect();
    let leads: HashMap<String, Lead> =
        targets.iter().flatten().flat_map(turns_of).map(|turn| (turn, Lead::default())).collect();
    let at_once = parallel(session.options);
    let mut unbegun: Vec<Option<&mut Record>> = records.iter_mut().map(Some).collect();
    let batches = batches(&targets, at_once).into_iter().map(|places| {
        let destination = |at: usize| {
            let (target, record) = (targets[at].as_ref()?, unbegun[at].take()?);
            Some(Destination { target, reporter: ImageReporter { reporter, at }, record })
        };
        Batch { destinations: places.into_iter().filter_map(destination).collect() }
    });
    let batches: Vec<Batch<'_>> = batches.collect();
    // The iterator is lazy, so the state of a push is created only when the push starts.
    let pushes = batches.into_iter().map(|batch| push_one_batch(session, &engines, &spare, &leads, batch));
    let mut pushes = stream::iter(pushes).buffer_unordered(at_once);
    let mut ticks = ticks(reporter);
    let mut given_up = None;
    while given_up.is_none() {
        tokio::select! {
            batch = pushes.next() => {
                let Some(batch) = batch else { break };
                for (at, ended) in batch {
                    match ended {
                        // The user gave up at a prompt, so no more images are pushed.
                        Finished { result: Err(error @ Error::Cancelled(_)), record, .. } => {
                            given_up = Some((at, record, error));
                        }
                        ended => results.end(at, ended, reporter),
                    }
                }
            }
            () = next_tick(&mut ticks) => reporter.tick(),
        }
        results.write_out(reporter);
    }
    drop(pushes);
    if let Some((at, record, error)) = given_up {
        records[at] = record;
        return Err(error);
    }
    results.write_out(reporter);
    Ok(())
}

/// Groups the destinations of images into batches, in the order of the pushes. A batch contains destinations of one
/// local image; at present, each batch has one destination. If batches run at the same time, the first push to each
/// repository, and of each image to a registry, comes before all other pushes, since the other pushes wait until the
/// first push has ended.
///
/// * `targets`: the target of each image, in the order of `Results::asked`; `None` if the image has failed already.
/// * `at_once`: the number of batches that run at the same time.
///
/// Returns the batches, each as a list of indexes in `targets`.
fn batches(targets: &[Option<Target>], at_once: usize) -> Vec<Vec<usize>> {
    let places = targets.iter().enumerate().filter_map(|(at, target)| Some((at, target.as_ref()?)));
    let mut begun = HashSet::new();
    let mut is_first = |target: &Target| turns_of(target).map(|turn| begun.insert(turn)) == [true, true];
    let (first, rest): (Vec<_>, Vec<_>) = places.partition(|(_, target)| at_once == 1 || is_first(target));
    first.into_iter().chain(rest).map(|(at, _)| vec![at]).collect()
}

/// Returns the names of the leads that a push follows: one for its repository, and one for its image in the registry. If
/// one image goes to two repositories of a registry, the registry mounts the layers in the second repository.
fn turns_of(target: &Target) -> [String; 2] {
    let image = format!("{} {}", target.reference.domain(), target.local_name);
    [target.reference.repository(), image]
}

/// Pushes one batch over an idle connection to the engine, or over a new connection. Returns the result of each
/// destination, with the index of the image in `Results::asked`.
async fn push_one_batch(
    session: &Session<'_>,
    engines: &RefCell<Vec<Engine>>,
    spare: &Engine,
    leads: &HashMap<String, Lead>,
    mut batch: Batch<'_>,
) -> Vec<(usize, Finished)> {
    // Waits for earlier pushes to the repositories of this batch, and of its image to the same registries. All batches go
    // through these names in alphabetical order, so that no two batches wait for each other.
    let names = batch.destinations.iter().flat_map(|destination| turns_of(destination.target));
    let names: BTreeSet<String> = names.collect();
    let mut turns = Vec::new();
    for name in &names {
        turns.push(leads[name].follow().await);
    }
    let mut engine = engines.borrow_mut().pop().unwrap_or_else(|| spare.fork());
    let ended = push_batch(session, &mut engine, &mut batch).await;
    engines.borrow_mut().push(engine);
    let ended = batch.destinations.into_iter().zip(ended);
    ended
        .map(|(Destination { target, reporter, record }, (result, elapsed))| {
            if result.is_ok() {
                turns_of(target).iter().for_each(|turn| leads[turn].open());
            }
            (reporter.at, Finished { result: result.map_err(Error::from), record: take(record), elapsed })
        })
        .collect()
}

/// Returns how many images are pushed at the same time. For `--progress rawjson`, returns 1, since the engine's JSON
/// lines do not name the image.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_push_to_each_repository_comes_first() {
        let table: [(&[&str], usize, &[usize]); 5] = [
            // images (empty string: already failed), number of parallel pushes, expected order
            (&["r/a:1", "r/a:2", "r/b:1"], 3, &[0, 2, 1]),
            (&["r/a:1", "r/a:2", "r/b:1"], 1, &[0, 1, 2]),
            (&["r/a:1", "", "r/a:2"], 2, &[0, 2]),
            (&["r.io/a:1", "s.io/a:1", "r.io/a:2", "s.io/a:2"], 2, &[0, 1, 2, 3]),
            (&[], 3, &[]),
        ];
        for (images, at_once, want) in table {
            let target = |image: &&str| image.parse().ok().map(Target::new);
            let targets: Vec<Option<Target>> = images.iter().map(target).collect();
            let order = batches(&targets, at_once);
            assert_eq!(order, want.iter().map(|at| vec![*at]).collect::<Vec<_>>(), "{images:?}");
        }
    }
}
