//! Compiles `src/steer.bpf.c` with clang, after writing the header with the constants of `src/layout.rs`.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

#[path = "src/layout.rs"]
#[allow(dead_code, unreachable_pub, reason = "the build script needs the constants, not the functions, and exports nothing")]
mod layout;

const SOURCE: &str = "src/steer.bpf.c";
const INSTALL: &str = "apt-get install clang llvm libelf-dev linux-libc-dev";

fn main() {
    for path in [SOURCE, "src/layout.rs", "build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("OUT_DIR is not set: run this through cargo")));
    if let Err(error) = fs::write(out.join("steer_layout.h"), header()) {
        fail(&format!("cannot write {}: {error}", out.join("steer_layout.h").display()));
    }
    compile(&out);
}

/// The constants of `layout.rs` as C macros.
fn header() -> String {
    let mut text = String::from("// Written by build.rs from src/layout.rs.\n#pragma once\n");
    let numbers = [
        ("TW_WIRE_VERSION", u32::from(layout::WIRE_VERSION)),
        ("TW_KIND_MIN", u32::from(layout::KIND_MIN)),
        ("TW_KIND_MAX", u32::from(layout::KIND_MAX)),
        ("TW_LANE_ID_OFFSET", layout::LANE_ID_OFFSET as u32),
        ("TW_PAYLOAD_BYTES_MIN", layout::PAYLOAD_BYTES_MIN as u32),
        ("TW_LANES_MAX", layout::LANES_MAX),
        ("TW_PORTS_MAX", layout::PORTS_MAX),
        ("TW_QUEUES_MAX", layout::QUEUES_MAX),
        ("TW_SOCKET_ROWS", layout::SOCKET_ROWS),
        ("TW_SOCKETS_MAX", layout::SOCKETS_MAX),
        ("TW_ROW_ANY", layout::ROW_ANY),
        ("TW_ROW_BITS", layout::ROW_BITS),
        ("TW_VERDICTS", layout::Verdict::ALL.len() as u32),
        // No verdict yet: one past the last.
        ("TW_CONTINUE", layout::Verdict::ALL.len() as u32),
    ];
    for (name, value) in numbers {
        let _ = writeln!(text, "#define {name} {value}u");
    }
    let names = [
        ("TW_MAP_LANES", layout::MAP_LANES),
        ("TW_MAP_PORTS", layout::MAP_PORTS),
        ("TW_MAP_SOCKETS", layout::MAP_SOCKETS),
        ("TW_MAP_COUNTERS", layout::MAP_COUNTERS),
        ("TW_PROGRAM", layout::PROGRAM),
        ("TW_PROGRAM_FRAGS", layout::PROGRAM_FRAGS),
    ];
    for (name, value) in names {
        let _ = writeln!(text, "#define {name} {value}");
    }
    for (verdict, name) in layout::Verdict::ALL {
        let _ = writeln!(text, "#define TW_VERDICT_{} {}u", name.to_uppercase(), verdict as u32);
    }
    text
}

fn compile(out: &Path) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN").unwrap_or_default();
    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fno-stack-protector", "-mcpu=v3"]);
    command.arg(if endian == "big" { "--target=bpfeb" } else { "--target=bpfel" });
    if let Some(include) = asm_headers() {
        command.arg("-I").arg(include);
    }
    command.arg("-I").arg(out).arg("-c").arg(SOURCE).arg("-o").arg(out.join("steer.bpf.o"));
    match command.output() {
        Err(error) => fail(&format!(
            "cannot run `{clang}` ({error}). It compiles the eBPF steering program. Install it with `{INSTALL}` (Debian, Ubuntu), \
             or name another clang (11 or newer) in the environment variable CLANG"
        )),
        Ok(output) if !output.status.success() => fail(&format!(
            "`{clang}` could not compile ebpf/{SOURCE}. If a header is missing: `{INSTALL}`.\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Ok(_) => {}
    }
}

/// The folder that holds `asm/types.h`, which Debian keeps by architecture and which clang does not search for the BPF target.
fn asm_headers() -> Option<PathBuf> {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let preferred = PathBuf::from(format!("/usr/include/{architecture}-linux-gnu"));
    if preferred.join("asm/types.h").exists() {
        return Some(preferred);
    }
    if Path::new("/usr/include/asm/types.h").exists() {
        return None;
    }
    let entries = fs::read_dir("/usr/include").ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| path.join("asm/types.h").exists())
}

fn fail(message: &str) -> ! {
    eprintln!("tradewind-ebpf: {message}");
    exit(1);
}
