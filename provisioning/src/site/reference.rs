//! The site file's reference, made from the doc comments of its types, so that it cannot differ
//! from what the parser accepts.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::SiteFile;

/// The reference as Markdown: every table, key, type, default and meaning.
pub fn reference_markdown() -> String {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<SiteFile>();
    let root = schema.as_value();
    let definitions = root.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut out = String::from(
        "# The site file\n\nGenerated from the source by `lightbox site reference`; a test keeps it true.\n\n",
    );
    let _ = writeln!(out, "{}\n", text(root.get("description")));
    if let Some(properties) = root.get("properties").and_then(Value::as_object) {
        let required = required(root);
        for (name, property) in properties {
            section(&mut out, name, property, required.contains(&name.as_str()), &definitions);
        }
    }
    out
}

fn required(schema: &Value) -> Vec<&str> {
    schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// Doc comments are wrapped in the source; the reference is not.
fn text(description: Option<&Value>) -> String {
    description
        .and_then(Value::as_str)
        .unwrap_or_default()
        .split("\n\n")
        .map(|paragraph| paragraph.replace('\n', " "))
        .collect::<Vec<_>>()
        .join("\n\n")
        .replace("SAN|", "SAN/")
}

fn target<'a>(property: &'a Value, definitions: &'a Map<String, Value>) -> Option<(&'a str, &'a Value)> {
    let name = property.get("$ref").and_then(Value::as_str)?.rsplit('/').next()?;
    definitions.get(name).map(|definition| (name, definition))
}

fn section(out: &mut String, name: &str, property: &Value, required: bool, definitions: &Map<String, Value>) {
    let item = property.get("items").unwrap_or(property);
    let Some((_, definition)) = target(item, definitions) else { return };
    let many = property.get("items").is_some();
    let heading = if many { format!("[[{name}]]") } else { format!("[{name}]") };
    let _ = writeln!(
        out,
        "## `{heading}`\n\n{}{}\n",
        text(property.get("description")),
        if many {
            " May be given any number of times."
        } else if required {
            " Required."
        } else {
            ""
        },
    );
    table(out, "", definition, definitions);
}

fn table(out: &mut String, prefix: &str, definition: &Value, definitions: &Map<String, Value>) {
    let Some(properties) = definition.get("properties").and_then(Value::as_object) else { return };
    let _ = writeln!(out, "| key | form | default | meaning |\n|---|---|---|---|");
    let required = required(definition);
    let mut nested = Vec::new();
    for (key, property) in properties {
        let (form, inner) = form(property, definitions);
        let default = match property.get("default") {
            _ if required.contains(&key.as_str()) => "**required**".to_owned(),
            Some(Value::Null) | None => "–".to_owned(),
            Some(Value::Object(_)) => "–".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let meaning = text(property.get("description")).replace("\n\n", " ").replace('|', "\\|");
        let _ = writeln!(out, "| `{prefix}{key}` | {form} | {default} | {meaning} |");
        if let Some(inner) = inner {
            nested.push((format!("{prefix}{key}."), inner));
        }
    }
    let _ = writeln!(out);
    for (prefix, inner) in nested {
        let _ =
            writeln!(out, "### `{}`\n\n{}\n", prefix.trim_end_matches('.'), text(inner.get("description")));
        table(out, &prefix, inner, definitions);
    }
}

/// The form of a value in words, and the definition behind it when it is a table.
fn form<'a>(property: &'a Value, definitions: &'a Map<String, Value>) -> (String, Option<&'a Value>) {
    if let Some((name, definition)) = target(property, definitions) {
        if name == "OneOrMany" {
            return ("text or list of texts".into(), None);
        }
        if name == "Range" {
            return ("`{ min = …, max = … }`".into(), None);
        }
        if let Some(choices) = definition.get("oneOf").and_then(Value::as_array) {
            let words: Vec<_> = choices
                .iter()
                .filter_map(|choice| choice.get("const"))
                .map(|word| format!("`{word}`"))
                .collect();
            return (words.join(" or "), None);
        }
        return ("table".into(), Some(definition));
    }
    if let Some(options) = property.get("anyOf").and_then(Value::as_array)
        && let Some(option) = options.iter().find(|option| option.get("$ref").is_some())
    {
        return form(option, definitions);
    }
    let kind = match property.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        Some(Value::String(kind)) => Some(kind.as_str()),
        _ => None,
    };
    let words = match kind {
        Some("array") => {
            let (item, inner) = property.get("items").map(|item| form(item, definitions)).unwrap_or_default();
            return (format!("list of {item}"), inner);
        }
        Some("string") => "text",
        Some("integer") => "whole number",
        Some("number") => "number",
        Some("boolean") => "`true` or `false`",
        _ => "value",
    };
    (words.to_owned(), None)
}
