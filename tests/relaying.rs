//! Device and viewer in networks of their own, and a real TURN server (coturn) between them: media
//! goes through the relay, and where there is none, both sides are told what is missing.

use std::process::Output;

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

use crate::doctoring::finding;
use crate::support::islands::{Islands, MIDDLE, Place, SECRET};

/// The `[webrtc.turn]` of a device.
fn turn(urls: &[&str], secret: &str) -> String {
    format!("[webrtc.turn]\nurls = {urls:?}\nsecret = \"{secret}\"\n")
}

/// The report of a watch that came to its frames.
fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn error(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
#[ignore = "needs root: scripts/test"]
fn a_viewer_in_another_network_watches_through_a_relay_over_udp_or_tcp() {
    let (islands, _server) = Islands::new();
    let coturn = islands.coturn(&[]);
    for transport in ["udp", "tcp"] {
        let url = format!("turn:{}:3478?transport={transport}", MIDDLE.0);
        let mut device = islands.device(&turn(&[&url], SECRET));
        let report = report(&islands.watch(Place::Viewer, &["--frames", "60"]));
        assert_eq!(report["incomplete_frames"], 0);
        assert!(report["audio_packets"].as_u64() > Some(0));
        let lends = format!("TURN server lends us an address server=\"{url}\"");
        device.has_said(&lends, 1);
        assert!(!device.said().contains(SECRET));
        device.kill();
    }
    assert!(coturn.said().contains(":device>"), "{}", coturn.said());
}

#[test]
#[ignore = "needs root: scripts/test"]
fn where_only_tls_works_the_relay_is_reached_over_tls() {
    let (islands, _server) = Islands::new();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![MIDDLE.0.to_owned()]).unwrap();
    let certificate = islands.file("turn.pem", &params.self_signed(&key).unwrap().pem());
    let key = islands.file("turn.key", &key.serialize_pem());
    let (cert, pkey) = (format!("--cert={certificate}"), format!("--pkey={key}"));
    let _coturn = islands.coturn(&["--tls-listening-port=5349", &cert, &pkey]);
    // Nobody listens at 3479.
    let urls = [
        format!("turns:{}", MIDDLE.0),
        format!("turn:{}:3479?transport=tcp", MIDDLE.0),
        format!("turn:{}:3479", MIDDLE.0),
    ];
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let config = format!("ca_file = \"{certificate}\"\n{}", turn(&urls, SECRET));
    let device = islands.device(&config);
    report(&islands.watch(Place::Viewer, &["--frames", "30"]));
    device.has_said("lends us an address server=\"turns:10.77.1.1:5349", 1);
    assert_eq!(device.count("lends us no address"), 2, "{}", device.said());
}

#[test]
#[ignore = "needs root: scripts/test"]
fn minted_credentials_are_renewed_while_somebody_watches() {
    let (islands, _server) = Islands::new();
    let coturn = islands.coturn(&[]);
    let url = format!("turn:{}", MIDDLE.0);
    let config = format!("{}lifetime_s = 10\n", turn(&[&url], SECRET));
    let device = islands.device(&config);
    let watched = report(&islands.watch(Place::Viewer, &["--seconds", "25"]));
    assert!(watched["frames"].as_u64() > Some(550), "{watched}");
    assert_eq!(watched["incomplete_frames"], 0);
    let said = coturn.said();
    let mut users: Vec<&str> = said
        .split("user <")
        .filter_map(|rest| rest.split(":device>").next().filter(|user| user.len() < 20))
        .collect();
    users.sort_unstable();
    users.dedup();
    assert!(users.len() >= 4, "{users:?}");
    // The first ones are worth nothing any more.
    report(&islands.watch(Place::Viewer, &["--frames", "30"]));
    assert_eq!(device.count("lends us no address"), 0);
}

#[test]
#[ignore = "needs root: scripts/test"]
fn a_wrong_secret_is_told_to_the_log_and_to_the_viewer_and_never_shown() {
    let (islands, _server) = Islands::new();
    let _coturn = islands.coturn(&[]);
    let url = format!("turn:{}", MIDDLE.0);
    let device = islands.device(&turn(&[&url], "a-mistyped-secret"));
    let error = error(&islands.watch(Place::Viewer, &[]));
    assert!(error.contains("refused the credentials (401)"), "{error}");
    assert!(error.contains("check webrtc.turn.secret"), "{error}");
    device.has_said("lends us no address", 1);
    device.has_said("viewer could not connect", 1);
    assert_eq!(device.count("lends us no address"), 1, "once is enough");
    assert!(!device.said().contains("mistyped") && !error.contains("mistyped"));
    // Who needs no relay is not disturbed.
    report(&islands.watch(Place::Device, &["--frames", "30"]));
}

#[test]
#[ignore = "needs root: scripts/test"]
fn without_a_relay_both_sides_are_told_what_each_offered_and_what_to_set() {
    let (islands, _server) = Islands::new();
    let device = islands.device("");
    let error = error(&islands.watch(Place::Viewer, &[]));
    let why = "no check of the viewer arrived; ours are host 10.77.1.x, the viewer's host 10.77.2.x: \
               different networks? set webrtc.turn (docs/network.md)";
    assert!(error.contains(why), "{error}");
    device.has_said(why, 1);
    let told =
        "ours=\"host 10.77.1.x (eth0)\" theirs=\"host 10.77.2.x\" pairs=1 asked=0 answered=0";
    device.has_said(told, 1);
}

#[test]
#[ignore = "needs root: scripts/test"]
fn the_doctor_borrows_an_address_asks_for_ours_and_says_what_is_wrong() {
    let (islands, _server) = Islands::new();
    let coturn = islands.coturn(&[]);
    let stun = format!(
        "[webrtc]\nice_servers = [{{ urls = [\"stun:{}\"] }}]\n",
        MIDDLE.0
    );
    let ask = |secret| {
        let url = format!("turn:{}", MIDDLE.0);
        let output = islands.doctor(&format!("{stun}{}", turn(&[&url], secret)));
        assert!(!String::from_utf8_lossy(&output.stdout).contains(secret));
        report(&output)
    };
    let well = ask(SECRET);
    let [level, text, _] = finding(&well, "turn");
    assert!(level == "ok" && text.contains("lends us 10.77."), "{text}");
    let [level, text, _] = finding(&well, "stun");
    assert!(
        level == "ok" && text.contains("sees us at 10.77.1.2"),
        "{text}"
    );
    assert_eq!(finding(&well, "room server")[0], "ok", "{well}");
    let wrong = ask("a-mistyped-secret");
    let [level, text, remedy] = finding(&wrong, "turn");
    assert!(
        level == "warning" && text.contains("refused the credentials"),
        "{text}"
    );
    assert!(remedy.contains("webrtc.turn.secret"), "{remedy}");
    drop(coturn);
    assert_eq!(finding(&ask(SECRET), "stun")[0], "warning");
}

#[test]
#[ignore = "needs root: scripts/test"]
fn a_relay_that_dies_disturbs_nobody_else_and_serves_again_when_it_is_back() {
    let (islands, _server) = Islands::new();
    let mut coturn = islands.coturn(&[]);
    let url = format!("turn:{}", MIDDLE.0);
    let device = islands.device(&turn(&[&url], SECRET));
    let neighbour = islands.start_watching(Place::Device, &["--seconds", "12"]);
    report(&islands.watch(Place::Viewer, &["--frames", "30"]));
    coturn.kill();
    device.has_said("TURN server lends us no address", 1);
    drop(coturn);
    let _coturn = islands.coturn(&[]);
    device.has_said("TURN server lends us an address", 2);
    report(&islands.watch(Place::Viewer, &["--frames", "30"]));
    let undisturbed = report(&neighbour.wait_with_output().unwrap());
    assert_eq!(undisturbed["incomplete_frames"], 0);
}
