//! Changes one value in config.json, and keeps the rest of the file unchanged.

use std::io;
use std::path::Path;
use std::str::Utf8Error;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstNode, CstObject, CstObjectProp, CstRootNode};
use zeroize::Zeroizing;

use crate::docker::file::{LockedFile, Mode};
use crate::secret::Secret;

/// A change to a file.
pub enum Change {
    Nothing,
    /// Replace the content of the file with this text.
    Text(Secret),
    Remove,
}

/// The reason why [`edit`] did not change a file.
#[derive(Debug)]
pub enum EditError<E> {
    /// The file cannot be locked, read or written.
    Io(io::Error),
    NotUtf8(Utf8Error),
    /// The caller's `change` function returned this error.
    Change(E),
}

/// Locks a file against other processes of this plugin, and changes the file. Returns whether the file was
/// changed.
///
/// * `change`: computes the change from the content of the file. `None` stands for a missing file.
pub fn edit<E>(
    path: &Path,
    mode: Mode,
    change: impl FnOnce(Option<&str>) -> Result<Change, E>,
) -> Result<bool, EditError<E>> {
    let held = LockedFile::take(path).map_err(EditError::Io)?;
    let before = held.read().map_err(EditError::Io)?.map(Zeroizing::new);
    let text = before.as_ref().map(|bytes| str::from_utf8(bytes)).transpose().map_err(EditError::NotUtf8)?;
    let after = match change(text).map_err(EditError::Change)? {
        Change::Nothing => {
            #[cfg(unix)]
            if mode == Mode::Private {
                held.make_private().map_err(EditError::Io)?;
            }
            return Ok(false);
        }
        Change::Text(text) => Some(text),
        Change::Remove => None,
    };
    let before = before.as_ref().map(|bytes| bytes.as_slice());
    held.write(before, after.as_ref().map(Secret::expose), mode).map_err(EditError::Io)?;
    Ok(true)
}

/// Parses JSON that serde_json has already accepted, since jsonc-parser alone would also accept comments and
/// trailing commas.
///
/// Returns `None` if the JSON value is not an object.
pub fn parse(text: &str) -> Option<(CstRootNode, CstObject)> {
    let root = CstRootNode::parse(text, &ParseOptions::default()).ok()?;
    let object = root.object_value()?;
    Some((root, object))
}

/// Finds a member of a JSON object by name. As docker does, prefers the exact spelling, and otherwise ignores
/// case.
pub fn member(object: &CstObject, name: &str) -> Option<CstObjectProp> {
    object.get(name).or_else(|| first_member(object, name))
}

/// Finds the first member of a JSON object with the given name, ignoring case.
pub fn first_member(object: &CstObject, name: &str) -> Option<CstObjectProp> {
    let of_any_case = |property: &CstObjectProp| {
        property.decoded_name().is_some_and(|found| found.eq_ignore_ascii_case(name))
    };
    object.properties().into_iter().find(of_any_case)
}

/// Returns the JSON object that is the value of the member `name`. Adds the member, with an empty object, if
/// it is missing.
pub fn object_of(object: &CstObject, name: &str) -> Option<CstObject> {
    match member(object, name) {
        Some(property) => object_at(&property),
        None => object.append(name, CstInputValue::Object(Vec::new())).object_value(),
    }
}

/// Returns the JSON object that is the value of a member. Replaces the value `null` with an empty object,
/// which means the same to docker.
pub fn object_at(property: &CstObjectProp) -> Option<CstObject> {
    let is_null = property.value().is_some_and(|value| value.as_null_keyword().is_some());
    if is_null { Some(property.object_value_or_set()) } else { property.object_value() }
}

/// Sets a member of a JSON object to a string. Adds the member if it is missing.
pub fn set(object: &CstObject, name: &str, value: &str) {
    let value = CstInputValue::String(value.to_owned());
    match member(object, name) {
        Some(property) => property.set_value(value),
        None => drop(object.append(name, value)),
    }
}

/// Returns the byte offset in the whole document just after the opening brace of a JSON object.
pub fn after_brace(object: &CstObject) -> usize {
    let mut place = "{".len();
    let mut node: CstNode = object.clone().into();
    loop {
        place += node.previous_siblings().map(|sibling| sibling.to_string().len()).sum::<usize>();
        match node.parent() {
            Some(parent) => node = parent.into(),
            None => return place,
        }
    }
}
