//! The status page: plain HTML that needs nothing from elsewhere.

use std::fmt::Write as _;

use serde_json::{Map, Value};

const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
<meta http-equiv=\"refresh\" content=\"5\">\n\
<meta name=\"viewport\" content=\"width=device-width\">\n<title>Shoal</title>\n<style>\n\
:root { color-scheme: light dark; }\n\
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; }\n\
h2 { border-bottom: 1px solid #8888; font-size: 1.1em; margin-top: 2em; }\n\
table { border-collapse: collapse; }\n\
th { font-weight: normal; opacity: .7; padding-right: 2em; text-align: left; vertical-align: top; }\n\
td { font-variant-numeric: tabular-nums; }\n</style>\n</head>\n<body>\n";

/// Returns the page of a status, as [`crate::up::status`] has it.
pub(crate) fn render(status: &Value) -> String {
    let mut page = HEAD.to_owned();
    let _ = writeln!(
        page,
        "<h1>Shoal {}</h1>",
        escape(&text_of(&status["version"]))
    );
    page.push_str("<p>The same as JSON: <a href=\"/status.json\">/status.json</a></p>\n");
    table(&mut page, "Addresses", &status["addresses"]);
    for (name, part) in status["parts"].as_object().unwrap_or(&Map::new()) {
        table(&mut page, name, part);
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn table(page: &mut String, title: &str, value: &Value) {
    let _ = writeln!(page, "<h2>{}</h2>\n<table>", escape(title));
    let mut rows = Vec::new();
    flatten(value, String::new(), &mut rows);
    for (key, value) in rows {
        let (key, value) = (escape(&key), escape(&value));
        let _ = writeln!(page, "<tr><th>{key}</th><td>{value}</td></tr>");
    }
    page.push_str("</table>\n");
}

/// Turns nested values into rows whose keys say where they were.
fn flatten(value: &Value, path: String, rows: &mut Vec<(String, String)>) {
    let joined = |key: &str| {
        let key = key.replace('_', " ");
        if path.is_empty() {
            key
        } else {
            format!("{path}, {key}")
        }
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(value, joined(key), rows);
            }
        }
        Value::Array(list)
            if list
                .iter()
                .any(|value| value.is_object() || value.is_array()) =>
        {
            for (index, value) in list.iter().enumerate() {
                flatten(value, joined(&(index + 1).to_string()), rows);
            }
        }
        Value::Array(list) => {
            let texts: Vec<_> = list.iter().map(text_of).collect();
            rows.push((path, texts.join(" ")));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            rows.push((path, text_of(value)));
        }
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_is_shown_and_nothing_is_markup() {
        let page = render(&json!({
            "version": "1",
            "addresses": {"proxy": "127.0.0.1:1"},
            "parts": {"agent-1": {"blobs": [{"name": "<b>"}], "peers": {"open": 3}, "up": [1, 2]}},
        }));
        for row in [
            "<tr><th>proxy</th><td>127.0.0.1:1</td></tr>",
            "<tr><th>blobs, 1, name</th><td>&lt;b&gt;</td></tr>",
            "<tr><th>peers, open</th><td>3</td></tr>",
            "<tr><th>up</th><td>1 2</td></tr>",
        ] {
            assert!(page.contains(row), "{row}: {page}");
        }
        assert!(!page.contains("<b>"));
    }
}
