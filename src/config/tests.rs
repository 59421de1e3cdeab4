use super::*;

#[test]
fn the_shipped_file_documents_the_defaults() {
    let shipped = include_str!("../../config/roomcam.toml");
    assert_eq!(Config::parse(shipped).unwrap(), Config::default());
}

#[test]
fn the_shipped_file_names_every_key() {
    let shipped = include_str!("../../config/roomcam.toml");
    let table: toml::Table = toml::from_str(shipped).unwrap();
    let keys: Vec<String> = table
        .iter()
        .flat_map(|(t, v)| {
            let keys = v.as_table().unwrap().keys();
            keys.map(move |k| format!("{t}.{k}")).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(keys.len(), 8 + 2 + 9 + 4 + 7 + 3 + 3, "{keys:?}");
    let turn = table["webrtc"]["turn"].as_table().unwrap();
    assert_eq!(turn.len(), 5, "{turn:?}");
    let csi = table["video"]["csi"].as_table().unwrap();
    assert_eq!(csi.len(), 4, "{csi:?}");
}

#[test]
fn rooms_are_different_and_a_bus_is_one() {
    let rooms = |dialect, rooms: &[&str]| {
        let mut config = Config::default();
        config.room.server = "ws://h".to_owned();
        config.room.dialect = dialect;
        config.room.rooms = rooms.iter().map(|&r| r.to_owned()).collect();
        config.check().is_ok()
    };
    assert!(rooms(Dialect::WsRooms, &["a", "b c"]));
    assert!(!rooms(Dialect::WsRooms, &["a", "a"]));
    assert!(!rooms(Dialect::Roomcam, &["a", "b c"]));
    assert!(rooms(Dialect::WsBroadcast, &["a"]));
    assert!(!rooms(Dialect::WsBroadcast, &["a", "b"]));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_legal_ones() {
    let error = Config::parse("[video]\nfps = 30\nbitrate = 5\n").unwrap_err();
    assert!(error.contains("line 3"), "{error}");
    assert!(error.contains("bitrate_kbps"), "{error}");
}

#[test]
fn a_mistyped_key_is_not_quoted_into_the_log() {
    for wrong in [
        "key = hunter2",
        "key = hunter2 \"",
        "keyy = \"hunter2\"",
        "key = 5",
    ] {
        let error = Config::parse(&format!("[room]\n\n{wrong}\n")).unwrap_err();
        assert!(error.contains("line 3"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for wrong in [
        "headers = { Authorization = hunter2 }",
        "headers = \"hunter2\"",
        "auth = \"hunter2\"",
        "headers.Authorization = [\"hunter2\"]",
        "[room.headers]\nAuthorization = [\"hunter2\"]",
        "[room.headers]\n\nAuthorization = 5 hunter2",
        "[room.auth]\ntoken = hunter2",
    ] {
        let error = Config::parse(&format!("[room]\n{wrong}\n")).unwrap_err();
        assert!(error.contains("not shown"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_value_out_of_range_names_the_key_and_the_range() {
    let mut config = Config::default();
    config.video.fps = 0;
    assert_eq!(
        config.check().unwrap_err().to_string(),
        "video.fps = 0 is out of range: 1 to 120"
    );
}

#[test]
fn a_relay_needs_a_url_that_is_one_and_one_way_to_log_in() {
    let check = |turn: &str| {
        let config = Config::parse(&format!("[webrtc.turn]\n{turn}")).unwrap();
        config.check().map_err(|error| error.to_string())
    };
    let url = "urls = [\"turn:turn.example\"]\n";
    assert_eq!(check(&format!("{url}secret = \"hunter2\"")), Ok(()));
    let user = "username = \"u\"\npassword = \"hunter2\"\n";
    assert_eq!(check(&format!("{url}{user}")), Ok(()));
    for (wrong, key) in [
        ("urls = [\"turn.example\"]".to_owned(), "webrtc.turn.urls"),
        (url.to_owned(), "webrtc.turn.secret"),
        (format!("{url}{user}secret = \"s\""), "webrtc.turn.secret"),
        ("lifetime_s = 1".to_owned(), "webrtc.turn.lifetime_s"),
    ] {
        let error = check(&wrong).unwrap_err();
        assert!(error.contains(key) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_stun_or_turn_server_that_cannot_be_used_is_refused() {
    let check = |server: &str| {
        let config = format!("[webrtc]\nice_servers = [{{ {server} }}]");
        let config = Config::parse(&config).unwrap();
        config.check().map_err(|error| error.to_string())
    };
    let user = "username = \"u\", credential = \"hunter2\"";
    for good in [
        "urls = [\"stun:s.example\", \"stun:s.example:19302\"]",
        &format!("urls = [\"stun:s.example\", \"turn:t.example\"], {user}"),
    ] {
        assert_eq!(check(good), Ok(()));
    }
    for (wrong, why) in [
        ("urls = [\"s.example\"]", "= s.example is"),
        ("urls = [\"stun:s.example\", \"stun:\"]", "= stun: is"),
        ("urls = [\"stun://s.example\"]", "stun:HOST"),
        ("urls = [\"stun:s.example?transport=udp\"]", "stun:HOST"),
        ("urls = [\"turn:t.example\"]", "needs a username"),
        (
            "urls = [\"turn:t.example\"], username = \"u\"",
            "needs a username",
        ),
        (
            &format!("urls = [\"turn:t.example?transport=sctp\"], {user}"),
            "(or tcp)",
        ),
        ("urls = [\"turn:u:hunter2@t.example\"]", "…@…"),
    ] {
        let error = check(wrong).unwrap_err();
        let is_clear = error.contains("webrtc.ice_servers") && error.contains(why);
        assert!(is_clear && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    let secret = Secret::new("hunter2".to_owned());
    assert_eq!(format!("{secret:?}"), "***");
    assert!(secret.matches("hunter2") && !secret.matches("hunter"));
}
