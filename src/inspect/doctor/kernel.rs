//! What the kernel, and the files of the system, say of the machine: `/proc`, `/sys`, `/etc/os-release`, and
//! two system calls.
#![expect(
    unsafe_code,
    reason = "statvfs(3), adjtimex(2) and access(2) are not in std"
)]

use std::ffi::CString;
use std::fs;
use std::mem;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::machine::{Disk, Machine};
use crate::clock;

/// What sets the clock by the network, where it is installed: systemd's own, chrony, ntpsec.
const TIMEKEEPERS: [&str; 3] = [
    "/usr/lib/systemd/systemd-timesyncd",
    "/usr/sbin/chronyd",
    "/usr/sbin/ntpd",
];

/// Most sensors that are read.
const MAX_SENSORS: usize = 32;

/// Reads everything. `state` is where the key is kept.
pub(super) fn machine(state: &Path) -> Machine {
    Machine {
        model: read("/proc/device-tree/model").or_else(|| read("/sys/class/dmi/id/product_name")),
        system: read("/etc/os-release").and_then(|text| pretty_name(&text)),
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        architecture: std::env::consts::ARCH,
        temperatures: temperatures(),
        throttled: throttled(),
        memory_kib: read("/proc/meminfo").and_then(|text| memory(&text)),
        state: disk(state),
        unix_time: clock::unix_time(),
        is_synchronized: is_synchronized(),
        has_timekeeper: TIMEKEEPERS.iter().any(|path| Path::new(path).exists()),
    }
}

/// Returns whether this process may read and write `path`.
pub(super) fn may_open(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: the path is a string that ends with a zero and lives until the call returns.
    unsafe { libc::access(path.as_ptr(), libc::R_OK | libc::W_OK) == 0 }
}

/// Returns the text of a small file, without what ends it.
fn read(path: &str) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_end_matches(['\0', '\n']).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn pretty_name(os_release: &str) -> Option<String> {
    let mut lines = os_release.lines();
    let value = lines.find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

fn temperatures() -> Vec<(String, i32)> {
    let zones = fs::read_dir("/sys/class/thermal").into_iter().flatten();
    let zones = zones.flatten().map(|entry| entry.path());
    zones
        .filter(|path| path.to_string_lossy().contains("thermal_zone"))
        .take(MAX_SENSORS)
        .filter_map(|path| {
            let of = |name: &str| read(path.join(name).to_str()?);
            Some((of("type")?, of("temp")?.parse().ok()?))
        })
        .collect()
}

/// Asks the Pi's firmware by its own program, which the group `video` may use. The kernel's file of the same
/// name is deprecated, and says so in its log.
fn throttled() -> Option<u32> {
    let mut program = Command::new("vcgencmd");
    program.arg("get_throttled").stdin(Stdio::null());
    let output = program.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    hexadecimal(text.trim().strip_prefix("throttled=")?)
}

fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

fn memory(meminfo: &str) -> Option<(u64, u64)> {
    let of = |name: &str| {
        let mut lines = meminfo.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.split_whitespace().next()?.parse().ok()
    };
    Some((of("MemAvailable")?, of("MemTotal")?))
}

fn disk(state: &Path) -> Option<Disk> {
    // It is made at the first start.
    let directory = state.ancestors().find(|path| path.is_dir())?;
    let path = CString::new(directory.as_os_str().as_bytes()).ok()?;
    // SAFETY: all zeros is a value of this struct of integers.
    let mut found: libc::statvfs = unsafe { mem::zeroed() };
    // SAFETY: the path ends with a zero, and `found` is a struct that is ours; both outlive the call.
    let status = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
    (status == 0).then(|| Disk {
        directory: directory.to_owned(),
        free_bytes: u64::try_from(u128::from(found.f_bavail) * u128::from(found.f_frsize))
            .unwrap_or(u64::MAX),
        is_read_only: found.f_flag & libc::ST_RDONLY != 0,
    })
}

/// Returns whether somebody keeps the clock right; `None` where one may not ask.
fn is_synchronized() -> Option<bool> {
    // SAFETY: all zeros is a value of this struct of integers, and asks without changing anything.
    let mut found: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: `found` is a struct that is ours and outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut found) };
    (state >= 0).then_some(found.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_system_are_read() {
        let os_release = "NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        let name = pretty_name(os_release);
        assert_eq!(name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        let meminfo = "MemTotal:  950000 kB\nMemFree: 1 kB\nMemAvailable:   700000 kB\n";
        assert_eq!(memory(meminfo), Some((700_000, 950_000)));
        assert_eq!(memory("MemTotal: lots"), None);
        assert_eq!(
            [hexadecimal("50005"), hexadecimal("0x8")],
            [Some(0x5_0005), Some(8)]
        );
        assert_eq!(hexadecimal("no"), None);
    }

    #[test]
    fn this_machine_tells_something() {
        let machine = machine(Path::new("/nonexistent/state"));
        assert!(!machine.kernel.is_empty());
        assert!(machine.memory_kib.is_some());
        let state = machine.state.unwrap();
        assert_eq!(state.directory, Path::new("/"), "what is there of it");
        assert!(!may_open(Path::new("/nonexistent")));
    }
}
