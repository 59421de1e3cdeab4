//! Players of others watch by WHEP: statuses and header fields of `docs/whep.md` over real HTTP, and
//! players that nobody here wrote.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use roomcam::config::Secret;
use roomcam::server::pairing::private::Tutorials;
use roomcam::server::{Server, ServerOptions};
use roomcam::signaling::IceServer;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::demo::Demo;
use crate::support::device::Device;
use crate::support::http::{Answer, request};

const KEY: &str = "Authorization: Bearer see";
const SDP: &str = "Content-Type: application/sdp";
const SDPFRAG: &str = "Content-Type: application/trickle-ice-sdpfrag";
const ANY: &str = "If-Match: *";

const POLL_EVERY: Duration = Duration::from_millis(50);

/// For what happens at once, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// From the offer to the end of a session that nobody connects: the device's 20 s, on a busy machine.
const UNCONNECTED_ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What a player offers; nobody is behind it.
const OFFER: &str = "v=0\r\no=- 46117 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
    a=ice-options:trickle\r\n\
    a=fingerprint:sha-256 8B:1D:E2:FD:98:DC:C2:52:EC:76:E6:A1:52:26:3D:D7:F1:E5:B5:40:68:85:F1:F0:08:82:61:28:C4:CE:6F:11\r\n\
    a=setup:actpass\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\n\
    a=ice-ufrag:old1\r\na=ice-pwd:0123456789012345678901\r\na=rtpmap:111 opus/48000/2\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 102\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=recvonly\r\na=rtcp-mux\r\n\
    a=ice-ufrag:old1\r\na=ice-pwd:0123456789012345678901\r\na=rtpmap:102 H264/90000\r\n\
    a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n";

/// A candidate of that player.
const CANDIDATE: &str = "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
    a=ice-ufrag:old1\r\na=ice-pwd:0123456789012345678901\r\n\
    a=candidate:1 1 udp 2122260223 127.0.0.1 9 typ host\r\na=end-of-candidates\r\n";

/// A room server of ours, and a device in the room `cam`.
struct Stage {
    address: SocketAddr,
    device: Device,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Stage {
    async fn start() -> Self {
        Self::with(vec!["https://player.example".to_owned()]).await
    }

    async fn with(allowed_origins: Vec<String>) -> Self {
        let ice_server = |url: &str| IceServer {
            urls: vec![url.to_owned()],
            ..IceServer::default()
        };
        let turn = IceServer {
            username: Some("somebody".to_owned()),
            credential: Some("hunter2".to_owned()),
            ..ice_server("turn:127.0.0.1:9?transport=udp")
        };
        let server = Server::bind(ServerOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            viewer_key: Secret::new("see".to_owned()),
            device_key: Secret::new("be seen".to_owned()),
            allowed_origins,
            ice_servers: vec![turn].into(),
            tutorials: Tutorials::default(),
        });
        let server = server.await.unwrap();
        let address = server.local_addr();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(server.run(stopped));
        let url = format!("ws://{address}/ws");
        let device = Device::start(&["--server", &url, "--room", "cam", "--key", "be seen"]);
        device.has_logged("joined the room").await;
        Self {
            address,
            device,
            stop,
            server,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/whep/cam", self.address)
    }

    async fn request(&self, what: &str, fields: &[&str], content: &str) -> Answer {
        request(self.address, what, fields, content).await
    }

    async fn post(&self) -> Answer {
        let created = self.request("POST /whep/cam", &[KEY, SDP], OFFER).await;
        assert_eq!(created.status, 201, "{created:?}");
        created
    }

    async fn patch(&self, session: &str, condition: &str, fragment: &str) -> Answer {
        let what = format!("PATCH {session}");
        self.request(&what, &[SDPFRAG, condition], fragment).await
    }

    /// Waits until a session is no more.
    async fn is_over(&self, session: &str, within: Duration) {
        let deadline = roomcam::clock::now() + within;
        let what = format!("GET {session}");
        while self.request(&what, &[], "").await.status != 404 {
            assert!(roomcam::clock::now() < deadline, "{session} is still there");
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.server.await.unwrap();
    }
}

/// A device that never answers.
struct SilentDevice(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl SilentDevice {
    async fn join(address: SocketAddr, room: &str) -> Self {
        let (socket, _) = connect_async(format!("ws://{address}/ws")).await.unwrap();
        let mut device = Self(socket);
        let join = json!({"type": "join", "protocol": 1, "role": "device", "room": room,
            "key": "be seen", "instance": "i"});
        let join = Message::text(join.to_string());
        device.0.send(join).await.unwrap();
        device.hears("joined").await;
        device
    }

    async fn hears(&mut self, what: &str) {
        let what = format!("{{\"type\":\"{what}\"");
        let heard = tokio::time::timeout(UNCONNECTED_ENDS_WITHIN, async {
            while let Some(Ok(message)) = self.0.next().await {
                if message.to_text().is_ok_and(|text| text.starts_with(&what)) {
                    return;
                }
            }
            panic!("closed");
        });
        heard.await.expect(&what);
    }

    async fn sees_somebody_come_and_go(&mut self) {
        self.hears("viewer-joined").await;
        self.hears("viewer-left").await;
    }
}

/// Returns the value of the first line of a description that begins with `start`.
fn line<'t>(text: &'t str, start: &str) -> &'t str {
    let found = text.lines().find_map(|line| line.strip_prefix(start));
    found.unwrap_or_else(|| panic!("no {start} in {text}"))
}

#[tokio::test]
async fn a_session_is_made_changed_and_ended() {
    let stage = Stage::start().await;
    let created = stage.post().await;
    assert_eq!(created.field("content-type"), "application/sdp");
    assert_eq!(
        created.field("accept-patch"),
        "application/trickle-ice-sdpfrag"
    );
    let turn = "<turn:127.0.0.1:9?transport=udp>; rel=\"ice-server\"; username=\"somebody\"; \
                credential=\"hunter2\"; credential-type=\"password\"";
    assert_eq!(created.field("link"), turn);
    let etag = created.field("etag").to_owned();
    assert!(etag.starts_with('"') && etag.len() > 8, "{etag}");
    let session = created.field("location").to_owned();
    let name = session.strip_prefix("/whep/cam/").unwrap();
    assert!(name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit()));
    let answer = created.content;
    assert_eq!(answer.matches("a=sendonly\r\n").count(), 2, "{answer}");
    assert!(answer.contains("a=candidate:"), "{answer}");

    let is_first = format!("If-Match: {etag}");
    let trickled = stage.patch(&session, &is_first, CANDIDATE).await;
    assert_eq!((trickled.status, trickled.field("etag")), (204, ""));

    let new = CANDIDATE
        .replace("old1", "new1")
        .replace("012345678901\r", "987654321098\r");
    let restarted = stage.patch(&session, ANY, &new).await;
    assert_eq!(restarted.status, 200, "{restarted:?}");
    let type_ = restarted.field("content-type");
    assert_eq!(type_, "application/trickle-ice-sdpfrag");
    let new_etag = restarted.field("etag").to_owned();
    assert!(new_etag != etag && !new_etag.is_empty());
    for ours in ["a=ice-ufrag:", "a=ice-pwd:"] {
        let (before, after) = (line(&answer, ours), line(&restarted.content, ours));
        assert_ne!(before, after, "credentials of its own");
    }
    let candidates = |text: &str| text.matches(" 1 udp ").count();
    let first_section = answer.split("m=video").next().unwrap();
    assert_eq!(
        candidates(&restarted.content),
        candidates(first_section),
        "{}",
        restarted.content
    );

    let old = stage.patch(&session, &is_first, CANDIDATE).await;
    assert_eq!(old.status, 412);
    let is_second = format!("If-Match: {new_etag}");
    assert_eq!(stage.patch(&session, &is_second, &new).await.status, 204);

    let delete = format!("DELETE {session}");
    assert_eq!(stage.request(&delete, &[KEY], "").await.status, 200);
    assert_eq!(stage.request(&delete, &[KEY], "").await.status, 404);
    let late = stage.patch(&session, ANY, CANDIDATE).await;
    assert_eq!(late.status, 404);
    stage.stop().await;
}

#[tokio::test]
async fn every_mistake_has_its_status() {
    let stage = Stage::start().await;
    let session = stage.post().await.field("location").to_owned();
    let patch = format!("PATCH {session}");
    let post = "POST /whep/cam";
    let empty = "POST /whep/empty-room";
    let vp8 = OFFER.replace("H264", "VP8");
    let no_ice = OFFER.replace("a=ice-", "a=x-");
    let huge = OFFER.to_owned() + &"a=x\r\n".repeat(30_000);
    let escaped = OFFER.to_owned() + &"\x01".repeat(60_000);
    let wrong = "Authorization: Bearer wrong";
    for (status, what, fields, content) in [
        (401, post, &[SDP][..], OFFER),
        (401, post, &[SDP, "Authorization: Basic bm86bm8="], OFFER),
        (401, post, &[SDP, "Authorization: Digest see"], OFFER),
        (401, post, &[SDP, wrong], OFFER),
        (401, empty, &[SDP, wrong], OFFER),
        (404, "POST /whep/no%2Froom", &[SDP, KEY], OFFER),
        (409, empty, &[SDP, KEY], OFFER),
        (415, post, &[KEY], OFFER),
        (415, post, &[KEY, "Content-Type: application/json"], "{}"),
        (400, post, &[KEY, SDP], "hello"),
        (400, post, &[KEY, SDP], ""),
        (400, post, &[KEY, SDP], &no_ice),
        (406, post, &[KEY, SDP], &vp8),
        (413, post, &[KEY, SDP], &huge),
        (413, post, &[KEY, SDP], &escaped),
        (405, "PUT /whep/cam", &[KEY, SDP], OFFER),
        (405, "PATCH /whep/cam", &[KEY, SDP], OFFER),
        (415, &patch, &[SDP, ANY], OFFER),
        (428, &patch, &[SDPFRAG], CANDIDATE),
        (412, &patch, &[SDPFRAG, "If-Match: \"other\""], CANDIDATE),
        (422, &patch, &[SDPFRAG, ANY], "hello"),
        (413, &patch, &[SDPFRAG, ANY], &huge),
        (404, "PATCH /whep/cam/0123", &[SDPFRAG, ANY], CANDIDATE),
        (404, "DELETE /whep/cam/0123", &[KEY], ""),
        (404, "GET /whep/cam/0123", &[KEY], ""),
        (
            405,
            &session.replace("/whep", "POST /whep"),
            &[KEY, SDP],
            OFFER,
        ),
    ] {
        let answer = stage.request(what, fields, content).await;
        assert_eq!(answer.status, status, "{what} {fields:?}: {answer:?}");
        let challenge = answer.field("www-authenticate");
        assert_eq!(challenge.starts_with("Bearer"), status == 401);
        assert_eq!(answer.field("retry-after").is_empty(), status != 409);
        assert_eq!(answer.field("allow").is_empty(), status != 405);
        let accept = if what == post {
            answer.field("accept-post")
        } else {
            answer.field("accept-patch")
        };
        assert_eq!(accept.is_empty(), status != 415 && status != 405);
        if status == 405 {
            let takes_offers = answer.field("allow").contains("POST");
            assert_eq!(!answer.field("accept-post").is_empty(), takes_offers);
        }
        assert!(!answer.content.is_empty(), "{what}: in words");
    }
    let alive = stage.request(&format!("GET {session}"), &[], "").await;
    assert_eq!((alive.status, alive.content.as_str()), (204, ""));
    for method in ["GET", "HEAD"] {
        let what = format!("{method} /whep/cam");
        let found = stage.request(&what, &[], "").await;
        assert_eq!((found.status, found.content.as_str()), (200, ""));
        assert_eq!(found.field("content-type"), "application/sdp");
    }
    stage.stop().await;
}

#[tokio::test]
async fn pages_of_allowed_origins_may_watch_and_see_the_header_fields_they_need() {
    let stage = Stage::start().await;
    let page = "Origin: https://player.example";
    let preflight = [
        page,
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,content-type",
    ];
    let leave = stage.request("OPTIONS /whep/cam", &preflight, "").await;
    assert_eq!(leave.status, 200);
    assert_eq!(leave.field("accept-post"), "application/sdp");
    let origin = "access-control-allow-origin";
    assert_eq!(leave.field(origin), "https://player.example");
    let methods = leave.field("access-control-allow-methods");
    assert!(
        ["POST", "PATCH", "DELETE"]
            .iter()
            .all(|m| methods.contains(m))
    );
    let sent = leave.field("access-control-allow-headers");
    assert_eq!(sent, "Authorization, Content-Type, If-Match");

    let post = "POST /whep/cam";
    let created = stage.request(post, &[KEY, SDP, page], OFFER).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.field(origin), "https://player.example");
    assert_eq!(created.field("vary"), "Origin");
    let seen = created.field("access-control-expose-headers");
    for field in ["Location", "ETag", "Link", "Accept-Patch"] {
        assert!(seen.contains(field), "{seen}");
    }
    let session = format!("OPTIONS {}", created.field("location"));
    let leave = stage.request(&session, &preflight, "").await;
    assert_eq!((leave.status, leave.field(origin).is_empty()), (200, false));
    // Errors can be read, too.
    let refused = stage.request(post, &[SDP, page], OFFER).await;
    assert_eq!(
        (refused.status, refused.field(origin).is_empty()),
        (401, false)
    );

    let other = "Origin: https://other.example";
    let refused = stage.request(post, &[KEY, SDP, other], OFFER).await;
    assert_eq!((refused.status, refused.field(origin)), (403, ""));
    let silent = stage.request("OPTIONS /whep/cam", &[other], "").await;
    assert_eq!((silent.status, silent.field(origin)), (200, ""));
    stage.stop().await;
}

#[tokio::test]
async fn a_device_that_is_full_says_so_until_somebody_leaves() {
    let demo = Demo::configured(&[], "[webrtc]\nmax_viewers = 1\n");
    let (server, key) = demo.url().split_once("/#room=cam&key=").unwrap();
    let address = server.strip_prefix("http://").unwrap().parse().unwrap();
    let key = format!("Authorization: Bearer {key}");
    let post = async || request(address, "POST /whep/cam", &[&key, SDP], OFFER).await;
    let deadline = roomcam::clock::now() + SOON;
    let mut first = post().await;
    // The page is there before the device is.
    while first.status == 409 && roomcam::clock::now() < deadline {
        tokio::time::sleep(POLL_EVERY).await;
        first = post().await;
    }
    assert_eq!(first.status, 201, "{first:?}");
    let second = post().await;
    assert_eq!((second.status, second.field("retry-after")), (503, "5"));
    let delete = format!("DELETE {}", first.field("location"));
    assert_eq!(request(address, &delete, &[], "").await.status, 200);
    assert_eq!(post().await.status, 201);
}

#[tokio::test]
async fn a_session_that_nobody_connects_is_gone_by_itself() {
    let stage = Stage::start().await;
    let created = stage.post().await;
    let session = created.field("location");
    stage.is_over(session, UNCONNECTED_ENDS_WITHIN).await;
    stage.stop().await;
}

#[tokio::test]
async fn a_password_in_the_url_is_as_good_as_a_token() {
    let stage = Stage::start().await;
    let somebody = "Authorization: Basic c29tZWJvZHk6c2Vl";
    let fields = [somebody, SDP];
    let created = stage.request("POST /whep/cam", &fields, OFFER).await;
    assert_eq!(created.status, 201);
    stage.stop().await;
}

#[tokio::test]
async fn a_player_that_gives_up_waiting_leaves_no_viewer_behind() {
    let stage = Stage::start().await;
    let mut device = SilentDevice::join(stage.address, "attic").await;
    let what = "POST /whep/attic";
    let silent = stage.request(what, &[KEY, SDP], OFFER);
    let (answer, ()) = tokio::join!(silent, device.sees_somebody_come_and_go());
    assert_eq!((answer.status, answer.field("retry-after")), (504, "5"));

    let offer = format!(
        "{what} HTTP/1.1\r\nHost: localhost\r\n{KEY}\r\n{SDP}\r\nContent-Length: {}\r\n\r\n{OFFER}",
        OFFER.len()
    );
    let mut player = TcpStream::connect(stage.address).await.unwrap();
    player.write_all(offer.as_bytes()).await.unwrap();
    device.hears("viewer-joined").await;
    let since = roomcam::clock::now();
    drop(player);
    device.hears("viewer-left").await;
    assert!(since.elapsed() < Duration::from_secs(3), "at once");
    stage.stop().await;
}

#[tokio::test]
async fn a_device_that_starts_anew_ends_the_sessions_of_before() {
    let mut stage = Stage::start().await;
    let created = stage.post().await;
    stage.device.kill();
    stage.device.start_again();
    stage.device.has_logged("joined the room").await;
    stage.is_over(created.field("location"), SOON).await;
    stage.post().await;
    stage.stop().await;
}

/// A player that is no browser.
mod in_python {
    use super::*;
    use crate::support::aiortc::Player;

    #[tokio::test]
    #[ignore = "needs the players of others: scripts/test"]
    async fn aiortc_sees_and_hears_two_at_once_until_each_is_closed() {
        let stage = Stage::start().await;
        let (first, second) = (
            Player::start(&stage.url(), "see"),
            Player::start(&stage.url(), "see"),
        );
        first.sees_and_hears().await;
        let seen = second.sees_and_hears().await;
        assert_eq!(
            (seen["width"].as_u64(), seen["height"].as_u64()),
            (Some(320), Some(180))
        );
        let created = second.says("created", |_| true).await;
        let session = created["headers"]["location"].as_str().unwrap();
        assert_eq!(first.close().await, 200);
        second.sees_and_hears().await;
        // Somebody pulls its plug: the device notices, and the session goes with the media.
        drop(second);
        stage.is_over(session, Duration::from_secs(20)).await;
        stage.stop().await;
    }
}

/// Players on pages that come from elsewhere.
mod in_chromium {
    use super::*;
    use crate::support::peers::{Browser, RoomServer};

    #[tokio::test]
    #[ignore = "needs the players of others: scripts/test"]
    async fn eyevinns_player_on_a_page_of_another_origin_sees_and_hears() {
        let pages = RoomServer::start(&["players"]).await;
        let stage = Stage::with(vec![pages.url()]).await;
        let browser = Browser::start().await;
        let address = format!("{}#see", stage.url());
        let first = browser.open(&pages.page("whep-eyevinn.html")).await;
        first.join(&address).await;
        first.sees_and_hears().await;
        let second = browser.open(&pages.page("whep-eyevinn.html")).await;
        second.join(&address).await;
        second.sees_and_hears().await;
        first.leave().await;
        stage.device.has_logged("left the room").await;
        second.sees_and_hears().await;
        browser.close().await;
        stage.stop().await;
    }

    #[tokio::test]
    #[ignore = "needs the players of others: scripts/test"]
    async fn candidates_are_trickled_an_ice_restart_keeps_the_picture_moving_and_delete_ends_it() {
        let pages = RoomServer::start(&["players"]).await;
        let stage = Stage::with(vec![pages.url()]).await;
        let browser = Browser::start().await;
        let page = browser.open(&pages.page("whep-plain.html")).await;
        let joined = page.join(&format!("{}#see", stage.url())).await;
        assert_eq!(
            (joined["status"].as_u64(), joined["trickled"].as_u64()),
            (Some(201), Some(204))
        );
        page.sees_and_hears().await;

        let pair = "const stats = await connection.getStats(); \
            const [transport] = [...stats.values()].filter(({ type }) => type === 'transport'); \
            const pair = stats.get(transport.selectedCandidatePairId); \
            return [transport.iceLocalUsernameFragment, stats.get(pair.remoteCandidateId).usernameFragment]";
        for _ in 0..3 {
            let before = page.run(pair).await;
            let restarted = page.run("return await restart()").await;
            assert_eq!(restarted["status"], 200, "{restarted}");
            page.sees_and_hears().await;
            let after = page.run(pair).await;
            assert!(
                after[0] != before[0] && after[1] != before[1],
                "{before} {after}"
            );
            let report = page.report().await;
            assert_eq!(report.connections, ["connected"]);
        }

        assert_eq!(page.run("return await leave()").await, 200);
        page.wait_until("the media ended", |report| report.transports == ["closed"])
            .await;
        browser.close().await;
        stage.stop().await;
    }
}
