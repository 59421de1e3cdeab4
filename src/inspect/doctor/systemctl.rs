//! Asks systemd of a unit.

use std::path::Path;
use std::process::{Command, Stdio};

use super::service::{PROPERTIES, Service};

/// Returns the unit; `None` where systemd does not run, or has no such unit.
pub(super) fn service(unit: &str) -> Option<Service> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let mut systemctl = Command::new("systemctl");
    systemctl
        .args(["show", "--no-pager", "--property", PROPERTIES, unit])
        .stdin(Stdio::null());
    let output = systemctl.output().ok()?;
    Service::parse(unit, &String::from_utf8_lossy(&output.stdout))
}
