//! The sound cards of this machine, with what they record from and play to; and the one that a name means.

use alsa::Direction;
use alsa::card;
use alsa::ctl::{Ctl, DeviceIter};
use tracing::debug;

use super::messages::Messages;
use crate::audio::CardPcm;

/// Returns what the cards record from, in their order.
pub(crate) fn recorders() -> Vec<CardPcm> {
    pcms(Direction::Capture)
}

/// Returns what the cards play to, in their order.
pub(crate) fn players() -> Vec<CardPcm> {
    pcms(Direction::Playback)
}

/// Returns what the cards record from, or play to, in their order.
pub(super) fn pcms(direction: Direction) -> Vec<CardPcm> {
    let messages = Messages::divert();
    let mut found = Vec::new();
    for card in card::Iter::new().map_while(Result::ok) {
        if let Err(error) = add_pcms(card, direction, &mut found) {
            debug!(card = card.get_index(), %error, "sound card passed over");
            messages.log();
        }
    }
    found
}

fn add_pcms(card: alsa::Card, direction: Direction, found: &mut Vec<CardPcm>) -> alsa::Result<()> {
    let ctl = Ctl::from_card(&card, true)?;
    let info = ctl.card_info()?;
    let (card_id, card_name) = (info.get_id()?, info.get_name()?);
    for device in DeviceIter::new(&ctl) {
        let Ok(device) = u32::try_from(device) else {
            continue;
        };
        // ENOENT: this device only works in the other direction.
        let Ok(pcm) = ctl.pcm_info(device, 0, direction) else {
            continue;
        };
        found.push(CardPcm {
            pcm: format!("plughw:CARD={card_id},DEV={device}"),
            card_id: card_id.to_owned(),
            name: format!("{card_name}, {}", pcm.get_name()?),
            card: card.get_index(),
            device,
        });
    }
    Ok(())
}

/// Returns the PCM whose card has this id, or else the first whose name this is a part of, in capitals
/// or not.
pub(super) fn find<'a>(pcms: &'a [CardPcm], name: &str) -> Option<&'a CardPcm> {
    let name = name.to_lowercase();
    let has_id = |pcm: &&CardPcm| pcm.card_id.to_lowercase() == name;
    let has_name = |pcm: &&CardPcm| pcm.name.to_lowercase().contains(&name);
    pcms.iter()
        .find(has_id)
        .or_else(|| pcms.iter().find(has_name))
        .filter(|_| !name.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn microphone(card_id: &str, name: &str) -> CardPcm {
        CardPcm {
            pcm: format!("plughw:CARD={card_id},DEV=0"),
            card_id: card_id.to_owned(),
            name: name.to_owned(),
            card: 0,
            device: 0,
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
