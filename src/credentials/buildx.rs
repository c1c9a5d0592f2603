//! Finds the scoped credentials of buildx: folders with a config.json for one registry or repository, and for some actions
//! there.
//!
//! A folder is named `HOST[:PORT][/REPOSITORY][@ACTION[,ACTION…]]`. Nothing in the name is encoded.
//!
//! Source: docker/buildx 0.31 `util/dockerutil/dockerconfig/configprovider.go` and `util/confutil/config.go`.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::env;
use std::path::{MAIN_SEPARATOR, Path, PathBuf};

use crate::docker::config::FILE_NAME;
use crate::reference::HUB;

/// The name of Docker Hub's folder.
const HUB_FOLDER: &str = "registry-1.docker.io";
/// Registries of Docker that accept the credentials of Docker Hub.
pub const HUB_BACKED: [&str; 2] = ["dhi.io", "registry.scout.docker.com"];

/// The use of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pull,
    Push,
}

/// Returns the directory that contains buildx's folders, even if it does not exist.
///
/// * `docker`: docker's config directory.
pub fn directory(docker: &Path) -> PathBuf {
    let variable = env::var_os("BUILDX_CONFIG").filter(|directory| !directory.is_empty());
    variable.map_or_else(|| docker.join("buildx"), PathBuf::from).join("config")
}

/// Returns the folders whose credentials serve an action. The folder to try first is the first. A folder for the
/// repository comes before a folder for the whole registry, and a folder with more actions before one with fewer.
///
/// Unlike buildx, returns no folder for the action `pull` alone if the plugin wants to push.
///
/// * `directory`: the [`directory`] of all folders.
/// * `registry`: the domain of the registry.
/// * `repository`: the path of the repository, which a folder must match exactly; `None`: only folders for the whole
///   registry.
pub fn folders(directory: &Path, registry: &str, repository: Option<&str>, action: Action) -> Vec<PathBuf> {
    let own = repository.map(|repository| repository_folders(directory, registry, repository, action));
    let mut found = own.unwrap_or_default();
    found.extend(folders_of(directory, host(registry), action));
    found
}

/// Returns those of the [`folders`] that are only for the repository.
pub fn repository_folders(
    directory: &Path,
    registry: &str,
    repository: &str,
    action: Action,
) -> Vec<PathBuf> {
    folders_of(directory, &format!("{}/{repository}", host(registry)), action)
}

fn host(registry: &str) -> &str {
    if registry == HUB { HUB_FOLDER } else { registry }
}

/// Returns the names of all folders, each with its path.
pub fn all(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(folder) = left.pop().filter(|folder| is_folder(folder)) {
        let entries = folder.read_dir().into_iter().flatten().flatten();
        left.extend(entries.map(|entry| entry.path()).filter(|path| is_folder(path)));
        if folder.join(FILE_NAME).is_file()
            && let Ok(name) = folder.strip_prefix(directory)
            && let Some(name) = name.to_str().filter(|name| !name.is_empty())
        {
            found.push((name.replace(MAIN_SEPARATOR, "/"), folder));
        }
    }
    found.sort();
    found
}

/// Returns the domain of the registry that a folder of this name serves.
pub fn registry(name: &str) -> &str {
    let host = name.split(['/', '@']).next().unwrap_or_default();
    if host == HUB_FOLDER { HUB } else { host }
}

/// Returns the folders named `NAME` or `NAME@ACTIONS`. As buildx does, does not follow links to folders.
fn folders_of(directory: &Path, name: &str, action: Action) -> Vec<PathBuf> {
    let mut parent = directory.to_owned();
    let mut parts = name.split('/');
    let last = parts.next_back().unwrap_or_default();
    if !is_folder(&parent) {
        return Vec::new();
    }
    for part in parts {
        parent.push(part);
        if !is_folder(&parent) {
            return Vec::new();
        }
    }
    let entries = parent.read_dir().into_iter().flatten().flatten();
    let mut found: Vec<(Reverse<usize>, PathBuf)> = entries
        .filter(|entry| {
            entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.path().join(FILE_NAME).is_file()
        })
        .filter_map(|entry| {
            let text = entry.file_name().into_string().ok()?;
            let (before, actions) = text.split_once('@').unwrap_or((&text, ""));
            let actions: BTreeSet<&str> =
                actions.split(',').map(str::trim).filter(|action| !action.is_empty()).collect();
            (before == last && serve(&actions, action)).then(|| (Reverse(actions.len()), entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, folder)| folder).collect()
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// Returns whether a folder for these actions serves an action. A folder without actions serves all. A push asks the
/// registry for the actions `pull` and `push`, and a folder must not name another action.
fn serve(actions: &BTreeSet<&str>, action: Action) -> bool {
    let asked: &[&str] = match action {
        Action::Pull => &["pull"],
        Action::Push => &["pull", "push"],
    };
    let needed = asked[asked.len() - 1];
    actions.is_empty() || (actions.contains(needed) && actions.iter().all(|action| asked.contains(action)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn orders_the_folders_that_serve_an_action() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let names = [
            "h:5000/config.json",
            "h:5000@push/config.json",
            "h:5000@pull/config.json",
            "h:5000@delete,pull,push/config.json",
            "h:5000/team/app/config.json",
            "h:5000/team/app@push/config.json",
            "h:5000/team/app@ pull, push ,/config.json",
            "h:5000/team/app@pull/config.json",
            "h:5000/team/app@push,push/config.json",
            "h:5000/team/app@push/x/config.json",
            "h:5000/team/config.json",
            "h:5000/team/other@pull,push/other.json",
            "h/team/app/config.json",
            "registry-1.docker.io/library/alpine/config.json",
        ];
        for name in names {
            let file = root.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "{}").unwrap();
        }
        let team = [
            "h:5000/team/app@ pull, push ,",
            "h:5000/team/app@push",
            "h:5000/team/app@push,push",
            "h:5000/team/app",
        ];
        let host = ["h:5000@push", "h:5000"];
        let table: [(&str, Option<&str>, Action, Vec<&str>); 8] = [
            ("h:5000", Some("team/app"), Action::Push, [&team[..], &host].concat()),
            (
                "h:5000",
                Some("team/app"),
                Action::Pull,
                vec!["h:5000/team/app@pull", "h:5000/team/app", "h:5000@pull", "h:5000"],
            ),
            ("h:5000", Some("team/app/more"), Action::Push, host.to_vec()),
            ("h:5000", Some("team"), Action::Push, vec!["h:5000/team", "h:5000@push", "h:5000"]),
            ("h:5000", Some("team/other"), Action::Push, host.to_vec()),
            ("h:5000", None, Action::Push, host.to_vec()),
            ("docker.io", Some("library/alpine"), Action::Push, vec!["registry-1.docker.io/library/alpine"]),
            ("other", Some("team/app"), Action::Push, vec![]),
        ];
        for (registry, repository, action, want) in table {
            let want: Vec<PathBuf> = want.into_iter().map(|name| root.join(name)).collect();
            assert_eq!(
                folders(root, registry, repository, action),
                want,
                "{registry} {repository:?} {action:?}"
            );
        }
        let all = all(root);
        assert_eq!(all.len(), names.len() - 1, "one folder has no config.json: {all:?}");
        let hub = ("registry-1.docker.io/library/alpine".to_owned(), root.join(names[13]).with_file_name(""));
        assert!(all.iter().any(|(name, folder)| (name, folder) == (&hub.0, &hub.1)), "{all:?}");
        assert_eq!(
            ["h:5000/team/app@push", "h@push", hub.0.as_str()].map(registry),
            ["h:5000", "h", "docker.io"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn follows_no_links() {
        use std::os::unix::fs::symlink;
        let place = tempfile::tempdir().unwrap();
        let real = place.path().join("real/h/app");
        fs::create_dir_all(&real).unwrap();
        fs::write(real.join("config.json"), "{}").unwrap();
        assert_eq!(folders(&place.path().join("real"), "h", Some("app"), Action::Push), [real.as_path()]);
        symlink(place.path().join("real"), place.path().join("root")).unwrap();
        fs::create_dir_all(place.path().join("links/other")).unwrap();
        symlink(place.path().join("real/h"), place.path().join("links/h")).unwrap();
        symlink(&real, place.path().join("links/other/app")).unwrap();
        for (root, host) in [("root", "h"), ("links", "h"), ("links", "other")] {
            let found = folders(&place.path().join(root), host, Some("app"), Action::Push);
            assert!(found.is_empty(), "{root} {host}: {found:?}");
        }
    }
}
