//! Crates → a software bill of materials: CycloneDX 1.5, JSON
//! (<https://cyclonedx.org/docs/1.5/json/>).
//!
//! The crates, what of others they contain, and which uses which. It has no date and no serial number:
//! it is the same wherever it is made.

use std::error::Error;
use std::fs;

use serde_json::{Value, json};

use crate::crates::Crate;

/// Returns the bill of a program, which is the first of the crates.
///
/// # Errors
///
/// A crate does not contain what it did.
pub(crate) fn of_materials(crates: &[Crate], target: &str) -> Result<String, Box<dyn Error>> {
    let [program, parts @ ..] = crates else {
        return Err("a program is made of crates".into());
    };
    let mut components = Vec::new();
    for part in parts {
        let mut component = component("library", part);
        let contained = contained(part)?;
        if let (Some(component), false) = (component.as_object_mut(), contained.is_empty()) {
            component.insert("components".to_owned(), contained.into());
        }
        components.push(component);
    }
    let mut program_itself = component("application", program);
    if let Some(object) = program_itself.as_object_mut() {
        object.insert(
            "properties".to_owned(),
            json!([{ "name": "cargo:target", "value": target }]),
        );
    }
    let dependencies: Vec<Value> = crates
        .iter()
        .map(|part| json!({ "ref": part.purl(), "dependsOn": part.uses }))
        .collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": program_itself },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

fn component(kind: &str, part: &Crate) -> Value {
    let hashes: Vec<Value> = part
        .checksum
        .iter()
        .map(|checksum| json!({ "alg": "SHA-256", "content": checksum }))
        .collect();
    json!({
        "type": kind,
        "bom-ref": part.purl(),
        "name": part.name,
        "version": part.version,
        "purl": part.purl(),
        "licenses": [{ "expression": part.license }],
        "hashes": hashes,
    })
}

/// Returns the codecs, which come in crates with versions of their own.
fn contained(part: &Crate) -> Result<Vec<Value>, Box<dyn Error>> {
    let read = |path: &str| fs::read_to_string(part.directory.join(path));
    let (name, version) = match part.name.as_str() {
        "openh264-sys2" => {
            let header = read("upstream/codec/api/wels/codec_ver.h")?;
            let numbers = ["MAJOR", "MINOR", "REVISION"]
                .map(|name| between(&header, &format!("#define OPENH264_{name} ("), ")"));
            (
                "cisco/openh264",
                numbers.into_iter().collect::<Option<Vec<_>>>(),
            )
        }
        "opusic-sys" => {
            let file = read("opus/package_version")?;
            let version = between(&file, "PACKAGE_VERSION=\"", "\"");
            ("xiph/opus", version.map(|version| vec![version]))
        }
        _ => return Ok(Vec::new()),
    };
    let version = version.ok_or_else(|| format!("which {name} is in {}?", part.name))?;
    let version = version.join(".");
    let purl = format!("pkg:github/{name}@v{version}");
    Ok(vec![json!({
        "type": "library",
        "bom-ref": purl,
        "name": name.split('/').next_back(),
        "version": version,
        "purl": purl,
    })])
}

fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0.to_owned())
}
