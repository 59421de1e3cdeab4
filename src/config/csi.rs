//! `[video.csi]`: the camera behind libcamera, read by a program.

use serde::Deserialize;

/// `[video.csi]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Csi {
    /// Its number in `rpicam-hello --list-cameras`.
    pub camera: u32,
    /// What the camera program delivers.
    pub mode: CsiMode,
    /// Further options of that program, each word a string of its own.
    pub options: Vec<String>,
    /// The program; empty: `rpicam-vid`, or `libcamera-vid` where that is missing.
    pub program: String,
}

/// What the camera program delivers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum CsiMode {
    /// Pictures, which are encoded here: keyframes and bitrate as viewers need them.
    #[default]
    Raw,
    /// H.264 of its own: less CPU, a keyframe once a second and a fixed bitrate.
    H264,
}

/// Options of the camera program that are ours to set: what comes out would not be what is read.
const OWN_OPTIONS: [&str; 26] = [
    "-o",
    "--output",
    "-t",
    "--timeout",
    "-n",
    "--nopreview",
    "--codec",
    "--width",
    "--height",
    "--framerate",
    "--camera",
    "--flush",
    "--inline",
    "--segment",
    "--split",
    "--circular",
    "--frames",
    "--list-cameras",
    "--low-latency",
    "--libav-format",
    "--listen",
    "-h",
    "--help",
    "--version",
    "-c",
    "--config",
];

/// Most options of the configuration; each is one argument of the program.
const MOST_OPTIONS: usize = 64;

impl Csi {
    /// Returns whether the options leave those alone that this program sets.
    pub(super) fn has_good_options(&self) -> bool {
        let name = |word: &str| word.split('=').next().unwrap_or_default().to_owned();
        let is_ours = |word: &String| OWN_OPTIONS.contains(&name(word).as_str());
        self.options.len() <= MOST_OPTIONS && !self.options.iter().any(is_ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_change_what_comes_through_the_pipe_are_refused() {
        let good = |options: &[&str]| {
            let options = options.iter().map(|&option| option.to_owned()).collect();
            Csi {
                options,
                ..Csi::default()
            }
            .has_good_options()
        };
        assert!(good(&[]));
        assert!(good(&["--hflip", "--awb", "indoor", "--roi=0,0,1,1"]));
        for option in [
            "-o",
            "--output=x",
            "--width",
            "--codec=mjpeg",
            "--list-cameras",
        ] {
            assert!(!good(&["--hflip", option]), "{option}");
        }
        assert!(!good(&["--hflip"; 65]));
    }
}
