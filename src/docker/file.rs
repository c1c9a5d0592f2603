//! Reads, locks and replaces files in Docker's config directory.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

// The plugin writes a file under a temporary name like `config.json.regpush-0123456789abcdef.tmp`, and then
// renames the file.

/// The number of random characters in the name of a temporary file.
const RANDOM: usize = 16;
const SUFFIX: &str = ".tmp";

/// Reads a file in Docker's config directory. Reads at most 64 MiB, since a device file may have no end.
/// Rejects FIFOs and sockets, since reading from them could block.
///
/// # Errors
/// The file cannot be read, or is a FIFO or a socket.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    const MAX: u64 = 64 << 20;
    #[cfg(unix)]
    {
        let kind = fs::metadata(path)?.file_type();
        if kind.is_fifo() || kind.is_socket() {
            return Err(io::Error::other("it is not a regular file"));
        }
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The permissions that a file gets when the plugin writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An existing file keeps its permissions. Only the owner may read a new file.
    AsItIs,
    /// Only the owner may read the file, because the file contains secrets.
    Private,
}

/// A locked file in Docker's config directory, usually with a lock file next to it. The lock stops only other
/// processes of this plugin, since docker does not lock files.
#[derive(Debug)]
pub struct LockedFile {
    /// The path of the locked file, with symbolic links resolved.
    target: PathBuf,
    /// The open file that has the lock. The system releases the lock when this process exits or is killed.
    _lock: File,
    lock_path: Option<PathBuf>,
}

impl LockedFile {
    /// The longest wait for another process to release the lock. A process needs the lock for only a few
    /// milliseconds.
    const TIMEOUT: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(2);

    /// Locks a file. Waits until no other process of this plugin has the lock. Creates the directory of the
    /// file if the directory is missing.
    ///
    /// # Errors
    /// An I/O error occurs, the path is not a regular file, or another process keeps the lock for longer than
    /// 10 s.
    pub fn take(path: &Path) -> io::Result<Self> {
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The path may be a symbolic link to a file that does not exist yet.
                let directory = path.parent().unwrap_or(Path::new("."));
                fs::read_link(path).map_or_else(|_| path.to_owned(), |target| directory.join(target))
            }
            Err(error) => return Err(error),
        };
        // Some users link config.json to `/dev/null` to have no config. The plugin must not replace
        // `/dev/null`.
        if fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(io::Error::other("it is not a regular file"));
        }
        make_private_directory(directory_of(&target))?;
        let lock_path = beside(&target, ".lock");
        let started = Instant::now();
        loop {
            let (lock, lock_path) = match private_file().open(&lock_path) {
                Ok(lock) => (lock, Some(lock_path.clone())),
                // The plugin cannot create a lock file, perhaps because only the file at `target`, and not
                // its directory, is mounted into a container. Lock the file itself.
                Err(_) if target.exists() => (File::open(&target)?, None),
                Err(error) => return Err(error),
            };
            let is_locked = match lock.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) if started.elapsed() < Self::TIMEOUT => {
                    thread::sleep(Self::PAUSE);
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    let shown = lock_path.as_ref().unwrap_or(&target).display();
                    return Err(io::Error::other(format!("another process has locked `{shown}`")));
                }
                // Some network file systems do not support locks. Continue without a lock, as docker does.
                Err(TryLockError::Error(error)) if has_no_locks(&error) => false,
                Err(TryLockError::Error(error)) => return Err(error),
            };
            // If the path no longer names the file that this process has just locked, the previous owner of
            // the lock has removed or replaced that file. In this case, repeat the loop.
            if is_at(&lock, lock_path.as_ref().unwrap_or(&target)) {
                let held = Self { target, _lock: lock, lock_path };
                if is_locked && held.lock_path.is_some() {
                    held.remove_leftovers();
                }
                return Ok(held);
            }
        }
    }

    /// Returns the content of the locked file; `None` if the file does not exist.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match read_file(&self.target) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the content of the locked file, or removes the file if `after` is `None`. Follows symbolic
    /// links, and keeps the owner of the file. If a rename can replace the file, other programs never read a
    /// mix of old and new content.
    ///
    /// * `before`: the content that the caller has read. Writes nothing if the file has other content now.
    ///
    /// # Errors
    /// An I/O error occurs, or another program has changed the file.
    pub fn write(&self, before: Option<&[u8]>, after: Option<&str>, mode: Mode) -> io::Result<()> {
        if self.read()?.as_deref() != before {
            return Err(io::Error::other("another process changed it; try again"));
        }
        let target = &self.target;
        let Some(text) = after else { return fs::remove_file(target) };
        let old = fs::metadata(target).ok();
        let in_place = || {
            #[cfg(unix)]
            if mode == Mode::Private {
                self.make_private()?;
            }
            write_in_place(target, before.unwrap_or_default(), text.as_bytes())
        };
        let prefix = leftover_prefix(target);
        let mut named = tempfile::Builder::new();
        let named = named.prefix(&prefix).rand_bytes(RANDOM).suffix(SUFFIX);
        let named = named.tempfile_in(directory_of(target));
        let mut file = match named {
            Ok(file) => file,
            Err(_) if old.is_some() => return in_place(),
            Err(error) => return Err(error),
        };
        file.write_all(text.as_bytes())?;
        if let Some(old) = &old
            && mode == Mode::AsItIs
        {
            file.as_file().set_permissions(old.permissions())?;
        }
        // The old file may belong to another user, for example if root runs the plugin. If the new file
        // cannot get that user as its owner, write to the old file.
        #[cfg(unix)]
        if let Some(old) = &old
            && !has_owner(file.as_file(), old)?
        {
            return in_place();
        }
        file.as_file().sync_all()?;
        match file.persist(target) {
            Ok(_) => {}
            // A file that is a mount point, as in a container, cannot be replaced by a rename. Write to the
            // file itself.
            Err(error)
                if matches!(
                    error.error.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices
                ) =>
            {
                return in_place();
            }
            Err(error) => return Err(error.error),
        }
        // Flush the directory so that the rename survives a system crash. Ignore errors, since some file
        // systems cannot flush a directory.
        #[cfg(unix)]
        let _ = File::open(directory_of(target)).and_then(|directory| directory.sync_all());
        Ok(())
    }

    /// Lets only the owner read and write the locked file, because the file contains secrets.
    ///
    /// # Errors
    /// The permissions cannot be read or changed.
    #[cfg(unix)]
    pub fn make_private(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&self.target)?.permissions().mode();
        if mode & 0o077 == 0 {
            Ok(())
        } else {
            fs::set_permissions(&self.target, fs::Permissions::from_mode(0o600))
        }
    }

    /// Removes temporary files that killed processes of this plugin have left. This process has the lock, so
    /// no other process is writing a temporary file now.
    fn remove_leftovers(&self) {
        let prefix = leftover_prefix(&self.target);
        let is_ours = |name: &OsStr| {
            let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
            let random = rest.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
            random
                .is_some_and(|random| random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
        };
        for entry in fs::read_dir(directory_of(&self.target)).into_iter().flatten().flatten() {
            if is_ours(&entry.file_name()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(unix)]
impl Drop for LockedFile {
    fn drop(&mut self) {
        // Remove the lock file before releasing the lock, so that no other process locks a file that is about
        // to be removed.
        if let Some(path) = &self.lock_path {
            let _ = fs::remove_file(path);
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn leftover_prefix(target: &Path) -> OsString {
    beside(target, ".regpush-").file_name().unwrap_or_default().to_owned()
}

/// Returns whether a path still names the open file `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata().map(id), fs::metadata(path).map(id)), (Ok(own), Ok(there)) if own == there)
}

/// Returns true: on Windows, lock files are never removed, so the path always names the open file.
#[cfg(windows)]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Returns whether an error means that the file system does not support locks. NFS without a lock manager
/// returns `ENOLCK`.
fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    let is_without = error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error());
    #[cfg(windows)]
    let is_without = false;
    is_without || error.kind() == io::ErrorKind::Unsupported
}

fn make_private_directory(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)
}

fn private_file() -> fs::OpenOptions {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Overwrites an existing file, which is not atomic. Truncates the file only after writing the new content,
/// and restores the old content after an error.
fn write_in_place(path: &Path, before: &[u8], after: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    let mut put = |bytes: &[u8]| {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()
    };
    put(after).inspect_err(|_| drop(put(before)))
}

/// Gives `file` the owner and group of another file, if permitted. Returns whether `file` has that owner and
/// group now.
#[cfg(unix)]
fn has_owner(file: &File, other: &fs::Metadata) -> io::Result<bool> {
    let own = file.metadata()?;
    let is_owned = (own.uid(), own.gid()) == (other.uid(), other.gid());
    Ok(is_owned || std::os::unix::fs::fchown(file, Some(other.uid()), Some(other.gid())).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_file(path: &Path, before: Option<&[u8]>, after: Option<&str>) -> io::Result<()> {
        LockedFile::take(path)?.write(before, after, Mode::AsItIs)
    }
    use std::sync::atomic::{AtomicBool, Ordering};

    #[cfg(unix)]
    #[test]
    fn refuses_to_replace_a_fifo() {
        let directory = tempfile::tempdir().unwrap();
        let (path, fifo) = (directory.path().join("config.json"), directory.path().join("fifo"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(&fifo, &path).unwrap();
        assert_eq!(LockedFile::take(&path).unwrap_err().to_string(), "it is not a regular file");
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no lock file was created");
    }

    /// Regression: a thread locked a lock file that another thread had already removed, so two threads had
    /// the lock.
    #[test]
    fn only_one_thread_holds_the_lock() {
        const ROUNDS: usize = 3000;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let is_held = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let held = LockedFile::take(&path).unwrap();
                        assert!(!is_held.swap(true, Ordering::SeqCst), "two threads hold the lock");
                        thread::yield_now();
                        is_held.store(false, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn keeps_changes_that_another_process_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, "theirs").unwrap();
        for before in [None, Some(&b"read"[..])] {
            let error = write_file(&path, before, Some("ours")).unwrap_err();
            assert_eq!(error.to_string(), "another process changed it; try again");
            assert!(write_file(&path, before, None).is_err());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        write_file(&path, Some(b"theirs"), Some("ours")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
        write_file(&path, Some(b"ours"), None).unwrap();
        assert!(write_file(&path, Some(b"ours"), Some("again")).is_err(), "the file was removed");
    }
}
