//! Content items: the nodes of a structured report's tree (PS3.3 §C.17.3).

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use crate::finding::{Code, InstanceRef};

/// Whole slide images are tiled: a region in one needs to say what its coordinates count from.
const VL_WHOLE_SLIDE: &str = "1.2.840.10008.5.1.4.1.1.77.1.6";

/// How an item relates to its parent (PS3.3 §C.17.3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relationship {
    Contains,
    HasConceptModifier,
    HasObservationContext,
    SelectedFrom,
}

impl Relationship {
    fn as_str(self) -> &'static str {
        match self {
            Relationship::Contains => "CONTAINS",
            Relationship::HasConceptModifier => "HAS CONCEPT MOD",
            Relationship::HasObservationContext => "HAS OBS CONTEXT",
            Relationship::SelectedFrom => "SELECTED FROM",
        }
    }
}

/// A content item's value.
#[derive(Clone, Debug)]
pub enum Value {
    /// A container, and the DCMR template that it follows if it is the root of one.
    Container(Option<&'static str>),
    Text(String),
    Code(Code),
    Uid(String),
    /// A number, as a decimal string, and its unit.
    Number(String, Code),
    /// An image and the frame of it, from 1.
    Image(InstanceRef, u32),
    /// A closed polyline: column, row, column, row, …
    Polyline(Vec<f32>, String),
}

/// A content item.
#[derive(Clone, Debug)]
pub struct Item {
    /// `None` only for the root.
    pub relationship: Option<Relationship>,
    /// `None` only for an image that a region is selected from.
    pub name: Option<Code>,
    pub value: Value,
    pub children: Vec<Item>,
}

impl Item {
    pub fn new(relationship: Relationship, name: Code, value: Value) -> Self {
        Item { relationship: Some(relationship), name: Some(name), value, children: Vec::new() }
    }

    pub fn with(mut self, children: impl IntoIterator<Item = Item>) -> Self {
        self.children.extend(children);
        self
    }

    /// Adds this item's attributes and its children's to a data set: the document's own for the
    /// root, a sequence item for the others.
    pub fn write(&self, object: &mut InMemDicomObject) {
        if let Some(relationship) = self.relationship {
            object.put(text(tags::RELATIONSHIP_TYPE, VR::CS, relationship.as_str()));
        }
        if let Some(name) = &self.name {
            object.put(sequence(tags::CONCEPT_NAME_CODE_SEQUENCE, [code_item(name)]));
        }
        let value_type = match &self.value {
            Value::Container(template) => {
                object.put(text(tags::CONTINUITY_OF_CONTENT, VR::CS, "SEPARATE"));
                if let Some(template) = template {
                    let mut item = InMemDicomObject::new_empty();
                    item.put(text(tags::MAPPING_RESOURCE, VR::CS, "DCMR"));
                    item.put(text(tags::TEMPLATE_IDENTIFIER, VR::CS, template));
                    object.put(sequence(tags::CONTENT_TEMPLATE_SEQUENCE, [item]));
                }
                "CONTAINER"
            }
            Value::Text(value) => {
                object.put(text(tags::TEXT_VALUE, VR::UT, &ascii(value)));
                "TEXT"
            }
            Value::Code(code) => {
                object.put(sequence(tags::CONCEPT_CODE_SEQUENCE, [code_item(code)]));
                "CODE"
            }
            Value::Uid(uid) => {
                object.put(text(tags::UID, VR::UI, uid));
                "UIDREF"
            }
            Value::Number(value, unit) => {
                let mut item = InMemDicomObject::new_empty();
                item.put(text(tags::NUMERIC_VALUE, VR::DS, value));
                item.put(sequence(tags::MEASUREMENT_UNITS_CODE_SEQUENCE, [code_item(unit)]));
                object.put(sequence(tags::MEASURED_VALUE_SEQUENCE, [item]));
                "NUM"
            }
            Value::Image(instance, frame) => {
                let mut item = reference(&instance.sop_class_uid, instance.sop_instance_uid.expose());
                if instance.frames > 1 {
                    item.put(text(tags::REFERENCED_FRAME_NUMBER, VR::IS, &frame.to_string()));
                }
                object.put(sequence(tags::REFERENCED_SOP_SEQUENCE, [item]));
                "IMAGE"
            }
            Value::Polyline(points, sop_class_uid) => {
                object.put(text(tags::GRAPHIC_TYPE, VR::CS, "POLYLINE"));
                object.put(DataElement::new(
                    tags::GRAPHIC_DATA,
                    VR::FL,
                    PrimitiveValue::F32(points.as_slice().into()),
                ));
                if sop_class_uid == VL_WHOLE_SLIDE {
                    object.put(text(tags::PIXEL_ORIGIN_INTERPRETATION, VR::CS, "FRAME"));
                }
                "SCOORD"
            }
        };
        object.put(text(tags::VALUE_TYPE, VR::CS, value_type));
        if !self.children.is_empty() {
            let children = self.children.iter().map(|child| {
                let mut item = InMemDicomObject::new_empty();
                child.write(&mut item);
                item
            });
            object.put(sequence(tags::CONTENT_SEQUENCE, children));
        }
    }

    /// All coded concepts in the tree, names and values alike.
    pub fn codes<'a>(&'a self, found: &mut Vec<&'a Code>) {
        found.extend(&self.name);
        match &self.value {
            Value::Code(code) | Value::Number(_, code) => found.push(code),
            _ => {}
        }
        for child in &self.children {
            child.codes(found);
        }
    }
}

/// An element with a text value; `value` must be ASCII.
pub fn text(tag: Tag, vr: VR, value: &str) -> InMemElement {
    DataElement::new(tag, vr, PrimitiveValue::from(value))
}

/// A sequence element.
pub fn sequence(tag: Tag, items: impl IntoIterator<Item = InMemDicomObject>) -> InMemElement {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items.into_iter().collect::<Vec<_>>()))
}

/// A reference to a SOP instance.
pub fn reference(sop_class_uid: &str, sop_instance_uid: &str) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    item.put(text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, sop_class_uid));
    item.put(text(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, sop_instance_uid));
    item
}

/// A code sequence item (PS3.3 §8.1); a value of more than 16 characters is a Long Code Value.
pub fn code_item(code: &Code) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    if code.value.len() <= 16 {
        item.put(text(tags::CODE_VALUE, VR::SH, &ascii(&code.value)));
    } else {
        item.put(text(tags::LONG_CODE_VALUE, VR::UC, &ascii(&code.value)));
    }
    item.put(text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, &limited(&code.scheme, 16)));
    item.put(text(tags::CODE_MEANING, VR::LO, &limited(&code.meaning, 64)));
    item
}

/// Our own text, in the default repertoire whatever the study's character set is. Everything that
/// the project writes is ASCII already; a bundle's name might not be.
pub fn ascii(value: &str) -> String {
    value.chars().map(|c| if matches!(c, ' '..='~' | '\n' | '\r') { c } else { '?' }).collect()
}

/// ASCII of at most `limit` characters on one line, without the separator of values.
pub fn limited(value: &str, limit: usize) -> String {
    let line: String =
        ascii(value).chars().map(|c| if matches!(c, '\\' | '\n' | '\r') { ' ' } else { c }).collect();
    if line.len() <= limit {
        return line;
    }
    let mut cut: String = line.chars().take(limit.saturating_sub(3)).collect();
    cut.push_str("...");
    cut
}
