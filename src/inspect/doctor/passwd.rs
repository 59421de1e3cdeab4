//! Users, groups and owners: `/etc/passwd`, `/etc/group`, `/proc/self/status` and the device nodes.
//!
//! Users that come from elsewhere (LDAP) are known by their numbers alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::access::{Kind, Node, User};
use super::kernel;
use super::service::Service;

/// Most nodes of a directory that are looked at.
const MAX_NODES: usize = 128;

/// Returns the user of the service, or without one, whoever runs this process.
pub(super) fn user(service: Option<&Service>) -> User {
    let groups = Groups::read();
    match service {
        Some(service) => {
            let name = service.user();
            let mut of_service = groups.of(&name);
            of_service.extend(service.supplementary_groups());
            of_service.extend(primary_group(&name).and_then(|id| groups.by_id.get(&id).cloned()));
            User {
                is_root: name == "root",
                name,
                listed: BTreeSet::new(),
                groups: of_service,
                unit: Some(service.unit().to_owned()),
            }
        }
        None => {
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            // Real, effective, saved, file system.
            let uid = numbers(&status, "Uid:").nth(1).unwrap_or_default();
            let name = name_of(uid);
            let own = numbers(&status, "Groups:").chain(numbers(&status, "Gid:"));
            User {
                is_root: uid == 0,
                groups: own
                    .filter_map(|id| groups.by_id.get(&id).cloned())
                    .collect(),
                listed: groups.of(&name),
                name,
                unit: None,
            }
        }
    }
}

/// Returns the nodes of one kind.
pub(super) fn nodes(kind: Kind) -> Vec<Node> {
    let groups = Groups::read();
    let (directory, prefixes): (&str, &[&str]) = match kind {
        Kind::Video => ("/dev", &["video"]),
        Kind::Media => ("/dev", &["media", "v4l-subdev"]),
        Kind::DmaHeap => ("/dev/dma_heap", &[]),
        Kind::Audio => ("/dev/snd", &["pcm", "control"]),
    };
    let is_one = |name: &str| {
        let mut rests = prefixes
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix));
        let is_number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit() || c == 'C');
        prefixes.is_empty() || rests.any(is_number)
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut nodes: Vec<Node> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_one))
        .take(MAX_NODES)
        .filter_map(|entry| node(&entry.path(), &groups))
        .collect();
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    nodes
}

fn node(path: &Path, groups: &Groups) -> Option<Node> {
    let about = fs::metadata(path).ok()?;
    let group = groups.by_id.get(&about.gid()).cloned();
    Some(Node {
        path: path.display().to_string(),
        group: group.unwrap_or_else(|| about.gid().to_string()),
        mode: about.mode() & 0o777,
        is_open_to_us: kernel::may_open(path),
    })
}

/// `/etc/group`
struct Groups {
    by_id: BTreeMap<u32, String>,
    members: BTreeMap<String, Vec<String>>,
}

impl Groups {
    fn read() -> Self {
        Self::parse(&fs::read_to_string("/etc/group").unwrap_or_default())
    }

    /// Reads lines of `video:x:44:pi,roomcam`.
    fn parse(text: &str) -> Self {
        let mut groups = Self {
            by_id: BTreeMap::new(),
            members: BTreeMap::new(),
        };
        for line in text.lines() {
            let mut fields = line.split(':');
            let (name, id) = (fields.next(), fields.nth(1));
            if let (Some(name), Some(Ok(id))) = (name, id.map(str::parse)) {
                let members = fields.next().unwrap_or_default().split(',');
                let members = members.map(str::to_owned).collect();
                groups.by_id.insert(id, name.to_owned());
                groups.members.insert(name.to_owned(), members);
            }
        }
        groups
    }

    fn of(&self, user: &str) -> BTreeSet<String> {
        let members = self.members.iter();
        let has_user = |members: &Vec<String>| members.iter().any(|member| member == user);
        let of_user = members.filter(|(_, members)| has_user(members));
        of_user.map(|(name, _)| name.clone()).collect()
    }
}

fn passwd_field(wanted: impl Fn(&[&str]) -> bool, field: usize) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        wanted(&fields).then(|| fields.get(field).map(|&field| field.to_owned()))?
    })
}

fn name_of(uid: u32) -> String {
    let number = uid.to_string();
    passwd_field(|fields| fields.get(2) == Some(&number.as_str()), 0).unwrap_or(number)
}

fn primary_group(user: &str) -> Option<u32> {
    passwd_field(|fields| fields.first() == Some(&user), 3)?
        .parse()
        .ok()
}

fn numbers<'a>(status: &'a str, name: &str) -> impl Iterator<Item = u32> + use<'a> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let words = line.unwrap_or_default().split_whitespace();
    words.filter_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_a_user_are_those_that_list_it() {
        let groups = Groups::parse("root:x:0:\nvideo:x:44:pi,roomcam\naudio:x:29:pi\nbad:x\n");
        assert_eq!(groups.by_id[&44], "video");
        let of_pi: Vec<_> = groups.of("pi").into_iter().collect();
        assert_eq!(of_pi, ["audio", "video"]);
        assert!(groups.of("nobody").is_empty());
    }

    #[test]
    fn the_numbers_of_a_process_are_read() {
        let status = "Name:\tx\nUid:\t1000\t1001\t0\t0\nGroups:\t44 29 \n";
        assert_eq!(numbers(status, "Uid:").nth(1), Some(1001));
        assert_eq!(numbers(status, "Groups:").collect::<Vec<_>>(), [44, 29]);
        assert_eq!(numbers(status, "Gid:").count(), 0);
    }

    #[test]
    fn this_process_has_a_user() {
        assert!(!user(None).name.is_empty());
    }
}
