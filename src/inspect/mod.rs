//! What a person asks of this machine: what there is to see and hear with, and whether it works.
//!
//! | file         | what                                                              |
//! |--------------|-------------------------------------------------------------------|
//! | `listing.rs` | `roomcam devices`: what it prints                                 |
//! | `doctor/`    | `roomcam doctor`: what is well, what is not, and what mends it    |
//! | `columns.rs` | text in two columns                                               |
//!
//! The shapes that programs read are in `docs/tools.md`.

use std::io::{self, Write as _};

use crate::video::inventory;
use crate::{audio, config, talkback};

mod columns;
mod doctor;
mod listing;

pub use doctor::doctor;
use listing::{Automatic, Choice, Listing};

/// Prints the cameras, encoders, microphones and speakers of this machine.
///
/// # Errors
///
/// Where standard output is closed.
pub fn devices(as_json: bool) -> io::Result<()> {
    let listing = listing();
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&listing)?)
    } else {
        write!(out, "{}", listing.for_people())
    }
}

fn listing() -> Listing {
    let microphones = audio::recorders();
    Listing {
        video: inventory::inventory(),
        automatic: Automatic {
            camera: automatic_camera(),
            encoder: automatic_encoder(),
            microphone: first(
                audio::microphones().into_iter().map(|found| found.pcm),
                "no microphone was found",
            ),
            speaker: first(
                talkback::speakers().into_iter().map(|found| found.pcm),
                "no loudspeaker was found",
            ),
        },
        microphones,
        speakers: audio::players(),
    }
}

fn automatic_camera() -> Choice {
    match inventory::chosen(&config::Video::default()) {
        Ok((source, because)) => Choice {
            source: Some(source),
            because,
        },
        Err(error) => Choice {
            source: None,
            because: error.to_string(),
        },
    }
}

fn automatic_encoder() -> Choice {
    let (source, because) = inventory::chosen_encoder();
    Choice {
        source: Some(source),
        because: because.to_owned(),
    }
}

/// The first of them: `none` says that there is nothing.
fn first(pcms: impl ExactSizeIterator<Item = String>, none: &str) -> Choice {
    let because = match pcms.len() {
        0 => none,
        1 => "it is the only one",
        _ => "it is the first",
    };
    let mut pcms = pcms;
    Choice {
        source: pcms.next(),
        because: because.to_owned(),
    }
}
