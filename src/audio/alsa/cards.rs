//! The sound cards of this machine that have a microphone, and the one that a name means.

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
}
