//! A real Chromium, driven through chromedriver: what a person does with the page, sees and hears.
//!
//! Needs Debian's packages `chromium` and `chromium-driver`. Every Chromium has a driver on a free
//! port and a profile of its own; all three are gone when the value is dropped.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::actions::{
    InputSource as _, KeyAction, KeyActions, MOUSE_BUTTON_LEFT, MouseActions, PointerAction,
};
use fantoccini::wd::WindowHandle;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::failures;

/// How long a page may take for anything it is expected to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(50);

/// What TESTING needs and no more: sound is unlocked by the click on Join, as for a person.
const FLAGS: [&str; 8] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// 10 pictures per second, since the machine encodes them beside all else.
const CAMERA_FLAGS: [&str; 3] = [
    "--use-fake-device-for-media-stream=fps=10",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
];

/// A page that may use a microphone sends from each address of the machine by its own socket. The guest's
/// network takes packets of the loopback alone, which come from a socket without one.
const MICROPHONE_FLAGS: [&str; 3] = [
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--webrtc-ip-handling-policy=default_public_interface_only",
];

/// What the made-up microphone hears.
pub(crate) const VOICE_HZ: f64 = 1_000.0;

/// Whether ICE candidates carry the machine's addresses, or `.local` names in their place, as
/// browsers send them to pages that may not use camera and microphone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Addresses {
    #[default]
    Shown,
    Hidden,
}

/// How a Chromium differs from the usual one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) addresses: Addresses,
    /// Width and height of the page in CSS pixels; `None` for a desktop's window.
    pub(crate) phone: Option<(u32, u32)>,
    /// Prefers a dark page.
    pub(crate) dark: bool,
    /// Pages may use a camera and a microphone, which are made up, and play sound without a click.
    pub(crate) camera: bool,
    /// Pages may use a microphone, which hears bursts of a tone of [`VOICE_HZ`].
    pub(crate) microphone: bool,
}

/// A browser with one page.
#[derive(Debug)]
pub(crate) struct Chromium {
    client: Client,
    _driver: Driver,
    /// For the case that the driver ends before it.
    browser_pid: Option<u64>,
    _profile: TempDir,
}

#[derive(Debug)]
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Dead already after `close`; otherwise a failed test's.
        if let Some(pid) = self.browser_pid {
            let mut kill = Command::new("kill");
            kill.args(["-KILL", &pid.to_string()]);
            kill.stderr(Stdio::null()).status().ok();
        }
    }
}

impl Chromium {
    pub(crate) async fn start(setup: Setup) -> Self {
        failures::tell_at_once();
        let (driver, port) = start_driver();
        let profile = TempDir::new().expect("the temporary directory is writable");
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        flags.push("--window-size=1280,800".to_owned());
        if setup.addresses == Addresses::Shown {
            flags.push("--disable-features=WebRtcHideLocalIpsWithMdns".to_owned());
        }
        if setup.dark {
            flags.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        if setup.camera {
            flags.extend(CAMERA_FLAGS.map(str::to_owned));
        }
        if setup.microphone {
            let sound = profile.path().join("voice.wav");
            std::fs::write(&sound, voice()).expect("the temporary directory is writable");
            flags.extend(MICROPHONE_FLAGS.map(str::to_owned));
            flags.push(format!(
                "--use-file-for-fake-audio-capture={}",
                sound.display()
            ));
        }
        let mut options = json!({"args": flags, "binary": chromium()});
        if let (Some((width, height)), Some(options)) = (setup.phone, options.as_object_mut()) {
            let metrics =
                json!({"width": width, "height": height, "pixelRatio": 1.0, "touch": true});
            options.insert(
                "mobileEmulation".to_owned(),
                json!({"deviceMetrics": metrics}),
            );
        }
        let mut capabilities = serde_json::Map::new();
        capabilities.insert("goog:chromeOptions".to_owned(), options);
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromedriver starts chromium");
        let browser_pid = client.capabilities().and_then(|c| {
            let pid = c.get("goog:processID")?;
            pid.as_u64()
        });
        Self {
            client,
            _driver: driver,
            browser_pid,
            _profile: profile,
        }
    }

    /// Ends the browser in good order.
    pub(crate) async fn close(mut self) {
        self.client.clone().close().await.expect("Chromium closes");
        self.browser_pid = None;
        drop(self);
    }

    /// Opens a further window, without a page, and turns to it.
    pub(crate) async fn open_window(&self) -> WindowHandle {
        let opened = self.client.new_window(false).await;
        let window = opened.expect("Chromium opens windows").handle;
        self.turn_to(&window).await;
        window
    }

    /// Makes a window the one that all else here is about.
    pub(crate) async fn turn_to(&self, window: &WindowHandle) {
        let turned = self.client.switch_to_window(window.clone()).await;
        turned.expect("the window is open");
    }

    /// Closes the window that was last turned to, and turns to another.
    pub(crate) async fn close_window(&self) {
        let closed = self.client.close_window().await;
        closed.expect("the window is open");
        let windows = self.client.windows().await.expect("Chromium lists them");
        self.turn_to(windows.first().expect("one is left")).await;
    }

    /// Opens `url` afresh, even if only its fragment is new.
    pub(crate) async fn open(&self, url: &str) {
        self.client.goto("about:blank").await.expect("a blank page");
        self.client.goto(url).await.expect("the page opens");
    }

    /// Clicks the button of this accessible name, as a person does: it must be seen and enabled.
    pub(crate) async fn click(&self, button: &str) {
        let path = format!("//button[normalize-space()='{button}']");
        let element = self.find(&path).await;
        element.click().await.expect(button);
    }

    /// Replaces what is in the textbox of this label.
    pub(crate) async fn fill(&self, label: &str, text: &str) {
        let path = format!("//input[@id=//label[normalize-space()='{label}']/@for]");
        let element = self.find(&path).await;
        element.clear().await.expect(label);
        element.send_keys(text).await.expect(label);
    }

    async fn find(&self, path: &str) -> fantoccini::elements::Element {
        let found = self.client.find(Locator::XPath(path)).await;
        found.expect(path)
    }

    /// Presses the mouse on the button of this accessible name, and does not let go.
    pub(crate) async fn hold(&self, button: &str) {
        let path = format!("//button[normalize-space()='{button}']");
        let element = self.find(&path).await;
        let mouse = MouseActions::new("mouse".to_owned())
            .then(PointerAction::MoveToElement {
                element,
                duration: None,
                x: 0.0,
                y: 0.0,
            })
            .then(PointerAction::Down {
                button: MOUSE_BUTTON_LEFT,
            });
        self.client.perform_actions(mouse).await.expect(button);
    }

    /// Holds a key down.
    pub(crate) async fn hold_key(&self, value: char) {
        let keyboard = KeyActions::new("keyboard".to_owned()).then(KeyAction::Down { value });
        let held = self.client.perform_actions(keyboard).await;
        held.expect("Chromium takes keys");
    }

    /// Lets go of everything that is held.
    pub(crate) async fn let_go(&self) {
        let let_go = self.client.release_actions().await;
        let_go.expect("Chromium takes that");
    }

    /// Returns the words of the status region.
    pub(crate) async fn status(&self) -> String {
        let words = self
            .eval("document.querySelector('[role=status]').textContent")
            .await;
        words.as_str().unwrap_or_default().to_owned()
    }

    /// Returns the value of a JavaScript expression; promises are waited for.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        self.run(&format!("return (async () => ({expression}))()"))
            .await
    }

    /// Runs a JavaScript function body.
    pub(crate) async fn run(&self, body: &str) -> Value {
        self.client.execute(body, Vec::new()).await.expect(body)
    }

    /// As [`Self::eval`], for a number.
    pub(crate) async fn number(&self, expression: &str) -> f64 {
        let value = self.eval(expression).await;
        value.as_f64().expect(expression)
    }

    /// Waits until a JavaScript expression is true.
    pub(crate) async fn wait_until(&self, expression: &str) {
        let deadline = roomcam::clock::now() + PATIENCE;
        loop {
            let value = self.eval(expression).await;
            if value == Value::Bool(true) {
                return;
            }
            assert!(
                roomcam::clock::now() < deadline,
                "not within {PATIENCE:?}: {expression} (is {value}; status: {})",
                self.status().await
            );
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Waits until the status region's words contain `words`.
    pub(crate) async fn wait_for_status(&self, words: &str) {
        let words = Value::from(words);
        self.wait_until(&format!(
            "document.querySelector('[role=status]').textContent.includes({words})"
        ))
        .await;
    }

    /// Waits until there is a button of this accessible name that can be pressed.
    pub(crate) async fn wait_for_button(&self, name: &str) {
        let name = Value::from(name);
        self.wait_until(&format!(
            "[...document.querySelectorAll('button')].some((b) => \
             b.textContent.trim() === {name} && !b.disabled && b.checkVisibility())"
        ))
        .await;
    }

    /// Opens the page, joins by the button and waits for the picture.
    pub(crate) async fn join(&self, url: &str) {
        self.open(url).await;
        self.click("Join").await;
        self.wait_for_status("Live").await;
    }

    /// Waits for `count` more decoded frames than there are now.
    pub(crate) async fn wait_for_frames(&self, count: u32) {
        let before = self.number("(await roomcam.stats()).frames").await;
        let goal = before + f64::from(count);
        self.wait_until(&format!("(await roomcam.stats()).frames >= {goal}"))
            .await;
    }

    /// Reads the clock in the next picture that is shown.
    pub(crate) async fn picture_clock(&self) -> PictureClock {
        let deadline = roomcam::clock::now() + PATIENCE;
        loop {
            let shown = self.run(READ_CLOCK).await;
            if let Some(clock) = PictureClock::read(&shown) {
                return clock;
            }
            assert!(roomcam::clock::now() < deadline, "no clock in {shown}");
        }
    }

    /// Returns how loud half a second of the sound is that is played from now on: 0 is silence,
    /// 1 a full-scale square wave.
    pub(crate) async fn loudness(&self) -> f64 {
        let (energy, played) = self.sound().await;
        let goal = played + 0.5;
        self.wait_until(&format!("(await {SOUND}).played >= {goal}"))
            .await;
        let (later, until) = self.sound().await;
        ((later - energy) / (until - played)).sqrt()
    }

    async fn sound(&self) -> (f64, f64) {
        let sound = self.eval(&format!("await {SOUND}")).await;
        let field = |name| sound.get(name).and_then(Value::as_f64);
        let both = field("energy").zip(field("played"));
        both.expect("sound is received")
    }

    /// Keeps what the page looks like as `artifacts/NAME.png` in the test directory of the build.
    pub(crate) async fn screenshot(&self, name: &str) -> PathBuf {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("artifacts");
        let file = folder.join(format!("{name}.png"));
        let picture = self.client.screenshot().await.expect("a screenshot");
        std::fs::create_dir_all(&folder).expect("the build directory is writable");
        std::fs::write(&file, picture).expect("the build directory is writable");
        file
    }
}

/// A WAV file: 300 ms of a tone and 200 ms of silence, again and again for ten seconds. Browsers take a
/// steady tone for noise, and remove it.
fn voice() -> Vec<u8> {
    const RATE: u32 = 48_000;
    let sample = |n: u32| {
        let t = f64::from(n) / f64::from(RATE);
        let is_tone = n % (RATE / 2) < RATE * 3 / 10;
        #[expect(clippy::cast_possible_truncation, reason = "at most 16000")]
        let tone = ((t * VOICE_HZ * std::f64::consts::TAU).sin() * 16_000.0) as i16;
        if is_tone { tone } else { 0 }
    };
    let samples = (0..RATE * 10).flat_map(|n| sample(n).to_le_bytes());
    let data: Vec<u8> = samples.collect();
    let len = u32::try_from(data.len()).expect("a megabyte");
    let mut file = b"RIFF".to_vec();
    file.extend((36 + len).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(RATE.to_le_bytes());
    file.extend((2 * RATE).to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(len.to_le_bytes());
    file.extend(data);
    file
}

/// Returns the first Chromium on the PATH.
fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs = std::env::split_paths(&path).map(|directory| directory.join("chromium"));
    let found = programs.find(|program| program.is_file());
    found.expect("chromium is on the PATH (Debian's package chromium)")
}

/// Starts chromedriver on a port of its choice, which it prints.
fn start_driver() -> (Driver, u16) {
    let process = Command::new("chromedriver")
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver starts (Debian's package chromium-driver)");
    let mut driver = Driver(process);
    let output = driver.0.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let port = lines.find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    (driver, port.expect("chromedriver prints its port"))
}

const SOUND: &str = "(async () => { \
    for (const s of (await roomcam.pc.getStats()).values()) \
      if (s.type === 'inbound-rtp' && s.kind === 'audio') \
        return { energy: s.totalAudioEnergy, played: s.totalSamplesDuration }; \
    return null; })()";

/// Samples the middle of each of the clock's cells, in the top 32/720 of the picture.
const READ_CLOCK: &str = "return new Promise((accept) => { \
    const video = document.querySelector('video'); \
    setTimeout(() => accept('no picture'), 3000); \
    video.requestVideoFrameCallback(() => { \
      const at = Date.now(), width = video.videoWidth, height = Math.floor(video.videoHeight * 32 / 720); \
      const canvas = new OffscreenCanvas(width, height).getContext('2d'); \
      canvas.drawImage(video, 0, 0); \
      const { data } = canvas.getImageData(0, Math.floor(height / 2), width, 1); \
      const cells = Array.from({ length: 40 }, (_, i) => data[4 * Math.floor((i + 0.5) * width / 40) + 1]); \
      accept({ at, cells }); \
    }); })";

/// The clock in one shown picture.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PictureClock {
    /// When it was captured: Unix time in units of 100 µs, modulo 2³².
    pub(crate) captured: u32,
    /// When it was shown, likewise.
    pub(crate) shown: u32,
}

impl PictureClock {
    /// Returns the time from capture to screen.
    pub(crate) fn latency(self) -> Duration {
        Duration::from_micros(100 * u64::from(self.shown.wrapping_sub(self.captured)))
    }

    fn read(shown: &Value) -> Option<Self> {
        let cells = shown.get("cells")?.as_array()?.iter();
        let bits: Vec<bool> = cells.map(|c| c.as_u64() > Some(127)).collect();
        let at = shown.get("at")?.as_u64()?;
        Some(Self {
            captured: decode(&bits)?,
            shown: u32::try_from((at * 10) & u64::from(u32::MAX)).ok()?,
        })
    }
}

/// Returns the 32 bits that the last 8 of 40 are the CRC-8 (polynomial 0x07) of.
fn decode(bits: &[bool]) -> Option<u32> {
    let number = |bits: &[bool]| bits.iter().fold(0_u64, |n, &bit| n << 1 | u64::from(bit));
    let (time, check) = bits.split_at_checked(32)?;
    let time = u32::try_from(number(time)).ok()?;
    let crc = time.to_be_bytes().into_iter().fold(0_u8, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| {
            crc << 1 ^ if crc & 0x80 == 0 { 0 } else { 0x07 }
        })
    });
    (check.len() == 8 && number(check) == u64::from(crc)).then_some(time)
}

#[cfg(test)]
mod tests {
    fn cells(time: u32, check: u8) -> Vec<bool> {
        let number = u64::from(time) << 8 | u64::from(check);
        (0..40).rev().map(|i| number >> i & 1 == 1).collect()
    }

    #[test]
    fn the_clock_is_read_only_with_its_checksum() {
        let decode = super::decode;
        // CRC-8 of "1234" is 0xc2.
        assert_eq!(decode(&cells(0x3132_3334, 0xc2)), Some(0x3132_3334));
        assert_eq!(decode(&cells(0x3132_3335, 0xc2)), None);
        assert_eq!(decode(&[]), None);
    }
}
