//! Microphones of a made-up sound card (`microphone.c`), which libasound plays with no sound card there.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A configuration of libasound with microphones, which all share one fate.
#[derive(Debug)]
pub(crate) struct Microphones {
    directory: TempDir,
}

/// What a microphone offers, and nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// The name of the PCM.
    pub(crate) pcm: &'static str,
    /// As libasound writes it: `S32_LE`.
    pub(crate) format: &'static str,
    pub(crate) rate_hz: u32,
    pub(crate) channels: u32,
}

impl Microphones {
    /// Makes these, and for each one a `plug_…` that converts.
    pub(crate) fn new(offers: &[Offer]) -> Self {
        Self::with(offers, "")
    }

    /// As [`Self::new`], with further keys of `microphone.c` for each.
    pub(crate) fn with(offers: &[Offer], keys: &str) -> Self {
        let directory = TempDir::new().expect("the temporary directory is writable");
        let plugin = directory.path().join("microphone.so");
        compile(&plugin);
        let mut text = format!("pcm_type.roomcam_test {{ lib \"{}\" }}\n", plugin.display());
        let faults = directory.path().join("faults");
        for offer in offers {
            let Offer {
                pcm,
                format,
                rate_hz,
                channels,
            } = offer;
            let written = writeln!(
                text,
                "pcm.{pcm} {{ type roomcam_test format \"{format}\" rate {rate_hz} \
                 channels {channels} faults \"{}\" {keys} }}\n\
                 pcm.plug_{pcm} {{ type plug slave.pcm \"{pcm}\" }}",
                faults.display()
            );
            written.expect("a string takes all");
        }
        let microphones = Self { directory };
        let written = fs::write(microphones.configuration(), text);
        written.expect("the temporary directory is writable");
        microphones
    }

    /// The file that `ALSA_CONFIG_PATH` is to name.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.path().join("asound.conf")
    }

    /// Takes the sound card away.
    pub(crate) fn unplug(&self) {
        self.fault("unplugged");
    }

    /// Brings it back.
    pub(crate) fn plug_in(&self) {
        fs::remove_file(self.faults()).expect("it was unplugged");
    }

    /// Has sound be lost once, and waits until it was.
    pub(crate) fn overrun(&self) {
        self.fault("overrun");
        let deadline = roomcam::clock::now() + std::time::Duration::from_secs(10);
        while self.faults().exists() {
            assert!(roomcam::clock::now() < deadline, "nobody reads");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn fault(&self, name: &str) {
        // Whole at once, as it is read at any time.
        let written = self.directory.path().join("fault");
        let done = fs::write(&written, name).and_then(|()| fs::rename(&written, self.faults()));
        done.expect("the temporary directory is writable");
    }

    fn faults(&self) -> PathBuf {
        self.directory.path().join("faults")
    }
}

/// Compiles the plugin. Whoever builds roomcam has a C compiler and libasound's headers.
fn compile(plugin: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/microphone.c");
    let output = Command::new("cc")
        .args([
            "-shared", "-fPIC", "-DPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
        ])
        .args([plugin, source.as_path()])
        .args(["-lasound", "-lm"])
        .output()
        .expect("there is a C compiler");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}
