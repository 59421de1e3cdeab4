//! Warns when OpenH264 was built without its assembly, which happens in silence.

use std::env;
use std::process::{Command, Stdio};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PATH");
    println!("cargo:rerun-if-env-changed=OPENH264_NO_ASM");
    let target = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if target != "x86_64" && target != "x86" {
        return;
    }
    let nasm = Command::new("nasm")
        .arg("-v")
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success());
    if !nasm || env::var_os("OPENH264_NO_ASM").is_some() {
        println!(
            "cargo:warning=nasm was not found: the video encoder is built without its assembly \
             and takes twice the CPU. Install nasm, then run `cargo clean -p openh264-sys2 -p \
             roomcam` and build again"
        );
    }
}
