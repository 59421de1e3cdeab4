//! The sound cards with all they offer, for people.
//!
//! Each PCM is opened for a moment, without conversion (`hw:`), and not started. What is in use cannot
//! be opened; `/proc/asound` says by whom.

use std::fs;
use std::path::PathBuf;

use alsa::Direction;
use alsa::pcm::{Format, HwParams, PCM};

use super::messages::Messages;
use super::{cards, explain};
use crate::audio::{AudioError, CardPcm, Pcm};
use crate::video::holder;

/// Formats that are asked for, by the names of ALSA's own tools.
const FORMATS: [(Format, &str); 9] = [
    (Format::S16LE, "S16_LE"),
    (Format::S24LE, "S24_LE"),
    (Format::S243LE, "S24_3LE"),
    (Format::S32LE, "S32_LE"),
    (Format::FloatLE, "FLOAT_LE"),
    (Format::U8, "U8"),
    (Format::S8, "S8"),
    (Format::U16LE, "U16_LE"),
    (Format::S16BE, "S16_BE"),
];

/// Rates that are asked for, in Hz.
const RATES_HZ: [u32; 10] = [
    8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000,
];

/// Subdevices that are asked who has them; `snd-aloop` has eight.
const MAX_SUBDEVICES: u32 = 32;

/// Returns what the cards record from, in their order.
pub(in crate::audio) fn recorders() -> Vec<Pcm> {
    pcms(Direction::Capture)
}

/// Returns what the cards play to, in their order.
pub(in crate::audio) fn players() -> Vec<Pcm> {
    pcms(Direction::Playback)
}

fn pcms(direction: Direction) -> Vec<Pcm> {
    let found = cards::pcms(direction);
    // What cannot be opened is told of where it is listed.
    let _messages = Messages::divert();
    found
        .into_iter()
        .map(|pcm| describe(pcm, direction))
        .collect()
}

/// Adds what it offers, or why that cannot be known.
fn describe(found: CardPcm, direction: Direction) -> Pcm {
    let hardware = found.pcm.trim_start_matches("plug");
    let opened = PCM::new(hardware, direction, true);
    let offered = opened
        .as_ref()
        .map_err(|&error| error)
        .and_then(|pcm| offers(pcm));
    let problem = offered
        .as_ref()
        .err()
        .map(|&error| match explain(hardware, error) {
            AudioError::Busy { .. } => "is in use".to_owned(),
            AudioError::Denied { .. } => "may not be opened by this user".to_owned(),
            _ => format!("cannot be opened: {error}"),
        });
    let (formats, channels, rates_hz) = offered.unwrap_or_default();
    Pcm {
        held_by: held_by(found.card, found.device, direction),
        pcm: found.pcm,
        card_id: found.card_id,
        name: found.name,
        formats,
        channels,
        rates_hz,
        problem,
    }
}

type Offers = (Vec<&'static str>, Vec<u32>, Vec<u32>);

fn offers(pcm: &PCM) -> alsa::Result<Offers> {
    let hw = HwParams::any(pcm)?;
    let formats = FORMATS
        .iter()
        .filter(|(format, _)| hw.test_format(*format).is_ok());
    let least = hw.get_channels_min()?;
    let most = hw.get_channels_max()?.min(least.saturating_add(31));
    let channels = (least..=most).filter(|&count| hw.test_channels(count).is_ok());
    let rates = RATES_HZ
        .iter()
        .copied()
        .filter(|&rate| hw.test_rate(rate).is_ok());
    Ok((
        formats.map(|(_, name)| *name).collect(),
        channels.collect(),
        rates.collect(),
    ))
}

/// Returns the process that has a PCM open. Unlike the files that others have open, this is for all to
/// read.
fn held_by(card: i32, device: u32, direction: Direction) -> Option<String> {
    let letter = match direction {
        Direction::Capture => 'c',
        Direction::Playback => 'p',
    };
    let directory = PathBuf::from(format!("/proc/asound/card{card}/pcm{device}{letter}"));
    (0..MAX_SUBDEVICES)
        .map_while(|sub| fs::read_to_string(directory.join(format!("sub{sub}/status"))).ok())
        .find_map(|status| owner(&status))
        .map(holder::named)
}

/// Reads `owner_pid   : 412`; a closed one says `closed`.
fn owner(status: &str) -> Option<u32> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, id) = lines.find(|(name, _)| name.trim() == "owner_pid")?;
    id.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_pcm_is_read() {
        let status = "state: RUNNING\nowner_pid   : 412\ntrigger_time: 1.2\n";
        assert_eq!(owner(status), Some(412));
        assert_eq!(owner("closed\n"), None);
        assert_eq!(owner("owner_pid   : \n"), None);
        assert_eq!(held_by(99, 0, Direction::Capture), None);
    }

    #[test]
    fn listing_never_fails() {
        for direction in [Direction::Capture, Direction::Playback] {
            for pcm in pcms(direction) {
                assert!(serde_json::to_string(&pcm).is_ok());
            }
        }
    }
}
