//! Which pages may talk to the room server (RFC 6454, RFC 9112 §3.2).
//!
//! A browser sends WebSockets anywhere, whatever page asks for it, and a name that is rebound to
//! this machine's address makes a foreign page look like our own. The key keeps both out; this
//! keeps them from trying.
//!
//! Pure.

use url::{Host, Url};

/// What browsers send for a page that is a file. Also for one that another site has put into a sandbox:
/// whoever lets in the one lets in the other.
const NO_ORIGIN: &str = "null";

/// Hosts and origins that are let in.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Listens on this machine alone: then names of this machine alone are right.
    loopback: bool,
    /// As browsers write them, e.g. `https://example.org`.
    origins: Vec<String>,
    /// Lets in pages that are of no site: files.
    files: bool,
    /// The hosts of those.
    hosts: Vec<String>,
}

impl Guard {
    /// Makes a guard that lets in the server's own page and those of `origins`.
    ///
    /// # Errors
    ///
    /// The first of `origins` that no browser ever sends.
    pub fn new(loopback: bool, origins: &[String]) -> Result<Self, String> {
        let mut guard = Self {
            loopback,
            origins: Vec::new(),
            files: false,
            hosts: Vec::new(),
        };
        for origin in origins {
            if origin == NO_ORIGIN {
                guard.files = true;
                continue;
            }
            let url = Url::parse(origin).map_err(|_| origin.clone())?;
            let bare = matches!(url.path(), "/" | "") && url.query().is_none();
            let web = matches!(url.scheme(), "http" | "https");
            let (Some(host), true) = (url.host_str(), bare && web) else {
                return Err(origin.clone());
            };
            guard.hosts.push(host.to_owned());
            guard.origins.push(url.origin().ascii_serialization());
        }
        Ok(guard)
    }

    /// Returns whether a request for `host` (the header, with or without a port) is meant for us.
    #[must_use]
    pub fn admits_host(&self, host: Option<&str>) -> bool {
        if !self.loopback {
            return true;
        }
        let Some(url) = host.and_then(|host| authority(host, "http")) else {
            return false;
        };
        match url.host() {
            Some(Host::Domain(name)) if self.hosts.iter().any(|host| host == name) => true,
            Some(host) => is_local(&host),
            None => false,
        }
    }

    /// Returns whether a page of `origin` may open a WebSocket to `host`.
    #[must_use]
    pub fn admits_origin(&self, origin: &str, host: Option<&str>) -> bool {
        if origin == NO_ORIGIN {
            return self.files;
        }
        let Ok(origin) = Url::parse(origin) else {
            return false;
        };
        if !origin.origin().is_tuple() {
            return false;
        }
        let own = host.and_then(|host| authority(host, origin.scheme()));
        own.is_some_and(|own| own.origin() == origin.origin())
            || self
                .origins
                .contains(&origin.origin().ascii_serialization())
    }
}

/// Returns the first of `origins` by which others than this machine's people may come: `null`, which any
/// site can make its page's, or the name of another host, under which a proxy may stand.
#[must_use]
pub fn first_from_elsewhere(origins: &[String]) -> Option<&str> {
    let is_from_here = |origin: &str| {
        let url = Url::parse(origin).ok();
        url.is_some_and(|url| url.host().is_some_and(|host| is_local(&host)))
    };
    let mut origins = origins.iter().map(String::as_str);
    origins.find(|origin| !is_from_here(origin))
}

/// Returns whether `host` is a name that this machine alone has.
fn is_local(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
    }
}

/// Reads a `Host` header as the URL it belongs to; `None` if it is more than host and port.
fn authority(host: &str, scheme: &str) -> Option<Url> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if host.is_empty() || !host.bytes().all(plain) {
        return None;
    }
    Url::parse(&format!("{scheme}://{host}/")).ok()
}

/// Returns `host` if it can stand in a header of ours: letters, digits and `-._:[]` alone.
#[must_use]
pub fn plain_host(host: &str) -> Option<&str> {
    authority(host, "http").map(|_| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(loopback: bool, origins: &[&str]) -> Guard {
        let origins: Vec<String> = origins.iter().map(|&o| o.to_owned()).collect();
        Guard::new(loopback, &origins).unwrap()
    }

    #[test]
    fn a_loopback_server_answers_to_this_machines_own_names_alone() {
        let guard = guard(true, &["https://cam.example.org"]);
        for host in [
            "localhost:8080",
            "LOCALHOST",
            "127.0.0.1:8080",
            "127.1.2.3",
            "[::1]:8080",
            "cam.localhost:9000",
            "cam.example.org",
        ] {
            assert!(guard.admits_host(Some(host)), "{host}");
        }
        for host in [
            "evil.example:8080",
            "localhost.evil.example",
            "192.0.2.1",
            "[::2]",
            "",
            "a b",
            "user@localhost",
            "localhost/x",
        ] {
            assert!(!guard.admits_host(Some(host)), "{host}");
        }
        assert!(!guard.admits_host(None));
    }

    #[test]
    fn a_server_on_the_network_answers_to_any_name() {
        assert!(guard(false, &[]).admits_host(Some("raspberrypi.local:8080")));
    }

    #[test]
    fn the_own_page_and_allowed_ones_may_connect() {
        let guard = guard(false, &["https://example.org/"]);
        let admits = |origin, host| guard.admits_origin(origin, Some(host));
        assert!(admits("http://192.0.2.1:8080", "192.0.2.1:8080"));
        assert!(admits("https://Cam.example", "cam.example"));
        assert!(admits("https://cam.example", "cam.example:443"));
        assert!(admits("https://example.org", "192.0.2.1:8080"));
        assert!(!admits("http://example.org", "192.0.2.1:8080"));
        assert!(!admits("https://example.org:444", "192.0.2.1:8080"));
        assert!(!admits("http://192.0.2.1:8081", "192.0.2.1:8080"));
        assert!(!admits("http://192.0.2.1", "192.0.2.1:8080"));
        assert!(!admits("null", "null"));
        assert!(!admits("file://", ""));
        assert!(!admits("", ""));
        assert!(!guard.admits_origin("http://a", None));
    }

    #[test]
    fn files_are_let_in_where_that_is_said() {
        assert!(!guard(true, &["https://example.org"]).admits_origin("null", Some("localhost")));
        assert!(guard(true, &["null"]).admits_origin("null", Some("localhost")));
        assert!(!guard(true, &["null"]).admits_host(Some("null")));
    }

    #[test]
    fn origins_of_this_machine_are_told_from_others() {
        let first = |origins: &[&str]| {
            let origins: Vec<String> = origins.iter().map(|&o| o.to_owned()).collect();
            first_from_elsewhere(&origins).map(str::to_owned)
        };
        let local = [
            "http://localhost:5173",
            "http://127.0.0.1:5173",
            "http://[::1]",
            "http://cam.localhost",
        ];
        assert_eq!(first(&local), None);
        for other in ["null", "https://cam.example.org", "http://192.0.2.1:5173"] {
            assert_eq!(first(&[local[0], other]).as_deref(), Some(other));
        }
    }

    #[test]
    fn what_no_browser_sends_is_no_origin() {
        for origin in ["example.org", "https://example.org/page", "ftp://x", ""] {
            let refused = Guard::new(true, &[origin.to_owned()]);
            assert_eq!(refused.unwrap_err(), origin);
        }
    }
}
