//! Which process has a device or a socket open, so that "busy" can say who it is (`/proc/*/fd`).
//!
//! Processes of other users are visible to root alone; then the answer is `None`.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns name and id of a process other than this one that has `path` open: `guvcview (pid 412)`.
#[must_use]
pub fn of(path: &Path) -> Option<String> {
    open_by(&path.canonicalize().ok()?)
}

/// Returns the same for the socket that `/proc/net` calls by the number `inode`.
#[must_use]
pub fn of_socket(inode: u64) -> Option<String> {
    open_by(&PathBuf::from(format!("socket:[{inode}]")))
}

/// Returns a process that runs one of the programs `names`, and the roomcam that has started it, if one has:
/// `rpicam-vid (pid 9) of roomcam (pid 7)`. Our own do not count.
#[must_use]
pub fn of_program(names: &[&str]) -> Option<String> {
    let own = std::process::id();
    let comm = |id: u32| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let ids = processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
    let id = ids
        .filter(|id| *id != own && parent(*id) != Some(own))
        .find(|id| names.contains(&comm(*id).trim()))?;
    let starter = parent(id).filter(|starter| comm(*starter).trim() == "roomcam");
    Some(match starter {
        Some(starter) => format!("{} of {}", named(id), named(starter)),
        None => named(id),
    })
}

fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let mut lines = status.lines();
    let id = lines.find_map(|line| line.strip_prefix("PPid:"))?;
    id.trim().parse().ok()
}

/// Returns a process in words: `guvcview (pid 412)`.
#[must_use]
pub fn named(id: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("a program (pid {id})"),
        name => format!("{name} (pid {id})"),
    }
}

fn open_by(file: &Path) -> Option<String> {
    let own = std::process::id();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let ids = processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| *id != own)
        .find(|id| holds(*id, file))
        .map(named)
}

fn holds(process: u32, wanted: &Path) -> bool {
    fs::read_dir(format!("/proc/{process}/fd")).is_ok_and(|files| {
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|open| open == wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    #[test]
    fn names_the_process_that_has_the_file_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(of(file.path()), None, "we ourselves do not count");
        let input = fs::File::open(file.path()).unwrap();
        let mut other = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::from(input))
            .spawn()
            .unwrap();
        let expected = format!("sleep (pid {})", other.id());
        let deadline = crate::clock::now() + Duration::from_secs(10);
        let mut found = None;
        // Between fork and exec the process still bears our name.
        while found.as_ref() != Some(&expected) && crate::clock::now() < deadline {
            found = of(file.path());
        }
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn nobody_holds_what_does_not_exist() {
        assert_eq!(of(Path::new("/dev/video-that-is-not-there")), None);
    }
}
