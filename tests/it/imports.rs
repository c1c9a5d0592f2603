//! Checks which modules of `src` each module imports. Imports go in one direction, so that a module can be read and
//! tested without the modules that import it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{ItemMod, ItemUse, UseTree};

/// The allowed imports between top-level modules. Remove an entry that no file uses any more.
const ARROWS: &[(&str, &[&str])] = &[
    ("cli", &["platform", "plugin"]),
    (
        "command",
        &[
            "cli",
            "credentials",
            "docker",
            "engine",
            "error",
            "failure",
            "net",
            "palette",
            "plugin",
            "present",
            "print",
            "progress",
            "push",
            "reference",
            "registry",
            "secret",
            "setup",
            "text",
        ],
    ),
    ("credentials", &["docker", "failure", "reference", "secret", "text"]),
    ("docker", &["failure", "net", "oci", "secret"]),
    (
        "engine",
        &[
            "credentials",
            "docker",
            "event",
            "failure",
            "net",
            "oci",
            "platform",
            "reference",
            "secret",
            "text",
        ],
    ),
    (
        "error",
        &["credentials", "docker", "engine", "failure", "net", "push", "reference", "registry", "text"],
    ),
    ("net", &["secret"]),
    ("oci", &["platform"]),
    ("present", &["cli", "event", "failure", "palette", "progress", "retry", "text"]),
    ("print", &["error", "palette", "text"]),
    ("progress", &["event", "failure"]),
    (
        "push",
        &[
            "cli",
            "credentials",
            "engine",
            "event",
            "failure",
            "net",
            "oci",
            "platform",
            "present",
            "progress",
            "reference",
            "registry",
            "relay",
            "retry",
            "secret",
            "text",
        ],
    ),
    ("registry", &["credentials", "docker", "failure", "net", "oci", "reference", "secret", "text"]),
    (
        "relay",
        &[
            "credentials",
            "docker",
            "engine",
            "event",
            "failure",
            "net",
            "oci",
            "reference",
            "registry",
            "retry",
            "secret",
            "text",
        ],
    ),
    ("retry", &["failure"]),
    ("secret", &["text"]),
    (
        "setup",
        &["cli", "credentials", "docker", "engine", "error", "net", "print", "registry", "secret", "text"],
    ),
];

/// Forbidden imports of files below `push`. Modules that only make decisions about a push must not send requests to the
/// engine or the registry. `upload` and `verify` must not import the modules for other steps of a push.
const NO_ARROWS: &[(&str, &[&str])] = &[
    ("push::conversation", &["cli", "engine", "present", "registry", "push"]),
    ("push::gate", &["cli", "engine", "present", "registry", "push"]),
    ("push::outcome", &["engine", "registry", "push::session", "push::upload"]),
    ("push::platforms", &["present", "registry", "push"]),
    ("push::suggest", &["present", "registry", "push"]),
    ("push::target", &["engine", "present", "registry", "push"]),
    ("push::upload", &["registry", "push::conversation", "push::existing", "push::gate", "push::verify"]),
    ("push::verify", &["push::conversation", "push::existing", "push::upload"]),
];

/// The maximum number of lines in a source file, excluding unit tests.
const MAX_LINES: usize = 700;

/// Returns the files of `src` by module path (`engine::stream`), without `main.rs` and `lib.rs`.
fn files() -> BTreeMap<String, PathBuf> {
    fn add(directory: &Path, module: &str, files: &mut BTreeMap<String, PathBuf>) {
        for entry in
            fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path())
        {
            let name = entry.file_stem().and_then(|stem| stem.to_str()).expect("a UTF-8 name").to_owned();
            let below = if module.is_empty() { name.clone() } else { format!("{module}::{name}") };
            match name.as_str() {
                _ if entry.is_dir() => add(&entry, &below, files),
                "main" | "lib" => {}
                "mod" => _ = files.insert(module.to_owned(), entry),
                _ => _ = files.insert(below, entry),
            }
        }
    }
    let mut files = BTreeMap::new();
    add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    files
}

/// All Rust paths in a source file, except in unit tests. [`target`] finds the paths that refer to this crate.
#[derive(Default)]
struct Imports(Vec<Vec<String>>);

impl Imports {
    fn of(file: &Path) -> Self {
        let text = fs::read_to_string(file).expect("a source file");
        let mut imports = Self::default();
        imports.visit_file(
            &syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())),
        );
        imports
    }

    fn expand(&mut self, tree: &UseTree, mut before: Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.expand(&path.tree, before);
            }
            UseTree::Group(group) => group.items.iter().for_each(|item| self.expand(item, before.clone())),
            UseTree::Name(name) => self.0.push([before, vec![name.ident.to_string()]].concat()),
            UseTree::Rename(rename) => self.0.push([before, vec![rename.ident.to_string()]].concat()),
            UseTree::Glob(_) => self.0.push(before),
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.ident != "tests" {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.expand(&item.tree, Vec::new());
    }

    /// Ignores visibilities such as `pub(super)`, which import nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    /// Finds paths inside macro calls, whose arguments syn does not parse.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let tokens = call.tokens.to_string().replace(' ', "");
        for (at, _) in tokens.match_indices("crate::") {
            let path = tokens[at..].split(|c: char| c != ':' && c != '_' && !c.is_alphanumeric()).next();
            self.0.push(path.unwrap_or_default().split("::").map(str::to_owned).collect());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

/// Returns the module that a path refers to, or `None` for a path to another crate or to the file `from` itself.
fn target(files: &BTreeMap<String, PathBuf>, from: &str, path: &[String]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let own = || from.split("::").collect::<Vec<&str>>();
    let start: Vec<&str> = match first.as_str() {
        "crate" => Vec::new(),
        "super" => own()[..from.matches("::").count()].to_vec(),
        "self" => own(),
        // The path begins with the name of a child module.
        child if files.contains_key(&format!("{from}::{child}")) => [own(), vec![child]].concat(),
        _ => return None,
    };
    let whole: Vec<&str> = start.into_iter().chain(rest.iter().map(String::as_str)).collect();
    let found = (1..=whole.len()).rev().map(|length| whole[..length].join("::"));
    found.into_iter().find(|module| files.contains_key(module)).filter(|module| module != from)
}

/// Returns, for each source file, the files that this file imports.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let files = files();
    let of_file = |(module, path): (&String, &PathBuf)| {
        let paths = Imports::of(path).0;
        let targets = paths.iter().filter_map(|path| target(&files, module, path)).collect();
        (module.clone(), targets)
    };
    let arrows: BTreeMap<String, BTreeSet<String>> = files.iter().map(of_file).collect();
    assert!(arrows.len() > 50 && arrows.values().map(BTreeSet::len).sum::<usize>() > 100, "{arrows:?}");
    arrows
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let top = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, targets) in arrows() {
        let others = targets.iter().map(|to| top(to)).filter(|to| *to != top(&from));
        found.entry(top(&from)).or_default().extend(others);
    }
    found.retain(|_, targets| !targets.is_empty());
    let allowed = ARROWS.iter().map(|(from, targets)| {
        ((*from).to_owned(), targets.iter().map(|to| (*to).to_owned()).collect::<BTreeSet<String>>())
    });
    assert_eq!(found, allowed.collect());
    for below in ["engine", "registry", "credentials", "docker", "net"] {
        assert!(!found[below].contains("cli"), "{below} knows options");
    }
    assert!(found.values().all(|targets| !targets.contains("command")), "only main runs commands");
    assert!(!found["engine"].contains("registry") && !found["registry"].contains("engine"));
}

#[test]
fn push_modules_have_no_forbidden_imports() {
    let is_below = |module: &str, parent: &str| {
        module == parent || module.strip_prefix(parent).is_some_and(|rest| rest.starts_with("::"))
    };
    let arrows = arrows();
    for (part, forbidden) in NO_ARROWS {
        let files = arrows.iter().filter(|(file, _)| is_below(file, part));
        assert!(files.clone().count() > 0, "{part} is gone");
        for (file, targets) in files {
            let wrong = targets
                .iter()
                .find(|to| !is_below(to, part) && forbidden.iter().any(|forbidden| is_below(to, forbidden)));
            assert_eq!(wrong, None, "{file}");
        }
    }
    let of_push = |to: &BTreeSet<String>| to.contains("push");
    let users: Vec<&String> = arrows.iter().filter(|(_, to)| of_push(to)).map(|(from, _)| from).collect();
    assert!(users.iter().all(|user| is_below(user, "command")), "{users:?}");
}

#[test]
fn imports_have_no_cycle() {
    /// Follows the imports of one file, and returns the first import cycle.
    fn circle(
        arrows: &BTreeMap<String, BTreeSet<String>>,
        file: &str,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(at) = way.iter().position(|before| before == file) {
            return Some(way[at..].to_vec());
        }
        if !done.insert(file.to_owned()) {
            return None;
        }
        way.push(file.to_owned());
        let found = arrows[file].iter().find_map(|next| circle(arrows, next, way, done));
        way.pop();
        found
    }
    let arrows = arrows();
    let mut done = BTreeSet::new();
    let found = arrows.keys().find_map(|file| circle(&arrows, file, &mut Vec::new(), &mut done));
    assert_eq!(found, None);
}

#[test]
fn no_file_is_too_long() {
    let length = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("a source file");
        text.split("mod tests {").next().unwrap_or_default().lines().count()
    };
    let files = files();
    let long: Vec<&String> =
        files.iter().filter(|(_, path)| length(path) > MAX_LINES).map(|(module, _)| module).collect();
    assert!(long.is_empty(), "{long:?}");
}
