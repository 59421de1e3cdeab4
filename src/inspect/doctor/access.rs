//! Who may open the devices: the user of the service, or whoever asks; and which group is missing. Pure.

use std::collections::BTreeSet;

use super::finding::Finding;

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
    Video,
    Audio,
}

/// Judges the nodes of one kind. `is_wanted`: a source of that kind is configured.
pub(super) fn findings(kind: Kind, user: &User, nodes: &[Node], is_wanted: bool) -> Vec<Finding> {
    let (check, what) = match kind {
        Kind::Video => ("video access", "cameras and encoders"),
        Kind::Audio => ("audio access", "sound cards"),
    };
    if nodes.is_empty() {
        return Vec::new();
    }
    let closed: Vec<&Node> = nodes.iter().filter(|node| !may_open(user, node)).collect();
    let name = &user.name;
    if closed.is_empty() {
        return vec![Finding::ok(check, format!("{name} may open all {what}."))];
    }
    let judge = |text: String| {
        if is_wanted {
            Finding::error(check, text)
        } else {
            Finding::warning(check, text)
        }
    };
    let groups: BTreeSet<&str> = closed.iter().map(|node| node.group.as_str()).collect();
    let of_group = |group: &str| {
        let nodes = closed.iter().filter(|node| node.group == group);
        let paths: Vec<&str> = nodes.clone().map(|node| node.path.as_str()).collect();
        let opens = nodes.clone().any(|node| is_open_to_group(node.mode)) && group != "root";
        let paths = shortened(&paths);
        if !opens {
            let text = format!("{name} may not open {paths}, nor may any group but root.");
            let usual = match kind {
                Kind::Video => "video",
                Kind::Audio => "audio",
            };
            let remedy = format!("sudo chgrp {usual} {paths} && sudo chmod 660 {paths}");
            return judge(text).mended_by(remedy);
        }
        if user.listed.contains(group) {
            let text = format!("{name} is in the group {group}, but not since it logged in.");
            return judge(text).mended_by("log out and in again");
        }
        let text = format!("{name} may not open {paths}: it is not in the group {group}.");
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

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
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

    fn only(user: &User, nodes: &[Node], is_wanted: bool) -> Finding {
        let mut findings = findings(Kind::Video, user, nodes, is_wanted);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn a_user_without_the_group_is_told_the_command_that_adds_it() {
        let nodes = [node("/dev/video0", "video", 0o660)];
        let finding = only(&user(&["audio"], None), &nodes, true);
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
        assert_eq!(only(&user(&[], None), &nodes, false).level, Level::Warning);
        let service = only(&user(&[], Some("roomcam.service")), &nodes, true);
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
        let finding = only(&user, &[node("/dev/video0", "video", 0o660)], true);
        assert_eq!(finding.remedy.unwrap(), "log out and in again");
    }

    #[test]
    fn who_may_is_well() {
        let nodes = [
            node("/dev/video0", "video", 0o660),
            node("/dev/media0", "video", 0o666),
        ];
        let service = user(&["video"], Some("roomcam.service"));
        assert_eq!(only(&service, &nodes, true).level, Level::Ok);
        let root = User {
            is_root: true,
            ..user(&[], None)
        };
        assert_eq!(only(&root, &nodes, true).level, Level::Ok);
        let seated = Node {
            is_open_to_us: true,
            ..node("/dev/video0", "video", 0o660)
        };
        assert_eq!(only(&user(&[], None), &[seated], true).level, Level::Ok);
        assert_eq!(findings(Kind::Audio, &service, &[], true), []);
    }

    #[test]
    fn a_node_that_no_group_may_open_is_given_to_one() {
        let nodes: Vec<Node> = (0..9)
            .map(|n| node(&format!("/dev/video{n}"), "root", 0o600))
            .collect();
        let finding = only(&user(&["video"], None), &nodes, true);
        let remedy = finding.remedy.unwrap();
        assert!(
            remedy.starts_with("sudo chgrp video /dev/video0 /dev/video1"),
            "{remedy}"
        );
        assert!(finding.text.contains('…'), "{}", finding.text);
    }
}
