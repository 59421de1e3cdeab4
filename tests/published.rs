//! What is published of a version: packages, tarballs, and what goes with them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

#[test]
#[ignore = "needs git and Debian's tools: scripts/test"]
fn a_release_is_of_committed_files_and_of_a_version_that_the_changelog_names() {
    let directory = TempDir::new().expect("there is room");
    let clone = directory.path().join("clone");
    let cloned = Command::new("git")
        .args(["clone", "--quiet", "--depth=1"])
        .arg(format!("file://{}", env!("CARGO_MANIFEST_DIR")))
        .arg(&clone)
        .output();
    succeeded(&cloned.expect("git starts"));
    let refused = || {
        let output = Command::new(clone.join("scripts/release")).output();
        let output = output.expect("scripts/release starts");
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };

    let changelog = clone.join("CHANGELOG.md");
    let text = std::fs::read_to_string(&changelog).expect("it is there");
    let own = format!("## [{}]", env!("CARGO_PKG_VERSION"));
    std::fs::write(&changelog, text.replace(&own, "## [0.0.0]") + "\n").expect("it is ours");
    let reason = refused();
    assert!(reason.contains("M CHANGELOG.md"), "{reason}");

    let commit = "git -c user.name=a -c user.email=a@b.invalid commit --quiet --all --message=x";
    let committed = shell(&clone, commit);
    succeeded(&committed);
    let reason = refused();
    assert!(reason.contains(&own), "{reason}");
}

#[test]
#[ignore = "needs git and Debian's tools: scripts/test"]
fn a_release_is_complete_its_checksums_are_right_and_its_tarball_runs() {
    let release = release();
    succeeded(&shell(release, "sha256sum --check --strict SHA256SUMS"));
    let listed = std::fs::read_to_string(release.join("SHA256SUMS")).expect("it is there");
    let files = std::fs::read_dir(release).expect("it was made");
    assert_eq!(listed.lines().count() + 1, files.count(), "{listed}");
    for end in [".deb", ".tar.xz", ".cdx.json"] {
        assert_eq!(listed.matches(end).count(), 1, "{end} in {listed}");
    }

    let unpacked = TempDir::new().expect("there is room");
    let unpack = format!(
        "tar --extract --file {}/*.tar.xz --strip-components=1",
        release.display()
    );
    succeeded(&shell(unpacked.path(), &unpack));
    let version = shell(unpacked.path(), "usr/bin/roomcam --version");
    let version = succeeded(&version);
    assert_eq!(version, format!("roomcam {}\n", env!("CARGO_PKG_VERSION")));
    // What its INSTALL names is there.
    for path in [
        "INSTALL",
        "LICENSE",
        "etc/roomcam/roomcam.toml",
        "usr/lib/systemd/system/roomcam.service",
        "usr/lib/sysusers.d/roomcam.conf",
        "usr/share/doc/roomcam/operations.md",
        "usr/share/doc/roomcam/tools.md",
        "usr/share/doc/roomcam/third-party.txt.gz",
        "usr/share/man/man1/roomcam.1.gz",
        "usr/share/man/man1/roomcam-doctor.1.gz",
        "usr/share/man/man1/roomcam-run.1.gz",
        "usr/share/man/man1/roomcam-url.1.gz",
        "usr/share/bash-completion/completions/roomcam",
    ] {
        assert!(unpacked.path().join(path).exists(), "{path}");
    }
}

#[test]
#[ignore = "needs git and Debian's tools: scripts/test"]
fn every_crate_in_the_program_is_on_the_bill_and_comes_with_its_licence() {
    let crates = crates();
    assert!(crates.len() > 150, "{crates:?}");
    let bill = shell(release(), "cat *.cdx.json");
    let bill: Value = serde_json::from_str(&succeeded(&bill)).expect("it is JSON");
    let components = bill["components"].as_array().expect("a list");
    let billed: BTreeSet<String> = components
        .iter()
        .map(|part| format!("{} {}", text(&part["name"]), text(&part["version"])))
        .collect();
    assert_eq!(billed, crates);
    let references: BTreeSet<&str> = components
        .iter()
        .map(|part| text(&part["bom-ref"]))
        .collect();
    for dependency in bill["dependencies"].as_array().expect("a list") {
        let uses = dependency["dependsOn"].as_array().expect("a list");
        assert!(uses.iter().all(|used| references.contains(text(used))));
    }

    // Who makes it leaves no crate without a text.
    let licences = succeeded(&shell(
        &files(),
        "zcat usr/share/doc/roomcam/third-party.txt.gz",
    ));
    let (list, texts) = licences.split_once("-----").expect("texts");
    for part in &crates {
        assert!(list.contains(&format!("\n{part}: ")), "{part}");
    }
    for notice in [
        "Cisco Systems",
        "Jean-Marc Valin",
        "Google",
        "WebRTC.rs",
        "Tokio Contributors",
    ] {
        assert!(texts.contains(notice), "{notice}");
    }
}

#[test]
#[ignore = "needs git and Debian's tools: scripts/test"]
fn lintian_and_man_find_no_fault() {
    let package = shell(release(), "lintian --fail-on warning *.deb");
    assert_eq!(succeeded(&package), "");
    let pages = "for page in usr/share/man/man1/*.gz; do \
                 man --warnings --encoding=UTF-8 --local-file --troff-device=utf8 --ditroff $page 2>&1 >/dev/null; done";
    assert_eq!(succeeded(&shell(&files(), pages)), "");
}

#[test]
#[ignore = "needs the shells: scripts/test"]
fn bash_zsh_and_fish_complete_its_commands() {
    let bash = "bash --norc -c '. usr/share/bash-completion/completions/roomcam; \
                complete -p roomcam; COMP_WORDS=(roomcam de) COMP_CWORD=1; \
                _roomcam roomcam de roomcam; echo \"${COMPREPLY[@]}\"'";
    let bash = succeeded(&shell(&files(), bash));
    assert!(bash.ends_with("\ndemo devices\n"), "{bash}");
    let zsh = "zsh -fc 'fpath=(usr/share/zsh/vendor-completions $fpath); autoload -U compinit; \
               compinit -u -D; print $_comps[roomcam]; autoload +X _roomcam'";
    assert_eq!(succeeded(&shell(&files(), zsh)), "_roomcam\n");
    let fish = "fish --no-config -c '. usr/share/fish/vendor_completions.d/roomcam.fish; \
                complete --do-complete \"roomcam de\"'";
    let fish = succeeded(&shell(&files(), fish));
    let words: Vec<&str> = fish
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    assert_eq!(words, ["demo", "devices"]);
}

/// Returns what is published of this very program, for this machine alone.
fn release() -> &'static Path {
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    RELEASE.get_or_init(|| {
        let architecture = succeeded(&shell(Path::new("/"), "dpkg --print-architecture"));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release");
        let made = Command::new("scripts/release")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args([
                "--draft",
                "--profile",
                "dev",
                architecture.trim(),
                "--output",
            ])
            .arg(&directory)
            .output();
        PathBuf::from(succeeded(&made.expect("scripts/release starts")).trim())
    })
}

/// Returns the directory with the package's files.
fn files() -> PathBuf {
    static FILES: OnceLock<TempDir> = OnceLock::new();
    let directory = FILES.get_or_init(|| {
        let directory = TempDir::new().expect("there is room");
        let unpack = format!("dpkg-deb --extract *.deb {}", directory.path().display());
        succeeded(&shell(release(), &unpack));
        directory
    });
    directory.path().to_owned()
}

/// Returns the crates of the program as Cargo lists them: `name version`.
fn crates() -> BTreeSet<String> {
    let list = "cargo tree --locked --edges normal --prefix none --format '{p}'";
    let list = shell(Path::new(env!("CARGO_MANIFEST_DIR")), list);
    let list = succeeded(&list);
    let names = list.lines().filter_map(|line| line.split_once(" v"));
    names
        .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap_or_default()))
        .filter(|name| !name.starts_with("roomcam "))
        .collect()
}

fn shell(directory: &Path, command: &str) -> Output {
    let output = Command::new("sh")
        .current_dir(directory)
        .args(["-c", command])
        .output();
    output.expect("sh starts")
}

/// Returns what a command printed, which succeeded.
fn succeeded(output: &Output) -> String {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
