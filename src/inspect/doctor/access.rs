//! Who may open the devices: the user of the service, or whoever asks; and which group is missing. Pure.

use std::collections::BTreeSet;

use super::finding::{Finding, Level};

/// On whose behalf it is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) is_root: bool,
    /// Groups that its processes have.
    pub(super) groups: BTreeSet<String>,
    /// Groups that it is listed in; its next processes have them.
    pub(super) listed: BTreeSet<String>,
    /// The unit that runs as this user; none for whoever asks.
    pub(super) unit: Option<String>,
}

/// A device node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) group: String,
    /// The permission bits.
    pub(super) mode: u32,
    /// What the kernel says to this very process.
    pub(super) is_open_to_us: bool,
}

/// What the nodes of one kind are for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// V4L2: cameras and encoders.
    Video,
    /// What libcamera opens beside those: how a CSI camera is wired.
    Media,
    /// The memory that libcamera's pictures are in.
    DmaHeap,
    /// ALSA.
    Audio,
}

impl Kind {
    const fn check(self) -> &'static str {
        match self {
            Self::Video | Self::Media | Self::DmaHeap => "video access",
            Self::Audio => "audio access",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Video => "cameras and encoders",
            Self::Media => "stages of the CSI camera",
            Self::DmaHeap => "memory of the CSI camera's pictures",
            Self::Audio => "sound cards",
        }
    }

    /// The group that such nodes belong to on Debian and Raspberry Pi OS.
    const fn usual_group(self) -> &'static str {
        match self {
            Self::Video | Self::Media | Self::DmaHeap => "video",
            Self::Audio => "audio",
        }
    }

    /// Says that there is nothing whose group could be wrong.
    fn nothing(self) -> Finding {
        let (text, remedy) = match self {
            Self::Video => (
                "there is no /dev/video*: no driver has found a camera.",
                "plug the camera in (a CSI camera while the machine is off), then: sudo dmesg | tail -n 30",
            ),
            Self::Media => (
                "there is no /dev/media*: no driver has found a CSI camera.",
                "push the ribbon cable in anew while the machine is off, then: \
                 sudo dmesg | grep -iE 'unicam|cfe|imx|ov[0-9]'",
            ),
            Self::DmaHeap => (
                "there is no /dev/dma_heap/*: libcamera has no memory for its pictures.",
                "sudo apt full-upgrade && sudo reboot",
            ),
            Self::Audio => (
                "there is no /dev/snd/pcm*: no driver has found a sound card.",
                "plug the microphone in, then: sudo dmesg | tail -n 30",
            ),
        };
        Finding::warning(self.check(), text).mended_by(remedy)
    }
}

/// Judges the nodes of one kind. `failure` is how bad it is if they cannot be opened; `None` where nothing of
/// that kind is configured, so that it does not matter whether there are any.
pub(super) fn findings(
    kind: Kind,
    user: &User,
    nodes: &[Node],
    failure: Option<Level>,
) -> Vec<Finding> {
    let check = kind.check();
    if nodes.is_empty() {
        return failure.map(|_| kind.nothing()).into_iter().collect();
    }
    let closed: Vec<&Node> = nodes.iter().filter(|node| !may_open(user, node)).collect();
    let name = &user.name;
    if closed.is_empty() {
        let what = kind.what();
        return vec![Finding::ok(check, format!("{name} may open all {what}."))];
    }
    let judge = |text: String| Finding::new(check, failure.unwrap_or(Level::Warning), text);
    let groups: BTreeSet<&str> = closed.iter().map(|node| node.group.as_str()).collect();
    let of_group = |group: &str| {
        let nodes = closed.iter().filter(|node| node.group == group);
        let paths: Vec<&str> = nodes.clone().map(|node| node.path.as_str()).collect();
        let opens = nodes.clone().any(|node| is_open_to_group(node.mode)) && group != "root";
        let shown = shortened(&paths);
        if !opens {
            let text = format!("{name} may not open {shown}, nor may any group but root.");
            let (usual, all) = (kind.usual_group(), patterns(&paths));
            let remedy = format!("sudo chgrp {usual} {all} && sudo chmod 660 {all}");
            return judge(text).mended_by(remedy);
        }
        if user.listed.contains(group) {
            let text = format!("{name} is in the group {group}, but not since it logged in.");
            return judge(text).mended_by("log out and in again");
        }
        let text = format!("{name} may not open {shown}: it is not in the group {group}.");
        let add = format!("sudo usermod -aG {group} {name}");
        judge(text).mended_by(match &user.unit {
            Some(unit) => format!("{add} && sudo systemctl restart {unit}"),
            None => format!("{add}, then log out and in again"),
        })
    };
    groups.into_iter().map(of_group).collect()
}

fn may_open(user: &User, node: &Node) -> bool {
    if user.is_root || node.mode & 0o006 == 0o006 {
        return true;
    }
    if user.unit.is_none() {
        // The kernel knows of access lists, too, which a desktop gives to whoever sits before it.
        return node.is_open_to_us;
    }
    is_open_to_group(node.mode) && user.groups.contains(&node.group)
}

const fn is_open_to_group(mode: u32) -> bool {
    mode & 0o060 == 0o060
}

fn shortened(paths: &[&str]) -> String {
    const SHOWN: usize = 4;
    let mut text = paths.get(..SHOWN).unwrap_or(paths).join(" ");
    if paths.len() > SHOWN {
        text.push_str(" …");
    }
    text
}

/// Returns patterns of a shell that match at least the paths: `/dev/video* /dev/dma_heap/*`.
fn patterns(paths: &[&str]) -> String {
    let pattern = |path: &&str| match path.rsplit_once('/') {
        Some(("/dev", name)) => {
            let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
            format!("/dev/{kind}*")
        }
        Some((directory, _)) => format!("{directory}/*"),
        None => (*path).to_owned(),
    };
    let patterns: BTreeSet<String> = paths.iter().map(pattern).collect();
    patterns.into_iter().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str, group: &str, mode: u32) -> Node {
        Node {
            path: path.to_owned(),
            group: group.to_owned(),
            mode,
            is_open_to_us: false,
        }
    }

    fn user(groups: &[&str], unit: Option<&str>) -> User {
        User {
            name: "pi".to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            unit: unit.map(str::to_owned),
            ..User::default()
        }
    }

    const NEEDED: Option<Level> = Some(Level::Error);

    fn only(user: &User, nodes: &[Node], failure: Option<Level>) -> Finding {
        let mut findings = findings(Kind::Video, user, nodes, failure);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn a_user_without_the_group_is_told_the_command_that_adds_it() {
        let nodes = [node("/dev/video0", "video", 0o660)];
        let finding = only(&user(&["audio"], None), &nodes, NEEDED);
        assert_eq!(finding.level, Level::Error);
        assert_eq!(
            finding.text,
            "pi may not open /dev/video0: it is not in the group video."
        );
        let remedy = finding.remedy.unwrap();
        assert_eq!(
            remedy,
            "sudo usermod -aG video pi, then log out and in again"
        );
        assert_eq!(only(&user(&[], None), &nodes, None).level, Level::Warning);
        let service = only(&user(&[], Some("roomcam.service")), &nodes, NEEDED);
        let remedy = service.remedy.unwrap();
        assert!(
            remedy.ends_with("&& sudo systemctl restart roomcam.service"),
            "{remedy}"
        );
    }

    #[test]
    fn a_group_that_came_after_the_login_needs_another_login() {
        let mut user = user(&[], None);
        user.listed.insert("video".to_owned());
        let finding = only(&user, &[node("/dev/video0", "video", 0o660)], NEEDED);
        assert_eq!(finding.remedy.unwrap(), "log out and in again");
    }

    #[test]
    fn who_may_is_well() {
        let nodes = [
            node("/dev/video0", "video", 0o660),
            node("/dev/media0", "video", 0o666),
        ];
        let service = user(&["video"], Some("roomcam.service"));
        assert_eq!(only(&service, &nodes, NEEDED).level, Level::Ok);
        let root = User {
            is_root: true,
            ..user(&[], None)
        };
        assert_eq!(only(&root, &nodes, NEEDED).level, Level::Ok);
        let seated = Node {
            is_open_to_us: true,
            ..node("/dev/video0", "video", 0o660)
        };
        assert_eq!(only(&user(&[], None), &[seated], NEEDED).level, Level::Ok);
    }

    #[test]
    fn where_there_are_no_nodes_that_is_said_instead_of_a_group() {
        let user = user(&[], None);
        for kind in [Kind::Video, Kind::Media, Kind::DmaHeap, Kind::Audio] {
            let found = findings(kind, &user, &[], NEEDED);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].level, Level::Warning);
            assert!(found[0].text.contains("there is no /dev/"), "{found:?}");
            assert!(!found[0].text.contains("group"), "{found:?}");
            assert_eq!(findings(kind, &user, &[], None), []);
        }
    }

    #[test]
    fn what_is_only_heard_is_no_error() {
        let nodes = [node("/dev/snd/pcmC0D0c", "audio", 0o660)];
        let found = findings(Kind::Audio, &user(&[], None), &nodes, Some(Level::Warning));
        assert_eq!(found[0].level, Level::Warning);
    }

    #[test]
    fn libcamera_needs_the_memory_of_its_pictures_as_well() {
        let nodes = [
            node("/dev/dma_heap/linux,cma", "root", 0o600),
            node("/dev/dma_heap/system", "root", 0o600),
        ];
        let user = user(&["video"], Some("roomcam.service"));
        let found = findings(Kind::DmaHeap, &user, &nodes, NEEDED);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].check, "video access");
        assert_eq!(
            found[0].remedy.as_deref(),
            Some("sudo chgrp video /dev/dma_heap/* && sudo chmod 660 /dev/dma_heap/*")
        );
    }

    #[test]
    fn a_node_that_no_group_may_open_is_given_to_one() {
        let nodes: Vec<Node> = (0..9)
            .map(|n| node(&format!("/dev/video{n}"), "root", 0o600))
            .collect();
        let finding = only(&user(&["video"], None), &nodes, NEEDED);
        let remedy = finding.remedy.unwrap();
        assert_eq!(
            remedy,
            "sudo chgrp video /dev/video* && sudo chmod 660 /dev/video*"
        );
        assert!(finding.text.contains('…'), "{}", finding.text);
    }
}
