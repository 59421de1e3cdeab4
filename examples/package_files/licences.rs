//! Crates → the text that goes with the program: what it is built of, and under which licences.
//!
//! MIT, BSD and ISC ask that their notice and text go with every copy. The texts are those of the
//! crates' own files, each once, whichever of several licences is chosen. A crate without a text ends
//! the build, unless another one's text is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::crates::Crate;

/// How the names of files with a licence begin, in lower case; beside those in `LICENSES`.
const NAMES: [&str; 6] = [
    "license",
    "licence",
    "copying",
    "copyright",
    "notice",
    "unlicense",
];

/// Crates without a text, and whose it is; beside those that name the same repository.
const SHARED: [(&str, &str); 2] = [
    // The same licence, word for word, for the encoder and for its bindings.
    ("openh264", "openh264-sys2"),
    // Of one author and one project.
    ("v4l2-sys-mit", "v4l"),
];

const RULE: &str =
    "\n------------------------------------------------------------------------------\n";

/// Returns the text for all crates but the first, which is the program itself.
///
/// # Errors
///
/// Names the crates without a text.
pub(crate) fn document(crates: &[Crate]) -> Result<String, Box<dyn Error>> {
    let parts = crates.get(1..).unwrap_or_default();
    let mut texts: BTreeMap<String, (String, BTreeSet<&str>)> = BTreeMap::new();
    for part in parts {
        for text in texts_in(&part.directory)? {
            let words: Vec<&str> = text.split_whitespace().collect();
            let (_, crates) = texts
                .entry(words.join(" "))
                .or_insert_with(|| (text.clone(), BTreeSet::new()));
            crates.insert(&part.name);
        }
    }
    let with_text: BTreeSet<&str> = texts
        .values()
        .flat_map(|(_, crates)| crates)
        .copied()
        .collect();
    let sharing = |part: &Crate| -> Option<&str> {
        let named = SHARED.iter().find(|(name, _)| *name == part.name);
        let other = |other: &&Crate| match named {
            Some((_, whose)) => other.name == *whose,
            None => other.repository.is_some() && other.repository == part.repository,
        };
        let mut others = parts
            .iter()
            .filter(|part| with_text.contains(part.name.as_str()));
        Some(others.find(other)?.name.as_str())
    };

    let mut document = String::from(
        "roomcam is built of these crates, whose source is at https://crates.io. Their licences follow,\n\
         each with the names of those it is for. Rust's standard library, copyright of the Rust Project's\n\
         contributors, is in it as well: MIT OR Apache-2.0, the same texts.\n\n",
    );
    let mut without = Vec::new();
    for part in parts {
        write!(document, "{} {}: {}", part.name, part.version, part.license)?;
        if !with_text.contains(part.name.as_str()) {
            match sharing(part) {
                Some(whose) => write!(document, ", {}, as {whose}", part.authors.join(", "))?,
                None => without.push(format!("{} ({})", part.name, part.directory.display())),
            }
        }
        document.push('\n');
    }
    if !without.is_empty() {
        return Err(format!("no text of a licence was found for {}", without.join(", ")).into());
    }
    let mut texts: Vec<_> = texts.into_values().collect();
    texts.sort_by(|(_, a), (_, b)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    for (text, crates) in texts {
        let crates: Vec<&str> = crates.into_iter().collect();
        write!(
            document,
            "{RULE}{}\n\n{}\n",
            crates.join(", "),
            text.trim_end()
        )?;
    }
    Ok(document)
}

/// Returns the texts of the licences in a crate's source: its own, and those of what it contains.
fn texts_in(directory: &Path) -> io::Result<Vec<String>> {
    let is_named = |name: &str| NAMES.iter().any(|begin| name.starts_with(begin));
    let all = directory.file_name().is_some_and(|name| name == "LICENSES");
    let mut texts = Vec::new();
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let is_text = path
            .extension()
            .is_none_or(|end| end != "rs" && end != "html");
        if entry.file_type()?.is_dir() {
            texts.extend(texts_in(&path)?);
        } else if is_text && (all || is_named(&name)) {
            texts.push(String::from_utf8_lossy(&fs::read(&path)?).replace("\r\n", "\n"));
        }
    }
    Ok(texts)
}
