//! A plan of what the cleared bundle says and what the vendor has decided, kept in a file from plan to plan.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use lightbox_models::draft::UNDECIDED;
use toml::{Table, Value};

use super::read_text;

/// The plan's tables in their order, and what each is.
const SECTIONS: [(&str, &str); 14] = [
    ("plan", "Which plan, for which model and devices."),
    ("locked", "What no update may change, as the cleared bundle has it."),
    ("baseline", "The cleared bundle: what may be installed where nothing is."),
    ("allowed", "Description of modifications: what may change, and how far."),
    ("criterion", "Modification protocol: what must be shown on every box."),
    ("subgroup", "Floors that no group may fall below."),
    ("equivalence", "How near an accelerated engine must be to the 32-bit CPU."),
    ("evidence", "What must come along."),
    ("impact", "Impact assessment: benefits, risks, mitigations."),
    ("labelling", "Labelling."),
    ("rollback", "Going back."),
    ("monitor", "When the box itself acts on an active model."),
    ("site", "What a site owes before an update becomes active."),
    ("accompanying", ""),
];

/// What names an acceptance set.
const SET_KEY: &str = "set_sha256";

/// What only the cleared bundle says.
const NOT_TO_DECIDE: [&str; 3] = ["schema", "locked", "baseline"];

/// A draft's text with the decisions of a file in it. Tables are merged key by key; an array of tables is taken whole.
pub fn merged(draft: &str, path: &Path) -> anyhow::Result<String> {
    let text = read_text(path)?;
    let given: Table =
        text.parse().map_err(|error: toml::de::Error| anyhow!("{}: {error}", path.display()))?;
    let mut table: Table = draft.parse().context("the draft is not TOML")?;
    for (key, value) in given {
        if NOT_TO_DECIDE.contains(&key.as_str()) || SECTIONS.iter().all(|(known, _)| *known != key) {
            let decidable: Vec<&str> = SECTIONS
                .iter()
                .map(|(known, _)| *known)
                .filter(|known| !NOT_TO_DECIDE.contains(known))
                .collect();
            bail!(
                "{}: {key}: not for you to decide, or not a key of a plan; remedy: give tables among {}",
                path.display(),
                decidable.join(", ")
            );
        }
        match (table.get_mut(&key), value) {
            (Some(Value::Table(known)), Value::Table(given)) => known.extend(given),
            (_, value) => drop(table.insert(key, value)),
        }
    }
    // `with_set` finds what is open by its mark.
    for criterion in table.get_mut("criterion").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(criterion) = criterion.as_table_mut() {
            criterion
                .entry(SET_KEY)
                .or_insert_with(|| Value::String(format!("{UNDECIDED}: the acceptance set's digest")));
        }
    }
    Ok(written(&table))
}

/// The text with the digest of an acceptance set in place of every one that is not decided.
pub fn with_set(text: &str, digest: &str) -> String {
    let open = format!("{SET_KEY} = \"{UNDECIDED}");
    let line = |line: &str| match line.starts_with(&open) {
        true => format!("{SET_KEY} = \"{digest}\"\n"),
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn written(table: &Table) -> String {
    let mut text = String::from(
        "# A change-control plan (PCCP); models/README.md says what each key means.\n\
         # What begins with DECIDE is for you to decide: `lightbox plan check` says what is left.\n\
         schema = 1\n",
    );
    if let Some(accompanying) = table.get("accompanying") {
        text += &format!(
            "# What may change along with an allowed modification.\naccompanying = {accompanying}\n"
        );
    }
    for (name, teach) in SECTIONS.iter().filter(|(name, _)| *name != "accompanying") {
        match table.get(*name) {
            Some(Value::Array(entries)) => {
                text += &format!("\n# {teach}\n");
                let entries: Vec<String> =
                    entries.iter().map(|entry| format!("[[{name}]]\n{}", lines(entry))).collect();
                text += &entries.join("\n");
            }
            Some(section) => text += &format!("\n# {teach}\n[{name}]\n{}", lines(section)),
            None => {}
        }
    }
    text
}

/// What names an entry stands first.
fn lines(section: &Value) -> String {
    let mut keys: Vec<(&String, &Value)> = section.as_table().into_iter().flatten().collect();
    keys.sort_by_key(|(key, _)| (!["id", "criterion"].contains(&key.as_str()), key.to_string()));
    keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAFT: &str = "schema = 1\naccompanying = [\"card\"]\n[plan]\nid = \"DECIDE: it\"\nmodel = \"m\"\n[baseline]\ndigests = [\"d\"]\n[[criterion]]\nid = \"C1\"\nset_sha256 = \"DECIDE\"\n[[monitor]]\nid = \"x\"\n";

    #[test]
    fn decisions_are_merged_and_the_set_fills_what_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.toml");
        let decisions = "[plan]\nid = \"P\"\n[[criterion]]\nid = \"A\"\ninterval = { level = 0.95 }\n[[criterion]]\nid = \"B\"\nset_sha256 = \"kept\"\n";
        std::fs::write(&path, decisions).unwrap();
        let text = with_set(&merged(DRAFT, &path).unwrap(), "digest");
        let table: Table = text.parse().unwrap();
        assert_eq!(table["plan"]["id"].as_str(), Some("P"));
        assert_eq!(table["plan"]["model"].as_str(), Some("m"), "what the bundle says stays");
        let sets: Vec<_> =
            table["criterion"].as_array().unwrap().iter().map(|one| one["set_sha256"].as_str()).collect();
        assert_eq!(sets, [Some("digest"), Some("kept")]);
        assert_eq!(table["monitor"].as_array().unwrap().len(), 1);
        assert!(table["criterion"][0]["interval"]["level"].as_float() == Some(0.95), "{text}");
        for wrong in ["[baseline]\ndigests = []\n", "[plam]\n", "schema = 1\n"] {
            std::fs::write(&path, wrong).unwrap();
            let refused = merged(DRAFT, &path).unwrap_err().to_string();
            assert!(refused.contains("remedy: give tables among plan, allowed"), "{refused}");
        }
    }
}
