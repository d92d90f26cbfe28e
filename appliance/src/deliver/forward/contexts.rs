//! Which presentation contexts a forward proposes, and which instances share an association.

use std::collections::{BTreeMap, BTreeSet};

use dicom_encoding::TransferSyntaxIndex;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use crate::dicom::services::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};
use crate::store::forwards::{Instance, Item};

/// Presentation contexts that an association has room for (PS3.8 §9.3.2.2: odd numbers of a byte).
const CONTEXTS_MAX: usize = 128;

type Kinds<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// How many of the first items fit into one association. A class takes a context for each of its
/// transfer syntaxes, and two for the uncompressed ones.
pub fn first_batch(items: &[Item]) -> usize {
    let mut kinds = Kinds::new();
    for (index, item) in items.iter().enumerate() {
        let Some(instance) = &item.instance else { continue };
        let syntaxes = kinds
            .entry(&instance.sop_class_uid)
            .or_insert_with(|| BTreeSet::from([EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]));
        syntaxes.insert(&instance.transfer_syntax);
        if kinds.values().map(BTreeSet::len).sum::<usize>() > CONTEXTS_MAX {
            return index;
        }
    }
    items.len()
}

/// The contexts for these items: one for each class and transfer syntax, so that the peer cannot
/// choose among them. The uncompressed ones are proposed in any case: PS3.5 §10.1 wants the default
/// one offered, and the answer says what a peer would take that refuses the others.
pub fn proposal(items: &[Item]) -> Vec<(String, Vec<String>)> {
    let mut kinds = Kinds::new();
    for instance in items.iter().filter_map(|item| item.instance.as_ref()) {
        kinds
            .entry(&instance.sop_class_uid)
            .or_insert_with(|| BTreeSet::from([EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]))
            .insert(&instance.transfer_syntax);
    }
    let pairs = kinds.iter().flat_map(|(class, syntaxes)| syntaxes.iter().map(move |syntax| (class, syntax)));
    pairs.map(|(class, syntax)| ((*class).to_owned(), vec![(*syntax).to_owned()])).collect()
}

/// A transfer syntax with its name, where it has one here.
pub fn named(transfer_syntax: &str) -> String {
    match TransferSyntaxRegistry.get(transfer_syntax) {
        Some(syntax) => format!("{} ({transfer_syntax})", syntax.name()),
        None => transfer_syntax.to_owned(),
    }
}

/// Why the peer does not get an instance, and what to do about it. `takes` are the transfer syntaxes
/// that it accepted for the class.
pub fn refusal(destination: &str, instance: &Instance, why: Option<&str>, takes: &[&str]) -> String {
    let class = &instance.sop_class_uid;
    if takes.is_empty() {
        let why = why.unwrap_or("no answer to the context");
        return format!(
            "the peer does not accept SOP class {class}: {why}; remedy: let the peer accept it, or take it out of the rule"
        );
    }
    let takes: Vec<String> = takes.iter().map(|syntax| named(syntax)).collect();
    format!(
        "the peer does not accept SOP class {class} in {}, of this class it takes: {}; remedy: let the peer accept it, or set `transcode` of destination \"{destination}\"",
        named(&instance.transfer_syntax),
        takes.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phi::Phi;
    use crate::store::objects::ObjectId;

    fn item(id: i64, class: &str, syntax: &str) -> Item {
        let object = ObjectId::parse(&format!("abcdefghijkm/{id:064x}")).expect("a name");
        let instance = Instance {
            object,
            sop_class_uid: class.into(),
            sop_instance_uid: Phi::from("1.2"),
            transfer_syntax: syntax.into(),
        };
        Item { id, forward: 1, instance: Some(instance) }
    }

    #[test]
    fn each_pair_has_a_context_of_its_own_and_more_than_128_are_several_associations() {
        let syntaxes = ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1"];
        let items: Vec<Item> = (0..100)
            .map(|index| item(index, &format!("1.2.{}", index / 2), syntaxes[index as usize % 2]))
            .collect();
        let first = first_batch(&items);
        // 42 classes of 3 contexts each are 126; the next one, uncompressed or not, would be too much.
        assert_eq!(first, 84);
        let proposed = proposal(&items[..first]);
        assert_eq!(proposed.len(), 126);
        assert!(proposed.iter().all(|(_, syntaxes)| syntaxes.len() == 1));
        assert_eq!(first_batch(&items[first..]), 16);
    }

    #[test]
    fn a_refusal_names_class_syntaxes_and_the_key() {
        let one = item(1, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.4.90");
        let instance = one.instance.expect("there");
        let text = refusal("archive", &instance, None, &[EXPLICIT_VR_LITTLE_ENDIAN]);
        for wanted in [
            "1.2.840.10008.5.1.4.1.1.2",
            "1.2.840.10008.1.2.4.90",
            "Explicit VR Little Endian",
            "`transcode`",
            "archive",
        ] {
            assert!(text.contains(wanted), "{text}");
        }
        let text = refusal("archive", &instance, Some("abstract syntax not supported (3)"), &[]);
        assert!(text.contains("abstract syntax not supported"), "{text}");
    }
}
