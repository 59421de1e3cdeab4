//! Which process has a sound card's input open, so that "busy" can say who it is (`/proc/asound`).
//!
//! The kernel tells everybody. PCMs that are no card's (`default`, `pulse`) are left out.

use std::fs;
use std::path::{Path, PathBuf};

use crate::video::holder::named;

/// Returns name and id of the process that records from the ALSA PCM `pcm`: `arecord (pid 412)`.
pub(super) fn of(pcm: &str) -> Option<String> {
    owner(Path::new("/proc/asound"), pcm).map(named)
}

fn owner(root: &Path, pcm: &str) -> Option<u32> {
    let (card, device) = card_and_device(pcm)?;
    let entries = |directory: PathBuf| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    };
    let is_input = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_prefix("pcm").and_then(|n| n.strip_suffix('c'));
        number.is_some_and(|number| device.is_none_or(|device| device == number))
    };
    entries(root.join(card))
        .filter(is_input)
        .flat_map(entries)
        .find_map(|stream| {
            let status = fs::read_to_string(stream.join("status")).ok()?;
            let owner = status.lines().find_map(|l| l.strip_prefix("owner_pid"))?;
            owner
                .trim_start_matches([' ', '\t', ':'])
                .trim()
                .parse()
                .ok()
        })
}

/// Returns the card's directory in `/proc/asound` and the number of its device, where the name has one:
/// `plughw:CARD=Device,DEV=0`, `hw:1,0`, `sysdefault:CARD=Device`.
fn card_and_device(pcm: &str) -> Option<(String, Option<&str>)> {
    let (_, arguments) = pcm.split_once(':')?;
    let mut arguments = arguments.split(',');
    let card = arguments.next()?;
    let card = card.strip_prefix("CARD=").unwrap_or(card);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if card.is_empty() || !card.chars().all(is_name) {
        return None;
    }
    let device = arguments
        .next()
        .map(|device| device.strip_prefix("DEV=").unwrap_or(device));
    let card = if card.parse::<u32>().is_ok() {
        format!("card{card}")
    } else {
        card.to_owned()
    };
    Some((card, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_pcm_tells_card_and_device() {
        let parsed = |pcm| card_and_device(pcm).map(|(card, device)| (card, device.unwrap_or("-")));
        for (pcm, card, device) in [
            ("plughw:CARD=Device,DEV=0", "Device", "0"),
            ("hw:1,0", "card1", "0"),
            ("hw:Loopback,1,0", "Loopback", "1"),
            ("sysdefault:CARD=Device", "Device", "-"),
        ] {
            assert_eq!(parsed(pcm), Some((card.to_owned(), device)), "{pcm}");
        }
        for pcm in ["default", "plug:'hw:1'", "hw:", "hw:../1"] {
            assert_eq!(parsed(pcm), None, "{pcm}");
        }
    }

    #[test]
    fn the_owner_is_found_in_what_the_kernel_tells() {
        let root = tempfile::tempdir().unwrap();
        let stream = |name: &str, status: &str| {
            let directory = root.path().join("Device").join(name).join("sub0");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("status"), status).unwrap();
        };
        stream("pcm0p", "state: RUNNING\nowner_pid   : 7\n");
        stream("pcm0c", "closed\n");
        stream(
            "pcm1c",
            "state: RUNNING\nowner_pid   : 412\ntstamp      : 0\n",
        );
        let owner = |pcm| owner(root.path(), pcm);
        assert_eq!(owner("plughw:CARD=Device,DEV=1"), Some(412));
        assert_eq!(owner("plughw:CARD=Device,DEV=0"), None, "it plays alone");
        assert_eq!(owner("sysdefault:CARD=Device"), Some(412));
        assert_eq!(owner("hw:9,0"), None);
    }
}
