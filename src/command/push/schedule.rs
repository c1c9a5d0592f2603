//! Decides the order of the pushes, and how many pushes run at the same time.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::future::ready;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::cli::{ProgressMode, PushOptions, RelayMode};
use crate::command::push::results::{Finished, Results};
use crate::engine::Engine;
use crate::error::Error;
use crate::present::presenter::{ImageReporter, Reporter};
use crate::push::batch::{Batch, Destination, Ended, can_push_together, push_batch};
use crate::push::gate::Lead;
use crate::push::outcome::Record;
use crate::push::session::Session;
use crate::push::target::Target;

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
    mut engine: Engine,
    results: &mut Results<'_>,
    records: &mut [Record],
) -> Result<(), Error> {
    let spare = engine.fork();
    let targets: Vec<Option<Target>> = results
        .asked
        .iter()
        .zip(&results.ended)
        .map(|(asked, ended)| asked.target.clone().filter(|_| ended.is_none()))
        .collect();
    let leads: HashMap<String, Lead> =
        targets.iter().flatten().flat_map(turns_of).map(|turn| (turn, Lead::default())).collect();
    let at_once = parallel(session.options);
    let groups = groups(session, reporter, &mut engine, &targets).await;
    let engines = RefCell::new(vec![engine]);
    let mut unbegun: Vec<Option<&mut Record>> = records.iter_mut().map(Some).collect();
    let batches = in_order(groups, &targets, at_once).into_iter().map(|places| {
        let destination = |at: usize| {
            let (target, record) = (targets[at].as_ref()?, unbegun[at].take()?);
            Some(Destination { target, reporter: ImageReporter { reporter, at }, record })
        };
        Batch { destinations: places.into_iter().filter_map(destination).collect() }
    });
    let batches: Vec<Batch<'_>> = batches.collect();
    let (sender, mut ended) = unbounded_channel();
    let on_end = |ended: Ended| {
        if let (Ok(_), Some(target)) = (&ended.result, &targets[ended.at]) {
            turns_of(target).iter().for_each(|turn| leads[turn].open());
        }
        // The receiver exists until all pushes have ended.
        let _ = sender.send(ended);
    };
    // The iterator is lazy, so the state of a push is created only when the push starts.
    let pushes =
        batches.into_iter().map(|batch| push_one_batch(session, &engines, &spare, &leads, batch, &on_end));
    let mut pushes = stream::iter(pushes).buffer_unordered(at_once);
    let mut ticks = ticks(reporter);
    let mut given_up = None;
    let mut is_over = false;
    while given_up.is_none() && !is_over {
        let one = tokio::select! {
            one = ended.recv() => one,
            batch = pushes.next() => {
                is_over = batch.is_none();
                None
            }
            () = next_tick(&mut ticks) => {
                reporter.tick();
                None
            }
        };
        let more = std::iter::from_fn(|| ended.try_recv().ok());
        for Ended { at, result, record, elapsed } in one.into_iter().chain(more) {
            match result.map_err(Error::from) {
                // The user gave up at a prompt, so no more images are pushed.
                Err(error @ Error::Cancelled(_)) => given_up = Some((at, record, error)),
                result => results.end(at, Finished { result, record, elapsed }, reporter),
            }
        }
        results.write_out(reporter);
    }
    drop(pushes);
    if let Some((at, record, error)) = given_up {
        records[at] = record;
        return Err(error);
    }
    Ok(())
}

/// Groups the destinations that the engine serves with one push: those of one local image, if they are in several registries.
/// The image may have several names.
///
/// Returns the groups, each as a list of indexes in `targets`, which is in the order of `Results::asked`; `None` there: the
/// image has failed already.
async fn groups(
    session: &Session<'_>,
    reporter: &Reporter,
    engine: &mut Engine,
    targets: &[Option<Target>],
) -> Vec<Vec<usize>> {
    let alone = || (0..targets.len()).filter(|at| targets[*at].is_some()).map(|at| vec![at]).collect();
    let options = session.options;
    let live: Vec<&Target> = targets.iter().flatten().collect();
    let is_possible = options.relay != RelayMode::Never && !options.dry_run && !shows_objects(options);
    if !is_possible || registries(live.iter().copied()) < 2 {
        return alone();
    }
    let names: BTreeSet<&str> = live.iter().map(|target| target.local_name.as_str()).collect();
    let ids = if names.len() > 1 { ids(engine, &names).await } else { HashMap::new() };
    let groups = together(targets, &ids);
    let Some((at, target)) = groups
        .iter()
        .find(|group| group.len() > 1)
        .and_then(|group| Some((group[0], targets[group[0]].as_ref()?)))
    else {
        return groups;
    };
    match can_push_together(session, engine, target, ImageReporter { reporter, at }).await {
        true => groups,
        false => alone(),
    }
}

/// Returns the IDs of local images, by name. Omits an image that the engine cannot inspect, since its push reports the failure.
async fn ids<'a>(engine: &mut Engine, names: &BTreeSet<&'a str>) -> HashMap<&'a str, String> {
    const AT_ONCE: usize = 8;
    if engine.is_connect_expensive() {
        let mut ids = HashMap::new();
        for name in names {
            ids.extend(engine.inspect(name).await.ok().map(|image| (*name, image.id)));
        }
        return ids;
    }
    let inspections = names.iter().map(|name| {
        let mut engine = engine.fork();
        async move { engine.inspect(name).await.ok().map(|image| (*name, image.id)) }
    });
    stream::iter(inspections).buffer_unordered(AT_ONCE).filter_map(ready).collect().await
}

/// Returns the destinations of each image as one group if they are in several registries, and as groups of one if not.
///
/// * `ids`: the IDs of local images, by name. A name without an ID identifies its image.
fn together(targets: &[Option<Target>], ids: &HashMap<&str, String>) -> Vec<Vec<usize>> {
    let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
    for (at, target) in targets.iter().enumerate() {
        let Some(name) = target.as_ref().map(|target| target.local_name.as_str()) else { continue };
        let image = ids.get(name).map_or(name, String::as_str);
        match groups.iter_mut().find(|(known, _)| *known == image) {
            Some((_, group)) => group.push(at),
            None => groups.push((image, vec![at])),
        }
    }
    let split = |(_, group): (&str, Vec<usize>)| {
        let is_shared = registries(group.iter().filter_map(|at| targets[*at].as_ref())) > 1;
        if is_shared { vec![group] } else { group.into_iter().map(|at| vec![at]).collect() }
    };
    groups.into_iter().flat_map(split).collect()
}

/// Returns the number of different registries.
fn registries<'a>(targets: impl Iterator<Item = &'a Target>) -> usize {
    targets.map(|target| target.reference.domain()).collect::<HashSet<_>>().len()
}

/// Sorts groups in the order of their pushes. If pushes run at the same time, the first push to each repository, and of each
/// image to a registry, comes before all other pushes, since the other pushes wait until the first push has ended.
///
/// * `groups`: lists of indexes in `targets`.
/// * `at_once`: the number of groups that are pushed at the same time.
fn in_order(mut groups: Vec<Vec<usize>>, targets: &[Option<Target>], at_once: usize) -> Vec<Vec<usize>> {
    groups.sort_by_key(|group| group.first().copied());
    let mut begun = HashSet::new();
    let mut is_first = |group: &[usize]| {
        let turns = group.iter().filter_map(|at| targets[*at].as_ref()).flat_map(turns_of);
        let new: Vec<bool> =
            turns.collect::<BTreeSet<_>>().into_iter().map(|turn| begun.insert(turn)).collect();
        new.into_iter().all(|is_new| is_new)
    };
    let (first, rest): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|group| at_once == 1 || is_first(group));
    first.into_iter().chain(rest).collect()
}

/// Returns the names of the leads that a push follows: one for its repository, and one for its image in the registry. If
/// one image goes to two repositories of a registry, the registry mounts the layers in the second repository.
fn turns_of(target: &Target) -> [String; 2] {
    let image = format!("{} {}", target.reference.domain(), target.local_name);
    [target.reference.repository(), image]
}

/// Pushes one batch over an idle connection to the engine, or over a new connection.
///
/// * `on_end`: called at the end of each push.
async fn push_one_batch(
    session: &Session<'_>,
    engines: &RefCell<Vec<Engine>>,
    spare: &Engine,
    leads: &HashMap<String, Lead>,
    batch: Batch<'_>,
    on_end: &impl Fn(Ended),
) {
    // Waits for earlier pushes to the repositories of this batch, and of its image to the same registries. All batches go
    // through these names in alphabetical order, so that no two batches wait for each other.
    let names = batch.destinations.iter().flat_map(|destination| turns_of(destination.target));
    let names: BTreeSet<String> = names.collect();
    let mut turns = Vec::new();
    for name in &names {
        turns.push(leads[name].follow().await);
    }
    let mut engine = engines.borrow_mut().pop().unwrap_or_else(|| spare.fork());
    push_batch(session, &mut engine, batch, on_end).await;
    engines.borrow_mut().push(engine);
}

/// Returns how many images are pushed at the same time. For `--progress rawjson`, returns 1, since the engine's JSON
/// lines do not name the image.
fn parallel(options: &PushOptions) -> usize {
    if shows_objects(options) { 1 } else { options.parallel.get() }
}

/// Returns whether the plugin shows the engine's JSON lines.
fn shows_objects(options: &PushOptions) -> bool {
    options.progress == ProgressMode::Rawjson && !options.quiet
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
            let order = in_order(together(&targets, &HashMap::new()), &targets, at_once);
            assert_eq!(order, want.iter().map(|at| vec![*at]).collect::<Vec<_>>(), "{images:?}");
        }
    }
}
