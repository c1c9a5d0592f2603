//! Records of the temporary names that the relay adds to images, so that a later call removes the names that a killed call
//! left in the engine.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::engine::tag::Removed;
use crate::oci::sha256;
use crate::reference::Reference;

/// The directory of the records, in Docker's config directory.
const DIRECTORY: &str = "regpush/relay";

/// A temporary name of an image.
#[derive(Deserialize, Serialize)]
struct Record {
    /// The endpoint of the engine.
    endpoint: String,
    name: String,
    /// The ID of the image.
    id: String,
    /// The address at which the relay listens.
    address: SocketAddr,
}

/// Records a temporary name. Returns the file of the record, which must be removed together with the name.
///
/// * `config`: Docker's config directory.
/// * `address`: the address at which the relay listens.
///
/// # Errors
/// The file cannot be written.
pub fn record(
    config: &Path,
    engine: &Engine,
    name: &Reference,
    id: &str,
    address: SocketAddr,
) -> io::Result<PathBuf> {
    let (endpoint, id) = (engine.endpoint().to_string(), id.to_owned());
    let record = Record { endpoint, name: name.canonical(), id, address };
    let directory = config.join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    let text = serde_json::to_vec(&record)?;
    let path = directory.join(format!("{}.json", &sha256(&text)[..16]));
    // Another call must not read an incomplete record.
    let mut file = tempfile::NamedTempFile::new_in(&directory)?;
    file.write_all(&text)?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(path)
}

/// Removes the names that killed calls left in the engine. Keeps a name whose address is in use, since
/// that call may still be running.
pub async fn remove_old(config: &Path, engine: &mut Engine) {
    let Ok(files) = fs::read_dir(config.join(DIRECTORY)) else { return };
    for path in files.flatten().map(|file| file.path()) {
        let record = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let Some(record) = record.filter(|record| record.endpoint == engine.endpoint().to_string()) else {
            continue;
        };
        let Ok(name) = record.name.parse::<Reference>() else { continue };
        // While this call listens at the address, no other call uses the name.
        let address = Some(record.address).filter(|address| address.ip().is_loopback());
        let Some(_lock) = address.and_then(|address| TcpListener::bind(address).ok()) else { continue };
        if engine.untag(&name, &record.id).await.is_ok_and(Removed::is_final) {
            // If the file remains, the next call finds no name and removes the file.
            let _ = fs::remove_file(&path);
        }
    }
}
