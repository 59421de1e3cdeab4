//! The sound cards of this machine that have a microphone, and the one that a name means.

use std::fs;
use std::path::PathBuf;

use alsa::Direction;
use alsa::card;
use alsa::ctl::{Ctl, DeviceIter};
use tracing::debug;

use super::{divert_messages, log_messages};
use crate::audio::MicrophoneInfo;

/// Returns the microphones of this machine, in the order of the sound cards.
pub(super) fn microphones() -> Vec<MicrophoneInfo> {
    let messages = divert_messages();
    let mut found = Vec::new();
    for card in card::Iter::new().map_while(Result::ok) {
        if let Err(error) = add_microphones(card, &mut found) {
            debug!(card = card.get_index(), %error, "sound card passed over");
            log_messages(messages.as_ref());
        }
    }
    found
}

fn add_microphones(card: alsa::Card, found: &mut Vec<MicrophoneInfo>) -> alsa::Result<()> {
    let ctl = Ctl::from_card(&card, true)?;
    let info = ctl.card_info()?;
    let (card_id, card_name) = (info.get_id()?, info.get_name()?);
    for device in DeviceIter::new(&ctl) {
        let Ok(number) = u32::try_from(device) else {
            continue;
        };
        // ENOENT: this device only plays.
        let Ok(pcm) = ctl.pcm_info(number, 0, Direction::Capture) else {
            continue;
        };
        found.push(MicrophoneInfo {
            pcm: format!("plughw:CARD={card_id},DEV={number}"),
            card_id: card_id.to_owned(),
            name: format!("{card_name}, {}", pcm.get_name()?),
        });
    }
    Ok(())
}

/// Returns the microphone whose card has this id, or else the first whose name this is a part of, in
/// capitals or not.
pub(super) fn find<'a>(
    microphones: &'a [MicrophoneInfo],
    name: &str,
) -> Option<&'a MicrophoneInfo> {
    let name = name.to_lowercase();
    let has_id = |m: &&MicrophoneInfo| m.card_id.to_lowercase() == name;
    let has_name = |m: &&MicrophoneInfo| m.name.to_lowercase().contains(&name);
    let mut all = microphones.iter();
    all.find(has_id)
        .or_else(|| microphones.iter().find(has_name))
        .filter(|_| !name.trim().is_empty())
}

/// Returns the device node behind a PCM such as `hw:CARD=Device,DEV=0`.
pub(super) fn node(pcm: &str) -> Option<PathBuf> {
    let (card, device) = parts(pcm)?;
    // The id of a card is a link there, its number is a directory.
    let directory = fs::canonicalize(format!("/proc/asound/{card}"))
        .or_else(|_| fs::canonicalize(format!("/proc/asound/card{card}")));
    let directory = directory.ok()?;
    let number = directory.file_name()?.to_str()?.strip_prefix("card")?;
    Some(format!("/dev/snd/pcmC{number}D{device}c").into())
}

/// Returns card and device of the PCM of a card: `hw:CARD=Device,DEV=0`, `plughw:1,0`, `hw:Device`.
fn parts(pcm: &str) -> Option<(&str, u32)> {
    let (_, arguments) = pcm.split_once("hw:")?;
    let mut arguments = arguments.split(',');
    let card = arguments.next()?;
    let card = card.strip_prefix("CARD=").unwrap_or(card);
    let device = arguments.next().unwrap_or("0");
    let device = device.strip_prefix("DEV=").unwrap_or(device);
    Some((card, device.parse().ok()?)).filter(|(card, _)| !card.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn microphone(card_id: &str, name: &str) -> MicrophoneInfo {
        MicrophoneInfo {
            pcm: format!("plughw:CARD={card_id},DEV=0"),
            card_id: card_id.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_card_is_found_by_its_id_or_by_a_part_of_its_name() {
        let all = [
            microphone("C920", "HD Pro Webcam C920, USB Audio"),
            microphone("Device", "USB PnP Sound Device, USB Audio"),
            microphone("Audio", "Scarlett Solo USB, USB Audio"),
        ];
        let found = |name| find(&all, name).map(|m| m.card_id.as_str());
        assert_eq!(found("Device"), Some("Device"));
        // An id goes before a part of a name that comes first.
        assert_eq!(found("audio"), Some("Audio"));
        assert_eq!(found("USB Audio"), Some("C920"));
        assert_eq!(found("pnp sound"), Some("Device"));
        assert_eq!(found("Scarlett Solo"), Some("Audio"));
        assert_eq!(found("Snowball"), None);
        assert_eq!(found(""), None);
        assert_eq!(found(" "), None);
    }

    #[test]
    fn the_card_and_the_device_of_a_pcm_are_told_apart() {
        assert_eq!(parts("plughw:CARD=C920,DEV=1"), Some(("C920", 1)));
        assert_eq!(parts("hw:CARD=C920"), Some(("C920", 0)));
        assert_eq!(parts("hw:1,2"), Some(("1", 2)));
        assert_eq!(parts("hw:CARD=C920,DEV=1,SUBDEV=0"), Some(("C920", 1)));
        assert_eq!(parts("hw:Device"), Some(("Device", 0)));
        assert_eq!(parts("default"), None);
        assert_eq!(parts("hw:../../etc,0"), None);
        assert_eq!(parts("hw:CARD=C920,DEV=x"), None);
        assert_eq!(node("hw:CARD=no_such_card"), None);
    }
}
