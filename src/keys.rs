//! Keys of rooms: made from the system's randomness, kept in the state directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::Secret;

/// Bytes of randomness in a key: 128 bits.
const KEY_BYTES: usize = 16;

/// Longest key file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1_024;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The kernel has no randomness.
    #[error("the system has no randomness: {0}")]
    Random(getrandom::Error),
    /// The key file cannot be read or written.
    #[error(
        "cannot keep a key in {}: set room.key (and server.device_key), or STATE_DIRECTORY to a directory that can be written",
        path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes a key: 32 hexadecimal digits.
///
/// # Errors
///
/// [`KeyError::Random`] on a broken kernel.
pub fn generate() -> Result<Secret, KeyError> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    Ok(Secret::new(digits.collect()))
}

/// Where the key of viewers is kept, within the state directory.
pub const VIEWER_KEY_FILE: &str = "key";

/// Where the key of devices is kept, for `roomcam serve`.
pub const DEVICE_KEY_FILE: &str = "device-key";

/// Reads the key kept as `name` in `directory`, or makes one there that only its owner can read.
///
/// # Errors
///
/// [`KeyError`]
pub fn load_or_create(directory: &Path, name: &str) -> Result<Secret, KeyError> {
    let path = directory.join(name);
    // An empty file is what a full disk leaves: made anew.
    if let Some(key) = read(&path)? {
        return Ok(key);
    }
    let key = generate()?;
    match store(directory, &path, &key) {
        Ok(()) => Ok(key),
        Err(source) => Err(KeyError::File { path, source }),
    }
}

/// Reads a key; `None` where there is no such file, or nothing in it.
///
/// # Errors
///
/// [`KeyError::File`]
pub fn read(path: &Path) -> Result<Option<Secret>, KeyError> {
    let text = match File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            let limited = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
            limited.and_then(|length| match u64::try_from(length) {
                Ok(length) if length <= MAX_FILE_BYTES => Ok(text),
                _ => Err(io::Error::other("the file is no key")),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    let text = text.map_err(|source| KeyError::File {
        path: path.to_owned(),
        source,
    })?;
    let key = text.trim();
    Ok((!key.is_empty()).then(|| Secret::new(key.to_owned())))
}

/// Returns the secret that systemd hands this process as `name` (`LoadCredential=`), if any.
///
/// # Errors
///
/// [`KeyError::File`]
pub fn credential(name: &str) -> Result<Option<Secret>, KeyError> {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(directory) => read(&Path::new(&directory).join(name)),
        None => Ok(None),
    }
}

/// Writes the key so that a power cut leaves all of it or nothing.
fn store(directory: &Path, path: &Path, key: &Secret) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let unfinished = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(format!("{}\n", key.expose()).as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(directory)?.sync_all()
}

/// Returns where state is kept: what systemd says, or the user's own.
#[must_use]
pub fn state_directory() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    from("STATE_DIRECTORY")
        .map(PathBuf::from)
        .or_else(|| from("XDG_STATE_HOME").map(|home| Path::new(&home).join("roomcam")))
        .or_else(|| from("HOME").map(|home| Path::new(&home).join(".local/state/roomcam")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/roomcam"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let key = load_or_create(&state, VIEWER_KEY_FILE).unwrap();
        assert_eq!(key.expose().len(), 32);
        assert_eq!(load_or_create(&state, VIEWER_KEY_FILE).unwrap(), key);
        let mode = fs::metadata(state.join("key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_too_long_for_a_key_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "x".repeat(2_000)).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, KeyError::File { .. }), "{error}");
    }

    #[test]
    fn a_key_file_that_a_power_cut_left_empty_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("key"), "\n").unwrap();
        let key = load_or_create(directory.path(), VIEWER_KEY_FILE).unwrap();
        assert_eq!(key.expose().len(), 32);
        assert_eq!(
            load_or_create(directory.path(), VIEWER_KEY_FILE).unwrap(),
            key
        );
    }
}
