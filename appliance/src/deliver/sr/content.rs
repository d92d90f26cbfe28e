//! The content tree: TID 1500 with TID 1410 and TID 1501 groups (PS3.16).
//!
//! TID 1500's row 6 (Imaging Measurements) holds one group for each finding that is shown. Row 12
//! (Qualitative Evaluations) holds text, as its row 14 allows: the banner, how far the model got,
//! and the draft's sentences. A report without a shown finding consists of row 12 alone.

use crate::clock::from_ms;
use crate::finding::{Code, Finding, Region, Source, Tier};

use super::super::context::ResultContext;
use super::super::notes::{BANNER, absence, algorithm_parameters, decimal, notes};
use super::tree::{Item, Relationship, Value, limited};
use super::{SrError, is_uid};

use Relationship::{Contains, HasConceptModifier, HasObservationContext, SelectedFrom};

/// Our own coding scheme: what becomes of a finding has no standard code.
///
/// | value | meaning |
/// |---|---|
/// | `TIER` | Result tier (the concept) |
/// | `REPORTED` | Reported |
/// | `FLAGGED` | Flagged: needs explicit attention |
pub const LIGHTBOX_SCHEME: &str = "99LIGHTBOX";

pub(super) fn dcm(value: &str, meaning: &str) -> Code {
    Code::new(value, "DCM", meaning)
}

fn sct(value: &str, meaning: &str) -> Code {
    Code::new(value, "SCT", meaning)
}

/// The concept and the value of a finding's tier, in [`LIGHTBOX_SCHEME`]. `None` for a suppressed
/// finding, which no output shows.
pub fn tier_codes(tier: Tier) -> Option<(Code, Code)> {
    let value = match tier {
        Tier::Suppressed => return None,
        Tier::Flagged => Code::new("FLAGGED", LIGHTBOX_SCHEME, "Flagged: needs explicit attention"),
        Tier::Reported => Code::new("REPORTED", LIGHTBOX_SCHEME, "Reported"),
    };
    Some((Code::new("TIER", LIGHTBOX_SCHEME, "Result tier"), value))
}

/// The whole tree.
pub(super) fn report(context: &ResultContext) -> Result<Item, SrError> {
    let result = &context.result;
    let root = Item {
        relationship: None,
        name: Some(dcm("126000", "Imaging Measurement Report")),
        value: Value::Container(Some("1500")),
        children: Vec::new(),
    };
    let language = Code::new("en-US", "RFC5646", "English (United States)");
    let mut root = root
        .with([Item::new(
            HasConceptModifier,
            dcm("121049", "Language of Content Item and Descendants"),
            Value::Code(language),
        )])
        .with(observer(context))
        .with([Item::new(
            HasConceptModifier,
            dcm("121058", "Procedure reported"),
            Value::Code(result.model.procedure.clone()),
        )]);
    let mut groups = Vec::new();
    for (index, finding) in result.findings.iter().enumerate() {
        if let Some((_, tier)) = tier_codes(finding.tier) {
            groups.push(group(context, finding, &context.ids.tracking_uids[index], tier)?);
        }
    }
    if !groups.is_empty() {
        let measurements = dcm("126010", "Imaging Measurements");
        root.children.push(Item::new(Contains, measurements, Value::Container(None)).with(groups));
    }
    Ok(root.with([evaluations(context)]))
}

/// A name as the equipment modules hold it (VR LO), so that both say the same.
fn name(text: &str) -> Value {
    Value::Text(limited(text, 64))
}

/// TID 1004: the model is the observer (IHE AIR Rev 1.3 §6.5.3.1), in the box that ran it.
fn observer(context: &ResultContext) -> Vec<Item> {
    let model = &context.result.model;
    let observer = |code: Code, value: Value| Item::new(HasObservationContext, code, value);
    vec![
        observer(dcm("121005", "Observer Type"), Value::Code(dcm("121007", "Device"))),
        observer(dcm("121012", "Device Observer UID"), Value::Uid(model.device_uid.clone())),
        observer(dcm("121013", "Device Observer Name"), name(&model.name)),
        observer(dcm("121014", "Device Observer Manufacturer"), name(&model.vendor)),
        observer(dcm("121015", "Device Observer Model Name"), name(&model.name)),
        observer(dcm("121016", "Device Observer Serial Number"), Value::Text(context.device.serial.clone())),
    ]
}

/// TID 4019: which algorithm, which version, which bundle, which revision of the study.
fn algorithm(context: &ResultContext) -> Vec<Item> {
    let model = &context.result.model;
    let parameter = |text: String| {
        Item::new(HasConceptModifier, dcm("111002", "Algorithm Parameters"), Value::Text(text))
    };
    let mut items = vec![
        Item::new(HasConceptModifier, dcm("111001", "Algorithm Name"), name(&model.name)),
        Item::new(HasConceptModifier, dcm("111003", "Algorithm Version"), name(&model.version)),
    ];
    items.extend(algorithm_parameters(model).into_iter().map(parameter));
    items.push(parameter(format!("study_revision={}", context.revision)));
    items.push(Item::new(
        HasConceptModifier,
        dcm("111000", "Algorithm Family"),
        Value::Code(dcm("123110", "Artificial Intelligence")),
    ));
    items
}

/// TID 1410 for a finding with a region, TID 1501 for one that speaks of a whole frame.
fn group(
    context: &ResultContext,
    finding: &Finding,
    tracking_uid: &str,
    tier: Code,
) -> Result<Item, SrError> {
    let source = &finding.source;
    let template = if source.region.is_some() { "1410" } else { "1501" };
    let code = |name: Code, value: &Code| Item::new(Contains, name, Value::Code(value.clone()));
    let mut children = vec![
        Item::new(
            HasObservationContext,
            dcm("112039", "Tracking Identifier"),
            Value::Text(finding.tracking_id.clone()),
        ),
        Item::new(
            HasObservationContext,
            dcm("112040", "Tracking Unique Identifier"),
            Value::Uid(tracking_uid.to_owned()),
        ),
        code(sct("276214006", "Finding category"), &finding.category),
        code(dcm("121071", "Finding"), &finding.finding),
    ];
    let laterality = sct("272741003", "Laterality");
    match (&finding.site, &finding.laterality) {
        (Some(site), side) => {
            let side = side
                .iter()
                .map(|side| Item::new(HasConceptModifier, laterality.clone(), Value::Code(side.clone())));
            children.push(code(sct("363698007", "Finding Site"), site).with(side));
        }
        (None, Some(side)) => children.push(code(laterality, side)),
        (None, None) => {}
    }
    children.extend(algorithm(context));
    children.push(place(source)?);
    children.push(certainty(finding)?);
    for measurement in &finding.measurements {
        let value = decimal(measurement.value).ok_or(SrError::Number)?;
        children.push(Item::new(
            Contains,
            measurement.name.clone(),
            Value::Number(value, measurement.unit.clone()),
        ));
    }
    if let Some((concept, _)) = tier_codes(finding.tier) {
        children.push(code(concept, &tier));
    }
    let container = Value::Container(Some(template));
    Ok(Item::new(Contains, dcm("125007", "Measurement Group"), container).with(children))
}

/// TID 1410's Image Region, or TID 1501's source image.
fn place(source: &Source) -> Result<Item, SrError> {
    let instance = &source.instance;
    if source.frame == 0 || source.frame > instance.frames.max(1) {
        return Err(SrError::Frame);
    }
    if !is_uid(&instance.sop_class_uid) || !is_uid(instance.sop_instance_uid.expose()) {
        return Err(SrError::Uid("an image"));
    }
    let image = Value::Image(instance.clone(), source.frame);
    let Some(region) = &source.region else {
        return Ok(Item::new(Contains, dcm("121112", "Source of Measurement"), image));
    };
    let outline = Value::Polyline(outline(region)?, instance.sop_class_uid.clone());
    let selected = Item { relationship: Some(SelectedFrom), name: None, value: image, children: Vec::new() };
    Ok(Item::new(Contains, dcm("111030", "Image Region"), outline).with([selected]))
}

/// The region's outline, clockwise from its top left corner and back to it.
fn outline(region: &Region) -> Result<Vec<f32>, SrError> {
    let Region { left, top, right, bottom } = *region;
    let sound = [left, top, right, bottom].iter().all(|edge| edge.is_finite() && *edge >= 0.0);
    if !sound || right <= left || bottom <= top {
        return Err(SrError::Region);
    }
    let corners = [left, top, right, top, right, bottom, left, bottom, left, top];
    Ok(corners.into_iter().map(|edge| edge as f32).collect())
}

/// The model's score as Certainty of Finding, in percent.
fn certainty(finding: &Finding) -> Result<Item, SrError> {
    if !(0.0..=1.0).contains(&finding.score) {
        return Err(SrError::Number);
    }
    let percent = decimal(finding.score * 100.0).ok_or(SrError::Number)?;
    let unit = Code::new("%", "UCUM", "percent");
    Ok(Item::new(Contains, dcm("111012", "Certainty of Finding"), Value::Number(percent, unit)))
}

/// TID 1500 rows 12, 12b and 14.
fn evaluations(context: &ResultContext) -> Item {
    let text = |code: Code, text: &str| Item::new(Contains, code, Value::Text(text.to_owned()));
    let comment = || dcm("121106", "Comment");
    let finding = || dcm("121071", "Finding");
    let absence = absence(context);
    let mut items = algorithm(context);
    items.push(text(comment(), BANNER));
    // Content Date and Time carry no zone: Timezone Offset (0008,0201) would move the study's own
    // times with them, and DCMTK 3.6.7 calls an Observation DateTime ending in +0000 malformed.
    let made = from_ms(context.ids.created_ms);
    let made =
        format!("Made {} {:02}:{:02}:{:02} UTC.", made.date(), made.hour(), made.minute(), made.second());
    items.push(text(comment(), &made));
    items.extend(notes(context).iter().map(|note| text(comment(), note)));
    items.extend(absence.iter().map(|absence| text(finding(), absence)));
    items.extend(
        context
            .findings_text
            .iter()
            .filter(|sentence| Some(*sentence) != absence.as_ref())
            .map(|sentence| text(finding(), sentence)),
    );
    items.extend(context.impression_text.iter().map(|sentence| text(dcm("121073", "Impression"), sentence)));
    let name = Code::new("C0034375", "UMLS", "Qualitative Evaluations");
    Item::new(Contains, name, Value::Container(None)).with(items.into_iter().filter(not_empty))
}

/// Text Value is type 1: an empty note must not make the object invalid.
fn not_empty(item: &Item) -> bool {
    !matches!(&item.value, Value::Text(text) if text.trim().is_empty())
}
