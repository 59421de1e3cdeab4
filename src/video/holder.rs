//! Which process has a device open, so that "busy" can say who it is (`/proc/*/fd`).
//!
//! Processes of other users are visible to root alone; then the answer is `None`.

use std::fs;
use std::path::Path;

/// Returns name and id of a process other than this one that has `path` open: `guvcview (pid 412)`.
pub(crate) fn of(path: &Path) -> Option<String> {
    let device = path.canonicalize().ok()?;
    let own = std::process::id();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let ids = processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| *id != own)
        .find(|id| holds(*id, &device))
        .map(|id| {
            let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            format!("{} (pid {id})", name.trim())
        })
}

fn holds(process: u32, device: &Path) -> bool {
    fs::read_dir(format!("/proc/{process}/fd")).is_ok_and(|files| {
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|open| open == device))
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
