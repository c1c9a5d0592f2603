//! Writes the references and digests of pushed images to files, for CI steps that run after the push.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use crate::cli::PushOptions;
use crate::error::Error;
use crate::reference::Reference;

/// The files of `--digest-file`, `--metadata-file` and `--github-output`. The files are prepared before the push, so
/// that a missing folder is reported at once, and written after the push.
pub struct Files {
    digest: Option<Output>,
    metadata: Option<Output>,
    /// Whether this run of the plugin may push several images.
    are_several: bool,
    /// The path in the variable `GITHUB_OUTPUT`. `None`: `--github-output` is not given. `Some(None)`: the variable
    /// is not set.
    github: Option<Option<PathBuf>>,
}

/// The file of `--digest-file` or `--metadata-file`.
struct Output {
    path: PathBuf,
    /// The temporary file that replaces `path` in one step. `None`: `path` is written in place, because `path` is a
    /// symbolic link or a special file, such as a pipe.
    new: Option<NamedTempFile>,
}

impl Files {
    /// Prepares the files that the options request.
    ///
    /// # Errors
    /// One of the files cannot be written.
    pub fn prepare(options: &PushOptions, are_several: bool) -> Result<Self, Error> {
        let prepare = |path: &Option<PathBuf>| path.as_deref().map(Output::prepare).transpose();
        let variable = || env::var_os("GITHUB_OUTPUT").filter(|path| !path.is_empty()).map(PathBuf::from);
        // A dry run pushes nothing, so no files are written.
        if options.dry_run {
            return Ok(Self { digest: None, metadata: None, are_several, github: None });
        }
        let github = options.github_output.then(variable);
        if let Some(Some(path)) = &github {
            append(path, "").map_err(|source| Error::File { path: path.clone(), source })?;
        }
        Ok(Self {
            digest: prepare(&options.digest_file)?,
            metadata: prepare(&options.metadata_file)?,
            are_several,
            github,
        })
    }

    /// Writes the files if at least one image was pushed.
    ///
    /// * `pushed`: the reference and digest of each pushed image.
    ///
    /// # Errors
    /// One of the files cannot be written.
    pub fn write(self, pushed: &[(&Reference, &str)], mut warn: impl FnMut(&str)) -> Result<(), Error> {
        if self.github == Some(None) {
            warn("--github-output works only in GitHub Actions: GITHUB_OUTPUT is not set");
        }
        if pushed.is_empty() {
            return Ok(());
        }
        if let (Some(output), [(_, digest)]) = (self.digest, pushed) {
            // Writes the digest without a line end, like buildx and podman.
            output.write(digest.as_bytes())?;
        }
        if let Some(output) = self.metadata {
            output.write(format!("{:#}\n", metadata(pushed, self.are_several)).as_bytes())?;
        }
        if let Some(Some(path)) = self.github {
            append(&path, &github(pushed)).map_err(|source| Error::File { path, source })?;
        }
        Ok(())
    }
}

/// Returns the content of the metadata file. One image: the format of `docker buildx build --metadata-file`. Several
/// images: the format of `docker buildx bake`, one JSON object per image, with the canonical reference as the key.
///
/// Source: docker/buildx `docs/reference/buildx_build.md` and `buildx_bake.md`, "Write build results metadata".
fn metadata(pushed: &[(&Reference, &str)], are_several: bool) -> Value {
    let one = |reference: &Reference, digest: &str| json!({"containerimage.digest": digest, "image.name": reference.canonical()});
    match pushed {
        [(reference, digest)] if !are_several => one(reference, digest),
        several => {
            let entry =
                |(reference, digest): &(&Reference, &str)| (reference.canonical(), one(reference, digest));
            Value::Object(several.iter().map(entry).collect::<Map<_, _>>())
        }
    }
}

/// Formats the outputs `digest` and `reference` for `GITHUB_OUTPUT`. For several images, each output has one line per
/// image.
///
/// Source: GitHub Actions, "Workflow commands", "Multiline strings". No line of an output equals the delimiter
/// `END_OF_REGPUSH`.
fn github(pushed: &[(&Reference, &str)]) -> String {
    let digests: Vec<String> = pushed.iter().map(|(_, digest)| (*digest).to_owned()).collect();
    let references: Vec<String> = pushed.iter().map(|(reference, _)| reference.canonical()).collect();
    let output = |name: &str, values: &[String]| match values {
        [value] => format!("{name}={value}\n"),
        values => format!("{name}<<END_OF_REGPUSH\n{}\nEND_OF_REGPUSH\n", values.join("\n")),
    };
    output("digest", &digests) + &output("reference", &references)
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
}

impl Output {
    fn prepare(path: &Path) -> Result<Self, Error> {
        let problem = |source| Error::File { path: path.to_owned(), source };
        let in_place = Self { path: path.to_owned(), new: None };
        // A path such as `/dev/stdout` may lead to a file that another program has opened. The plugin must
        // write to that file, and must not replace the file.
        if path.starts_with("/dev") || path.starts_with("/proc") {
            return Ok(in_place);
        }
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_dir() => return Err(problem(io::ErrorKind::IsADirectory.into())),
            Ok(there) if !there.is_file() => return Ok(in_place),
            _ => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // If the folder is missing, the error must name `path`. The error of `tempfile_in` would name the temporary
        // file.
        fs::metadata(folder.unwrap_or(Path::new("."))).map_err(problem)?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // The file contains no secrets, so only the user's umask restricts the permissions.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let new = builder.prefix(".regpush-").tempfile_in(folder.unwrap_or(Path::new(".")));
        Ok(Self { new: Some(new.map_err(problem)?), ..in_place })
    }

    fn write(self, bytes: &[u8]) -> Result<(), Error> {
        let Self { path, new } = self;
        let written = match new {
            None => write_in_place(&path, bytes),
            Some(mut new) => new.write_all(bytes).and_then(|()| new.flush()).and_then(|()| {
                // `persist` fails if `path` is a mount point, so `path` is then written in place.
                new.persist(&path).map(drop).or_else(|_| write_in_place(&path, bytes))
            }),
        };
        written.map_err(|source| Error::File { path, source })
    }
}

fn write_in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let is_device = path.starts_with("/dev") || path.starts_with("/proc");
    let mut options = OpenOptions::new();
    // Appends to a device path such as `/dev/stdout`: if stdout is a file, the content of the file must be kept.
    options.write(true).append(is_device).truncate(!is_device).create(!is_device);
    options.open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_one_entry_per_image_if_several() {
        let [a, b] = ["app:1", "r.io/web:2"].map(|name| name.parse::<Reference>().unwrap());
        let own = json!({"containerimage.digest": "sha256:aa", "image.name": "docker.io/library/app:1"});
        assert_eq!(metadata(&[(&a, "sha256:aa")], false), own);
        // The user requested several images, but only one image was pushed.
        assert_eq!(metadata(&[(&a, "sha256:aa")], true), json!({"docker.io/library/app:1": own}));
        let both = [(&a, "sha256:aa"), (&b, "sha256:bb")];
        assert_eq!(metadata(&both, true)["r.io/web:2"]["containerimage.digest"], "sha256:bb");
        assert_eq!(github(&both[1..]), "digest=sha256:bb\nreference=r.io/web:2\n");
        assert_eq!(
            github(&both),
            "digest<<END_OF_REGPUSH\nsha256:aa\nsha256:bb\nEND_OF_REGPUSH\nreference<<END_OF_REGPUSH\ndocker.io/library/app:1\nr.io/web:2\nEND_OF_REGPUSH\n"
        );
    }
}
