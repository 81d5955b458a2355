//! What the emulator tells of files, as XML.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::auth::{Action, Refusal};
use super::files::{Files, Object};

/// Most entries of an answer, whatever is asked for.
const ENTRIES_MAX: usize = 50;

/// A line of a listing.
enum Line<'f> {
    File(&'f Object),
    /// Whether nobody made it.
    Folder {
        implicit: bool,
    },
}

/// A value in quotes, without what XML cannot hold.
fn attribute(name: &str, value: &str) -> String {
    if value.chars().any(|c| c < ' ' && !matches!(c, '\t' | '\n' | '\r')) {
        return format!("{name}_base64=\"{}\"", STANDARD.encode(value));
    }
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' | '<' | '>' | '"' | '\'' | '\t' | '\n' | '\r' => {
                let _ = write!(text, "&#{};", u32::from(c));
            }
            c => text.push(c),
        }
    }
    format!("{name}=\"{text}\"")
}

fn entry(name: &str, line: &Line<'_>) -> String {
    let name = attribute("name", name);
    match line {
        Line::File(object) => {
            format!("<file type=\"file\" {name} size=\"{}\" md5=\"{}\" mtime=\"{}\"/>\n", object.size, object.md5, object.mtime_s)
        }
        Line::Folder { implicit: true } => format!("<file type=\"dir\" {name} implicit=\"true\"/>\n"),
        Line::Folder { implicit: false } => format!("<file type=\"dir\" {name} mtime=\"0\"/>\n"),
    }
}

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

fn not_found() -> Refusal {
    Refusal(404, "not found".to_owned())
}

/// Of one name.
pub(super) fn stat(files: &Files, path: &str, action: &Action) -> Result<String, Refusal> {
    let path = path.trim_end_matches('/');
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut entries = String::new();
    if let Some(object) = files.object(path) {
        entries += &entry(name, &Line::File(object));
    }
    let is_made = files.folders.contains(path);
    let is_wanted = entries.is_empty() || action.get("slash") == Some("both");
    if is_wanted && (is_made || (action.get("implicit") == Some("yes") && files.is_folder(path))) {
        entries += &entry(name, &Line::Folder { implicit: !is_made });
    }
    if entries.is_empty() {
        return Err(not_found());
    }
    Ok(format!("{HEAD}<stat {}>\n{entries}</stat>\n", attribute("directory", &format!("/{folder}"))))
}

/// How many entries an answer may have.
fn most(action: &Action) -> Result<usize, Refusal> {
    Ok(action.number::<usize>("max_entries")?.unwrap_or(ENTRIES_MAX).clamp(1, ENTRIES_MAX))
}

/// Of what is directly in a directory.
pub(super) fn dir(files: &Files, path: &str, action: &Action) -> Result<String, Refusal> {
    let path = path.trim_end_matches('/');
    if !files.is_folder(path) {
        return Err(if files.object(path).is_some() { Refusal(412, "it is a file".to_owned()) } else { not_found() });
    }
    let below = format!("{path}/");
    let names = |name: &str| name.strip_prefix(&below).map(str::to_owned);
    let mut lines: Vec<(String, Line<'_>)> = Vec::new();
    for (name, object) in files.objects.range(below.clone()..).map_while(|(path, object)| Some((names(path)?, object))) {
        match name.split_once('/') {
            None => lines.push((name, Line::File(object))),
            Some((folder, _)) => {
                lines.push((folder.to_owned(), Line::Folder { implicit: !files.folders.contains(&format!("{below}{folder}")) }));
            }
        }
    }
    for name in files.folders.range(below.clone()..).map_while(|path| names(path)) {
        let folder = name.split('/').next().unwrap_or_default().to_owned();
        lines.push((folder.clone(), Line::Folder { implicit: !files.folders.contains(&format!("{below}{folder}")) }));
    }
    lines.sort_by(|(one, line), (other, other_line)| {
        (one, matches!(line, Line::Folder { .. })).cmp(&(other, matches!(other_line, Line::Folder { .. })))
    });
    lines.dedup_by(|(one, line), (other, before)| one == other && matches!((line, before), (Line::Folder { .. }, Line::Folder { .. })));
    let (start, prefix) = (action.get("start").unwrap_or_default(), action.get("prefix").unwrap_or_default());
    let lines = lines.iter().filter(|(name, _)| name.as_str() >= start && name.starts_with(prefix));
    let (mut text, most) = (format!("{HEAD}<stat {}>\n", attribute("directory", &format!("/{path}"))), most(action)?);
    for (at, (name, line)) in lines.enumerate() {
        if at == most {
            let _ = writeln!(text, "<resume {}/>", attribute("start", name));
            break;
        }
        text += &entry(name, line);
    }
    Ok(text + "</stat>\n")
}

/// Of all objects and directories that were made, from a path on that must be there.
pub(super) fn list(files: &Files, path: &str, action: &Action) -> Result<String, Refusal> {
    let bare = path.trim_end_matches('/');
    let mut lines: Vec<(String, Line<'_>)> =
        files.objects.range(path.to_owned()..).map(|(path, object)| (path.clone(), Line::File(object))).collect();
    let made = files.folders.iter().map(|path| format!("{path}/")).filter(|folder| folder.as_str() >= path);
    lines.extend(made.map(|folder| (folder, Line::Folder { implicit: false })));
    lines.sort_by(|(one, _), (other, _)| one.cmp(other));
    let is_there = files.object(path).is_some() || files.is_folder(bare);
    let end = action.get("end").map(|end| end.trim_start_matches('/').to_owned());
    lines.retain(|(path, _)| end.as_ref().is_none_or(|end| path <= end));
    if !is_there || lines.is_empty() {
        return Err(not_found());
    }
    let (mut text, most) = (format!("{HEAD}<list>\n"), most(action)?);
    for (at, (path, line)) in lines.iter().enumerate() {
        if at == most {
            let _ = writeln!(text, "<resume {}/>", attribute("start", &format!("/{path}")));
            break;
        }
        text += &entry(path, line);
    }
    Ok(text + "</list>\n")
}
