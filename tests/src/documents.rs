//! Settings and commands out of the documents, so that what they show is what is tested.

use std::path::Path;

/// Returns the fenced block that follows `<!-- test: name -->` in a file of the workspace.
///
/// # Panics
/// Where there is no such block, or more than one.
#[must_use]
pub fn block(file: &str, name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {file}: {error}"));
    let marker = format!("<!-- test: {name} -->");
    let parts: Vec<_> = text.split(&marker).collect();
    let [_, after] = &parts[..] else {
        panic!("{file} has {} blocks {marker}", parts.len() - 1);
    };
    let mut lines = after.trim_start().lines();
    let opening = lines.next().unwrap_or_default();
    assert!(
        opening.starts_with("```"),
        "{file}: no block follows {marker}"
    );
    let inside: Vec<_> = lines.take_while(|line| !line.starts_with("```")).collect();
    assert!(!inside.is_empty(), "{file}: the block of {marker} is empty");
    inside.join("\n") + "\n"
}
