//! What cannot work is refused at once, in one line that names it and the remedy.

use std::net::{TcpListener, UdpSocket};
use std::process::{Output, Stdio};

use tempfile::TempDir;

use crate::support::program;

/// `EX_CONFIG`: systemd does not start the daemon again, for it would end the same way.
const WRONG_CONFIGURATION: i32 = 78;

/// Runs the program with a configuration; it is expected to end by itself.
fn refused(arguments: &[&str], configuration: &str) -> String {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("roomcam.toml");
    std::fs::write(&file, configuration).unwrap();
    let output: Output = program::roomcam()
        .args(arguments)
        .arg("--config")
        .arg(&file)
        .env("STATE_DIRECTORY", directory.path())
        .env("ROOMCAM_LOG", "off")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let is_config_at_fault = output.status.code() == Some(WRONG_CONFIGURATION);
    assert!(
        is_config_at_fault || output.status.code() == Some(1),
        "{output:?}"
    );
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors
}

fn assert_names(refusal: &str, words: &[&str]) {
    for word in words {
        assert!(refusal.contains(word), "{word} in: {refusal}");
    }
}

#[test]
fn an_unknown_key_of_the_configuration() {
    let refusal = refused(&["run"], "[video]\nfpss = 30\n");
    assert_names(
        &refusal,
        &["roomcam.toml", "line 2", "`fpss`", "`bitrate_kbps`"],
    );
}

#[test]
fn a_wrong_configuration_has_an_exit_code_of_its_own() {
    let directory = TempDir::new().unwrap();
    let status = |configuration: &str| {
        let file = directory.path().join("roomcam.toml");
        std::fs::write(&file, configuration).unwrap();
        let mut run = program::roomcam();
        run.args(["run", "--video", "pattern", "--audio", "tone", "--config"]);
        run.arg(file).env("STATE_DIRECTORY", directory.path());
        run.stdout(Stdio::null()).stderr(Stdio::null());
        run.status().unwrap().code()
    };
    for wrong in [
        "[video]\nfps = 1000\n",
        "[room]\nserver = \"ftp://rooms.example.org\"\n",
        "[server]\nallowed_origins = [\"nonsense\"]\n",
        "[server]\nlisten = \"0.0.0.0:0\"\ntutorial_dialects = [\"ws-rooms\"]\n",
    ] {
        assert_eq!(status(wrong), Some(WRONG_CONFIGURATION), "{wrong}");
    }
    // A port may come free.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("[server]\nlisten = \"{}\"\n", taken.local_addr().unwrap());
    assert_eq!(status(&listen), Some(1));

    let mut run = program::roomcam();
    run.args(["run", "--config", "/nonexistent"]);
    let ended = run.stderr(Stdio::null()).status().unwrap();
    assert_eq!(ended.code(), Some(WRONG_CONFIGURATION));
}

#[test]
fn a_value_out_of_range() {
    let refusal = refused(&["run"], "[video]\nfps = 1000\n");
    assert_names(&refusal, &["video.fps = 1000", "1 to 120"]);
}

#[test]
fn a_mistyped_key_is_not_quoted() {
    let refusal = refused(&["run"], "[room]\nkey = hunter2\n");
    assert_names(&refusal, &["line 2"]);
    assert!(!refusal.contains("hunter2"), "{refusal}");
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refusal = refused(&["demo", "--listen", &address], "");
    assert_names(&refusal, &[&address, "--listen"]);
}

#[test]
fn a_media_port_in_use() {
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let configuration = format!("[webrtc]\nudp_port = {port}\n");
    let refusal = refused(&["demo", "--listen", "127.0.0.1:0"], &configuration);
    assert_names(&refusal, &[&port.to_string(), "webrtc.udp_port"]);
}

#[test]
fn a_room_server_that_is_no_url() {
    let refusal = refused(&["run", "--server", "ftp://pi"], "");
    assert_names(&refusal, &["ftp://pi", "ws://HOST:PORT"]);
}

#[test]
fn a_ca_file_that_is_not_there() {
    let configuration = "[room]\nserver = \"wss://rooms.example\"\nca_file = \"/nowhere/ca.pem\"\n";
    let refusal = refused(&["run"], configuration);
    assert_names(&refusal, &["/nowhere/ca.pem", "room.ca_file", "PEM"]);
}

#[test]
fn a_header_that_is_the_handshakes_own() {
    let refusal = refused(&["run"], "[room]\nheaders = { Host = \"hunter2\" }\n");
    assert_names(&refusal, &["room.headers: Host", "leave it out"]);
    assert!(!refusal.contains("hunter2"), "{refusal}");
}

#[test]
fn a_short_room_name_where_it_is_the_secret_of_tutorial_pages() {
    let dialects = "[server]\nlisten = \"0.0.0.0:0\"\ntutorial_dialects = [\"socketio-rooms\"]\n";
    let refusal = refused(&["run"], dialects);
    assert_names(&refusal, &["room.name", "16 characters", "127.0.0.1"]);
    let refusal = refused(
        &["serve"],
        &dialects.replace("socketio-rooms", "ws-broadcast"),
    );
    assert_names(
        &refusal,
        &["ws-broadcast", "server.tutorial_dialects", "127.0.0.1"],
    );
}

#[test]
fn a_dialect_that_no_tutorial_has() {
    let refusal = refused(&["run"], "[server]\ntutorial_dialects = [\"ayame\"]\n");
    assert_names(&refusal, &["line 2", "ayame", "ws-rooms", "socketio-calls"]);
}
