//! Edits config.json: changes one value, and leaves the rest of the file as it is.

use std::io;
use std::path::Path;
use std::str::Utf8Error;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstNode, CstObject, CstObjectProp, CstRootNode};
use zeroize::Zeroizing;

use crate::docker::file::{LockedFile, Mode};
use crate::secret::Secret;

/// How a file changes.
pub enum Change {
    Nothing,
    /// Replace the text of the file with this one.
    Text(Secret),
    Remove,
}

/// Why a file was not changed.
#[derive(Debug)]
pub enum EditError<E> {
    /// It cannot be locked, read or written.
    Io(io::Error),
    NotUtf8(Utf8Error),
    /// The change itself failed.
    Change(E),
}

/// Changes a file while no other process of this plugin writes to it. Returns whether it was changed.
///
/// * `change`: receives the text of the file, or `None` if there is no file.
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

/// Parses a text that serde_json has accepted already: jsonc-parser also accepts comments and trailing commas.
///
/// Returns `None` if the text is not one object.
pub fn parse(text: &str) -> Option<(CstRootNode, CstObject)> {
    let root = CstRootNode::parse(text, &ParseOptions::default()).ok()?;
    let object = root.object_value()?;
    Some((root, object))
}

/// Finds a member by its name, or else by its name in another case, as docker does.
pub fn member(object: &CstObject, name: &str) -> Option<CstObjectProp> {
    object.get(name).or_else(|| first_member(object, name))
}

/// Finds the first member of this name in any case.
pub fn first_member(object: &CstObject, name: &str) -> Option<CstObjectProp> {
    let of_any_case = |property: &CstObjectProp| {
        property.decoded_name().is_some_and(|found| found.eq_ignore_ascii_case(name))
    };
    object.properties().into_iter().find(of_any_case)
}

/// Returns the object that a member holds, and creates it if there is none.
pub fn object_of(object: &CstObject, name: &str) -> Option<CstObject> {
    match member(object, name) {
        Some(property) => object_at(&property),
        None => object.append(name, CstInputValue::Object(Vec::new())).object_value(),
    }
}

/// Returns the object that a member holds. Replaces `null` with an empty object; for docker both mean the
/// same.
pub fn object_at(property: &CstObjectProp) -> Option<CstObject> {
    let is_null = property.value().is_some_and(|value| value.as_null_keyword().is_some());
    if is_null { Some(property.object_value_or_set()) } else { property.object_value() }
}

/// Sets a member to a string.
pub fn set(object: &CstObject, name: &str, value: &str) {
    let value = CstInputValue::String(value.to_owned());
    match member(object, name) {
        Some(property) => property.set_value(value),
        None => drop(object.append(name, value)),
    }
}

/// Returns the position after the opening brace of an object, in bytes of the whole text.
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
