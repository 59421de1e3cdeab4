//! What a person asks of this machine: which cameras and microphones there are, and whether a
//! configuration would work.

use std::error::Error as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::config::Room;
use crate::signaling::server_url::{parse_server_url, server_name};
use crate::signaling::websocket::Authorities;
use crate::{audio, cli, video};

/// Prints the cameras and microphones of this machine.
///
/// # Errors
///
/// Where standard output is closed.
pub fn devices(as_json: bool) -> io::Result<()> {
    let cameras = video::cameras();
    let microphones = audio::microphones();
    let mut out = io::stdout().lock();
    if as_json {
        let report = json!({"cameras": cameras, "microphones": microphones});
        return writeln!(out, "{report:#}");
    }
    writeln!(out, "Cameras ([video] source):")?;
    for camera in &cameras {
        writeln!(out, "  {}  {}", camera.path.display(), camera.card)?;
        for format in &camera.formats {
            let note = if format.usable { "" } else { "  (not usable)" };
            writeln!(out, "      {format}{note}")?;
        }
    }
    if cameras.is_empty() {
        writeln!(out, "  none found; `--video pattern` shows a test picture")?;
    }
    writeln!(out, "Microphones ([audio] source):")?;
    for microphone in &microphones {
        writeln!(out, "  {}  {}", microphone.pcm, microphone.name)?;
    }
    if microphones.is_empty() {
        writeln!(out, "  none found; `--audio tone` plays a tone")?;
    }
    Ok(())
}

/// Checks a configuration, its camera and its microphone; prints what is well and what is not.
///
/// # Errors
///
/// Where the configuration cannot be used, or standard output is closed.
pub fn check(path: Option<&PathBuf>) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = cli::load(path)?;
    let mut out = io::stdout().lock();
    writeln!(out, "ok    configuration")?;
    let mut good = true;
    let mut line = |what: &str, found: Result<String, String>| {
        good &= found.is_ok();
        match found {
            Ok(description) => writeln!(out, "ok    {what}: {description}"),
            Err(reason) => writeln!(out, "fault {what}: {reason}"),
        }
    };
    if !config.room.server.is_empty() {
        line("room server", room_server(&config.room))?;
    }
    if config.video.source != "none" {
        let opened = video::open(&config.video);
        let found = opened.map(|source| source.description());
        line("camera", found.map_err(|e| e.to_string()))?;
    }
    if config.audio.source != "none" {
        let opened = audio::open(&config.audio);
        let found = opened.map(|source| source.description());
        line("microphone", found.map_err(|e| e.to_string()))?;
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads what is configured of a room server elsewhere; does not connect.
fn room_server(room: &Room) -> Result<String, String> {
    let server = parse_server_url(&room.server, room.dialect).map_err(|e| e.to_string())?;
    Authorities::load(&room.ca_file).map_err(|error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })?;
    Ok(format!("{}{}", server_name(&server), server.path()))
}
