//! `cargo tree`, `cargo metadata` and Cargo.lock → the crates that a program is built of.
//!
//! Those of its dependencies, and theirs, for one target; not what only tests and build scripts need.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

/// One crate, and what a package says of it.
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression.
    pub(crate) license: String,
    pub(crate) authors: Vec<String>,
    pub(crate) repository: Option<String>,
    /// Where its source is.
    pub(crate) directory: PathBuf,
    /// SHA-256 of what the registry delivers, in hexadecimal digits; the program itself has none.
    pub(crate) checksum: Option<String>,
    /// The crates it uses, by [`Crate::purl`].
    pub(crate) uses: BTreeSet<String>,
}

impl Crate {
    /// Returns the name by which lists of vulnerabilities know it.
    pub(crate) fn purl(&self) -> String {
        purl(&self.name, &self.version)
    }
}

fn purl(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{version}")
}

/// Returns the crates of the program for a target, by name and version; the program itself is the first.
///
/// # Errors
///
/// Cargo fails, or a crate names no licence.
pub(crate) fn of_program(target: &str) -> Result<Vec<Crate>, Box<dyn Error>> {
    let built = built(target)?;
    let metadata = cargo(&[
        "metadata",
        "--format-version=1",
        "--filter-platform",
        target,
    ])?;
    let Metadata { packages, resolve } = serde_json::from_str(&metadata)?;
    let packages: BTreeMap<String, Package> = packages
        .into_iter()
        .filter(|package| built.contains(&package.purl()))
        .map(|package| (package.id.clone(), package))
        .collect();
    let uses: BTreeMap<String, Vec<Link>> = resolve
        .nodes
        .into_iter()
        .map(|node| (node.id, node.deps))
        .collect();
    let checksums = checksums()?;

    let mut crates = Vec::new();
    for (id, package) in &packages {
        let license = package.license.as_deref();
        let license = license.ok_or_else(|| format!("{id} names no licence"))?;
        let links = uses.get(id).into_iter().flatten();
        let links = links.filter(|link| link.is_normal());
        crates.push(Crate {
            name: package.name.clone(),
            version: package.version.clone(),
            // As crates wrote it before there were expressions.
            license: license.replace('/', " OR "),
            authors: package.authors.clone(),
            repository: package.repository.clone(),
            directory: package.manifest_path.with_file_name(""),
            checksum: checksums.get(&package.purl()).cloned(),
            uses: links
                .filter_map(|link| Some(packages.get(&link.pkg)?.purl()))
                .collect(),
        });
    }
    crates.sort_by_key(|package| (package.checksum.is_some(), package.purl()));
    Ok(crates)
}

/// Returns what is built for the program, by [`Crate::purl`]. `cargo metadata` would add what crates use
/// in the tests alone.
fn built(target: &str) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let list = ["tree", "--edges=normal", "--prefix=none", "--format={p}"];
    let list = cargo(&[list.as_slice(), &["--target", target]].concat())?;
    Ok(list
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(" v")?;
            Some(purl(name, rest.split(' ').next()?))
        })
        .collect())
}

fn cargo(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .arg("--locked")
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns the checksums of Cargo.lock, by [`Crate::purl`].
fn checksums() -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(&fs::read_to_string("Cargo.lock")?)?;
    let locked = lock.package.into_iter();
    Ok(locked
        .filter_map(|package| Some((purl(&package.name, &package.version), package.checksum?)))
        .collect())
}

/// What of `cargo metadata` is used.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    authors: Vec<String>,
    repository: Option<String>,
    manifest_path: PathBuf,
}

impl Package {
    fn purl(&self) -> String {
        purl(&self.name, &self.version)
    }
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Link>,
}

#[derive(Deserialize)]
struct Link {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None` is a normal one; else "dev" or "build".
    kind: Option<String>,
}

impl Link {
    /// Whether it is used by more than tests and build scripts.
    fn is_normal(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.is_none())
    }
}
