//! The service under systemd: enabled, running, and how it ended last. Pure; `systemctl` asks.

use std::collections::BTreeMap;

use super::finding::{Finding, Level};

/// What is asked of systemd (`systemctl show`).
pub(super) const PROPERTIES: &str = "LoadState,UnitFileState,ActiveState,SubState,Result,\
    ExecMainStatus,NRestarts,User,SupplementaryGroups,StatusText";

/// The daemon's own exit code for a wrong configuration.
const WRONG_CONFIGURATION: &str = "78";

/// A unit that systemd has.
#[derive(Clone, Debug)]
pub(super) struct Service {
    unit: String,
    properties: BTreeMap<String, String>,
}

impl Service {
    /// Reads what `systemctl show` prints; `None` where there is no such unit.
    pub(super) fn parse(unit: &str, text: &str) -> Option<Self> {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let service = Self {
            unit: unit.to_owned(),
            properties: lines
                .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
                .collect(),
        };
        (service.get("LoadState") == "loaded").then_some(service)
    }

    pub(super) fn unit(&self) -> &str {
        &self.unit
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.get("ActiveState"), "active" | "reloading")
    }

    pub(super) fn user(&self) -> String {
        match self.get("User") {
            "" => "root".to_owned(),
            user => user.to_owned(),
        }
    }

    pub(super) fn supplementary_groups(&self) -> impl Iterator<Item = String> {
        let groups = self.get("SupplementaryGroups").split_whitespace();
        groups.map(str::to_owned)
    }

    /// Judges it.
    pub(super) fn finding(&self) -> Finding {
        let unit = &self.unit;
        let is_enabled = matches!(self.get("UnitFileState"), "enabled" | "enabled-runtime");
        if self.is_active() {
            let said = match self.get("StatusText") {
                "" => String::new(),
                status => format!(" ({status})"),
            };
            let restarts: u32 = self.get("NRestarts").parse().unwrap_or_default();
            let restarted = match restarts {
                0 => String::new(),
                times => format!("; restarted {times} times since it was started"),
            };
            let text = format!("{unit} runs{said}{restarted}.");
            let finding = |level| {
                Finding::new("service", level, text.clone())
                    .mended_by(format!("sudo journalctl -u {unit} -n 20"))
            };
            let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
            if says(&["waiting for camera", "camera hangs"]) {
                return finding(Level::Error);
            }
            if says(&[
                "waiting for microphone",
                "microphone hangs",
                "not in a room yet",
            ]) {
                return finding(Level::Warning);
            }
            return match (is_enabled, restarts) {
                (true, 0) => Finding::ok("service", text),
                (true, _) => Finding::warning("service", text)
                    .mended_by(format!("sudo journalctl -u {unit} -p warning -n 50")),
                (false, _) => {
                    let text = format!("{text} It is not started at the next boot.");
                    Finding::warning("service", text)
                        .mended_by(format!("sudo systemctl enable {unit}"))
                }
            };
        }
        let status = self.get("ExecMainStatus");
        let state = self.get("ActiveState");
        if status == WRONG_CONFIGURATION {
            let text = format!("{unit} ended because its configuration was wrong.");
            let remedy = format!("mend the configuration, then: sudo systemctl restart {unit}");
            return Finding::warning("service", text).mended_by(remedy);
        }
        if state == "failed" || self.get("SubState") == "auto-restart" {
            let result = self.get("Result");
            let text = format!("{unit} failed ({result}, exit code {status}).");
            let remedy = format!("sudo journalctl -u {unit} -n 50; sudo systemctl restart {unit}");
            return Finding::warning("service", text).mended_by(remedy);
        }
        let remedy = if is_enabled {
            format!("sudo systemctl start {unit}")
        } else {
            format!("sudo systemctl enable --now {unit}")
        };
        Finding::warning("service", format!("{unit} does not run ({state}).")).mended_by(remedy)
    }

    fn get(&self, name: &str) -> &str {
        self.properties.get(name).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(changes: &[(&str, &str)]) -> Service {
        let text = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nSubState=running\n\
            Result=success\nExecMainStatus=0\nNRestarts=0\nUser=roomcam\n\
            SupplementaryGroups=video audio\nStatusText=in the room, nobody watches\n";
        let mut service = Service::parse("roomcam.service", text).unwrap();
        for (name, value) in changes {
            service
                .properties
                .insert((*name).to_owned(), (*value).to_owned());
        }
        service
    }

    #[test]
    fn one_that_runs_and_is_enabled_is_well() {
        let finding = service(&[]).finding();
        assert_eq!(finding.level, Level::Ok);
        assert_eq!(
            finding.text,
            "roomcam.service runs (in the room, nobody watches)."
        );
        let groups: Vec<_> = service(&[]).supplementary_groups().collect();
        assert_eq!((service(&[]).user().as_str(), groups.len()), ("roomcam", 2));
        assert_eq!(service(&[("User", "")]).user(), "root");
    }

    #[test]
    fn one_that_runs_tells_what_it_waits_for() {
        let level = |status| service(&[("StatusText", status)]).finding().level;
        assert_eq!(level("in the room, 1 viewer, camera starts"), Level::Ok);
        assert_eq!(
            level("in the room, 1 viewer, waiting for camera: /dev/video0 is not present"),
            Level::Error
        );
        assert_eq!(
            level("in the room, 1 viewer, the camera hangs in its driver"),
            Level::Error
        );
        assert_eq!(
            level("in the room, 1 viewer, waiting for microphone: no microphone found"),
            Level::Warning
        );
        assert_eq!(level("not in a room yet, nobody watches"), Level::Warning);
    }

    #[test]
    fn one_that_does_not_run_is_started_by_the_command_that_is_named() {
        let remedy = |changes: &[(&str, &str)]| {
            let finding = service(changes).finding();
            assert_eq!(finding.level, Level::Warning);
            finding.remedy.unwrap()
        };
        let stopped = ("ActiveState", "inactive");
        assert_eq!(remedy(&[stopped]), "sudo systemctl start roomcam.service");
        assert_eq!(
            remedy(&[stopped, ("UnitFileState", "disabled")]),
            "sudo systemctl enable --now roomcam.service"
        );
        assert_eq!(
            remedy(&[("UnitFileState", "disabled")]),
            "sudo systemctl enable roomcam.service"
        );
        let failed = [
            ("ActiveState", "failed"),
            ("ExecMainStatus", "1"),
            ("Result", "exit-code"),
        ];
        assert!(remedy(&failed).contains("journalctl -u roomcam.service"));
        let wrong = [("ActiveState", "failed"), ("ExecMainStatus", "78")];
        assert!(remedy(&wrong).starts_with("mend the configuration"));
        assert!(remedy(&[("NRestarts", "3")]).contains("journalctl"));
    }

    #[test]
    fn a_unit_that_is_not_there_is_none() {
        assert!(Service::parse("x", "LoadState=not-found\n").is_none());
        assert!(Service::parse("x", "").is_none());
    }
}
