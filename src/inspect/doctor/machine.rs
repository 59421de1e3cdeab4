//! The machine itself: what it is, its temperature and power, memory, disk and clock. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::finding::Finding;

/// From here on a Pi slows down, in thousandths of a degree Celsius (the documentation of its firmware).
const HOT_MILLIDEGREES: i32 = 80_000;

/// The service takes up to 60 MB; less than this, and something will be ended for lack of memory.
const LEAST_AVAILABLE_KIB: u64 = 64 * 1_024;

/// A key is 33 bytes, but a file system that is nearly full fails in other ways soon.
const LEAST_FREE_BYTES: u64 = 16 << 20;

/// 2025-01-01: before this program was made, so that a clock that says less was never set.
const LEAST_PLAUSIBLE_TIME: Duration = Duration::from_secs(1_735_689_600);

/// What is known of the machine; nothing of what it does not tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pub(super) model: Option<String>,
    /// `Debian GNU/Linux 12 (bookworm)`
    pub(super) system: Option<String>,
    pub(super) kernel: String,
    pub(super) architecture: &'static str,
    /// Name and thousandths of a degree of each sensor.
    pub(super) temperatures: Vec<(String, i32)>,
    /// The bits of the Pi's firmware.
    pub(super) throttled: Option<u32>,
    /// Available and in all.
    pub(super) memory_kib: Option<(u64, u64)>,
    pub(super) state: Option<Disk>,
    pub(super) unix_time: Duration,
    /// Whether something keeps the clock right.
    pub(super) is_synchronized: Option<bool>,
    /// Whether there is something installed that could.
    pub(super) has_timekeeper: bool,
}

/// Where the key is kept.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// The state directory, or what of it is there.
    pub(super) directory: PathBuf,
    pub(super) free_bytes: u64,
    pub(super) is_read_only: bool,
}

/// Judges it. `needs_time`: certificates or TURN passwords are used, which are good for a while.
pub(super) fn findings(machine: &Machine, needs_time: bool) -> Vec<Finding> {
    let all = [
        Some(system(machine)),
        temperature(&machine.temperatures),
        power(machine),
        machine.memory_kib.map(memory),
        machine.state.as_ref().map(disk),
        Some(clock(machine, needs_time)),
    ];
    all.into_iter().flatten().collect()
}

fn system(machine: &Machine) -> Finding {
    let (kernel, architecture) = (&machine.kernel, machine.architecture);
    let system = machine.system.as_deref().unwrap_or("an unknown system");
    let on = machine
        .model
        .as_ref()
        .map_or_else(String::new, |model| format!("{model}, "));
    let text = format!("{on}{system}, Linux {kernel}, {architecture}.");
    Finding::ok("system", text)
}

fn temperature(sensors: &[(String, i32)]) -> Option<Finding> {
    let (name, hottest) = sensors.iter().max_by_key(|(_, temperature)| *temperature)?;
    let text = format!("{:.1} °C ({name}).", f64::from(*hottest) / 1_000.0);
    Some(if *hottest < HOT_MILLIDEGREES {
        Finding::ok("temperature", text)
    } else {
        let text = format!("{text} From 80 °C on a Pi slows down.");
        Finding::warning("temperature", text).mended_by("give it a heat sink, a fan, or more air")
    })
}

/// What the Pi's firmware says with each bit, as it is and, 16 bits higher, as it has been since the start.
const POWER_BITS: [(u32, &str); 4] = [
    (0, "too little voltage"),
    (1, "a capped clock"),
    (2, "throttling"),
    (3, "the soft temperature limit"),
];

const LOW_VOLTAGE: u32 = 0x1_0001;

fn power(machine: &Machine) -> Option<Finding> {
    let model = machine.model.as_deref().unwrap_or_default();
    match machine.throttled {
        Some(bits) => Some(judge_power(bits)),
        None if model.starts_with("Raspberry Pi") => {
            let text = "unknown: vcgencmd is missing, or this user may not ask the firmware.";
            Some(Finding::ok("power", text).mended_by("sudo vcgencmd get_throttled"))
        }
        None => None,
    }
}

fn judge_power(bits: u32) -> Finding {
    let named = |shift: u32| -> Vec<&str> {
        let is_set = |bit: &u32| bits >> (bit + shift) & 1 == 1;
        let set = POWER_BITS.iter().filter(|(bit, _)| is_set(bit));
        set.map(|(_, name)| *name).collect()
    };
    let (now, before) = (named(0), named(16));
    if now.is_empty() && before.is_empty() {
        return Finding::ok("power", "never throttled since the start.");
    }
    let mut said = Vec::new();
    if !now.is_empty() {
        said.push(format!("now {}", now.join(", ")));
    }
    if !before.is_empty() {
        said.push(format!("since the start {}", before.join(", ")));
    }
    let remedy = if bits & LOW_VOLTAGE == 0 {
        "give it a heat sink, a fan, or more air"
    } else {
        "use the Pi's own power supply and a short, thick cable"
    };
    let text = format!("{} (get_throttled 0x{bits:x}).", said.join("; "));
    Finding::warning("power", text).mended_by(remedy)
}

fn memory((available, total): (u64, u64)) -> Finding {
    let text = format!("{} of {} MB available.", available / 1_024, total / 1_024);
    if available >= LEAST_AVAILABLE_KIB {
        return Finding::ok("memory", text);
    }
    Finding::warning("memory", text).mended_by("ps -e --sort=-rss -o rss,comm | head")
}

fn disk(disk: &Disk) -> Finding {
    let directory = disk.directory.display();
    let megabytes = disk.free_bytes >> 20;
    if disk.is_read_only {
        let text =
            format!("{directory} is on a file system that cannot be written: no key is kept.");
        return Finding::error("disk", text).mended_by("sudo mount -o remount,rw /");
    }
    let text = format!("{megabytes} MB free for {directory}.");
    if disk.free_bytes >= LEAST_FREE_BYTES {
        return Finding::ok("disk", text);
    }
    Finding::warning("disk", text).mended_by("sudo journalctl --vacuum-size=50M && sudo apt clean")
}

fn clock(machine: &Machine, needs_time: bool) -> Finding {
    let remedy = if machine.has_timekeeper {
        "sudo timedatectl set-ntp true"
    } else {
        "sudo apt install systemd-timesyncd && sudo timedatectl set-ntp true"
    };
    let days = machine.unix_time.as_secs() / 86_400;
    if machine.unix_time < LEAST_PLAUSIBLE_TIME {
        let text = format!(
            "the clock was never set (it is day {days} after 1970): certificates and TURN passwords \
             do not hold."
        );
        let finding = if needs_time {
            Finding::error("clock", text)
        } else {
            Finding::warning("clock", text)
        };
        return finding.mended_by(remedy);
    }
    match machine.is_synchronized {
        Some(false) => {
            Finding::warning("clock", "set, but nothing keeps it right.").mended_by(remedy)
        }
        Some(true) => Finding::ok("clock", "set, and kept right by the network."),
        None => Finding::ok("clock", "set."),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn machine() -> Machine {
        Machine {
            model: Some("Raspberry Pi 4 Model B Rev 1.4".to_owned()),
            system: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
            kernel: "6.12.25+rpt-rpi-v8".to_owned(),
            architecture: "aarch64",
            temperatures: vec![("cpu-thermal".to_owned(), 51_100)],
            throttled: Some(0),
            memory_kib: Some((700_000, 950_000)),
            state: Some(Disk {
                directory: "/var/lib/roomcam".into(),
                free_bytes: 9 << 30,
                is_read_only: false,
            }),
            unix_time: LEAST_PLAUSIBLE_TIME,
            is_synchronized: Some(true),
            has_timekeeper: true,
        }
    }

    fn level(machine: &Machine, check: &str) -> Level {
        let findings = findings(machine, true);
        findings.iter().find(|f| f.check == check).unwrap().level
    }

    #[test]
    fn a_pi_that_is_well_has_six_findings_that_are_ok() {
        let findings = findings(&machine(), true);
        assert!(
            findings.iter().all(|f| f.level == Level::Ok),
            "{findings:?}"
        );
        let texts: Vec<&str> = findings.iter().map(|f| f.text.as_str()).collect();
        let expected = [
            "Raspberry Pi 4 Model B Rev 1.4, Debian GNU/Linux 12 (bookworm), Linux 6.12.25+rpt-rpi-v8, aarch64.",
            "51.1 °C (cpu-thermal).",
            "never throttled since the start.",
            "683 of 927 MB available.",
            "9216 MB free for /var/lib/roomcam.",
            "set, and kept right by the network.",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn what_a_machine_does_not_tell_is_not_judged() {
        let findings = findings(&Machine::default(), false);
        let checks: Vec<&str> = findings.iter().map(|f| f.check).collect();
        assert_eq!(checks, ["system", "clock"]);
    }

    #[test]
    fn the_bits_of_the_firmware_are_put_into_words() {
        let finding = judge_power(0x5_0005);
        assert_eq!(
            finding.text,
            "now too little voltage, throttling; since the start too little voltage, throttling \
             (get_throttled 0x50005)."
        );
        assert!(finding.remedy.unwrap().contains("power supply"));
        let finding = judge_power(0x8_0000);
        assert!(
            finding
                .text
                .starts_with("since the start the soft temperature"),
            "{finding:?}"
        );
        assert!(finding.remedy.unwrap().contains("heat sink"));
        assert_eq!(
            judge_power(0x10).level,
            Level::Ok,
            "a bit that means nothing yet"
        );
    }

    #[test]
    fn a_pi_whose_firmware_does_not_answer_says_so_and_no_other_machine_does() {
        let mut pi = machine();
        pi.throttled = None;
        let finding = power(&pi).unwrap();
        assert_eq!(finding.level, Level::Ok);
        assert_eq!(finding.remedy.unwrap(), "sudo vcgencmd get_throttled");
        pi.model = Some("Standard PC".to_owned());
        assert_eq!(power(&pi), None);
    }

    #[test]
    fn heat_and_a_lack_of_memory_or_disk_are_warnings() {
        let mut hot = machine();
        hot.temperatures.push(("gpu".to_owned(), 84_000));
        assert_eq!(level(&hot, "temperature"), Level::Warning);
        let mut full = machine();
        full.memory_kib = Some((60_000, 400_000));
        full.state.as_mut().unwrap().free_bytes = 1 << 20;
        assert_eq!(level(&full, "memory"), Level::Warning);
        assert_eq!(level(&full, "disk"), Level::Warning);
        full.state.as_mut().unwrap().is_read_only = true;
        assert_eq!(level(&full, "disk"), Level::Error);
    }

    #[test]
    fn a_clock_that_was_never_set_matters_where_certificates_do() {
        let mut unset = machine();
        unset.unix_time = Duration::from_secs(4_000);
        assert_eq!(level(&unset, "clock"), Level::Error);
        assert_eq!(clock(&unset, false).level, Level::Warning);
        let mut drifting = machine();
        drifting.is_synchronized = Some(false);
        let finding = clock(&drifting, true);
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.remedy.unwrap(), "sudo timedatectl set-ntp true");
        drifting.has_timekeeper = false;
        let remedy = clock(&drifting, true).remedy.unwrap();
        assert!(
            remedy.starts_with("sudo apt install systemd-timesyncd"),
            "{remedy}"
        );
    }
}
