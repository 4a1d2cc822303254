//! `shoal status` and `shoal healthcheck`: clients of a role's admin port.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::cli::{Healthcheck, Status};
use crate::output;

/// How long an admin port may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Prints what the role reports of itself.
///
/// # Errors
/// Nobody answers at that address, or it is no admin port.
pub(crate) async fn show(flags: Status) -> anyhow::Result<()> {
    let (status, body) = get(&flags.admin, "/status").await?;
    if status == 503 {
        bail!("{} cannot tell yet: {}", flags.admin, body.trim());
    }
    if status != 200 {
        bail!(
            "{} answered {status} for /status; is that an admin address?",
            flags.admin
        );
    }
    let value: Value = serde_json::from_str(&body).with_context(|| {
        format!(
            "{} answered no JSON; is that an admin address?",
            flags.admin
        )
    })?;
    if flags.json {
        return output::line(serde_json::to_string_pretty(&value)?);
    }
    let mut text = String::new();
    render(&value, 0, &mut text);
    output::line(text.trim_end())
}

/// Asks the role whether it is ready.
///
/// # Errors
/// It is not, or does not answer.
pub(crate) async fn healthcheck(flags: &Healthcheck) -> anyhow::Result<()> {
    let (status, body) = get(&flags.admin, "/readyz").await?;
    if status != 200 {
        bail!("{} is not ready: {}", flags.admin, body.trim());
    }
    output::line("ready")
}

async fn get(admin: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let base = if admin.contains("://") {
        admin.trim_end_matches('/').to_owned()
    } else {
        format!("http://{admin}")
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?;
    let response = client
        .get(format!("{base}{path}"))
        .send()
        .await
        .map_err(output::root_cause)
        .with_context(|| {
            format!("{admin} does not answer; start the role, or name its admin address")
        })?;
    let status = response.status().as_u16();
    Ok((status, response.text().await?))
}

/// Writes a JSON value as indented `key: value` lines.
fn render(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let lines: Vec<(String, &Value)> = match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (format!("{key}:"), value))
            .collect(),
        Value::Array(list) => list.iter().map(|value| ("-".to_owned(), value)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let _ = writeln!(out, "{indent}{}", scalar(value));
            return;
        }
    };
    for (label, value) in lines {
        match value {
            Value::Object(map) if !map.is_empty() => {
                let _ = writeln!(out, "{indent}{label}");
                render(value, depth + 1, out);
            }
            Value::Array(list) if !list.is_empty() => {
                let _ = writeln!(out, "{indent}{label}");
                render(value, depth + 1, out);
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => {
                let _ = writeln!(out, "{indent}{label} {}", scalar(value));
            }
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(_) | Value::Object(_) => "none".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_indented() {
        let value = serde_json::json!({"a": 1, "b": {"c": [true, "x"], "d": []}, "e": null});
        let mut text = String::new();
        render(&value, 0, &mut text);
        assert_eq!(
            text,
            "a: 1\nb:\n  c:\n    - true\n    - x\n  d: none\ne: -\n"
        );
    }
}
