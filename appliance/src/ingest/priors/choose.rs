//! Which earlier studies, and which of their series, are wanted: plain criteria of the rule, no ranking but the
//! date. Pure: the PACS's answers in, a choice out. The PACS is not believed to have matched a key: every
//! criterion is checked here again, the patient's identifier above all.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use time::macros::format_description;
use time::{Date, Duration};

use crate::dicom::data_set::DataSet;
use crate::dicom::query::Match;
use crate::phi::Phi;
use crate::store::priors::Ask;

/// An earlier study at the PACS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// Study Date (0008,0020), `YYYYMMDD`.
    pub date: Phi<String>,
    /// Study Time (0008,0030), as the PACS writes it.
    pub time: String,
    /// Study Description (0008,1030).
    description: String,
}

/// A series of an earlier study that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Series Instance UID.
    pub series_uid: Phi<String>,
    /// Number of Series Related Instances (0020,1209), where the PACS tells.
    pub instances: Option<u32>,
}

/// Why nothing can be asked for, without patient data.
pub fn cannot_ask(ask: &Ask) -> Option<&'static str> {
    let id = ask.patient_id.as_ref().map_or("", |id| id.expose().as_str());
    if id.trim().is_empty() {
        return Some("the study has no Patient ID");
    }
    // In a key these mean more than themselves: another patient's studies would match.
    if id.contains(['*', '?', '\\']) {
        return Some("the Patient ID holds a character that a query takes for a wildcard");
    }
    if date_of(ask.study_date.as_ref()).is_none() {
        return Some("the study has no Study Date, so nothing is known to be earlier");
    }
    if ask.same_modality && ask.modality.is_none() {
        return Some("the series has no Modality that an earlier one could share");
    }
    if ask.same_body_part && ask.body_part.is_none() {
        return Some("the series has no Body Part Examined that an earlier one could share");
    }
    None
}

fn date_of(text: Option<&Phi<String>>) -> Option<Date> {
    Date::parse(text?.expose(), format_description!("[year][month][day]")).ok()
}

/// Keys at STUDY level.
pub fn study_keys(ask: &Ask) -> DataSet {
    let text = |value: &Option<Phi<String>>| value.as_ref().map_or("", |value| value.expose()).to_owned();
    let from = date_of(ask.study_date.as_ref())
        .and_then(|date| date.checked_sub(Duration::days(i64::from(ask.within_days?))))
        .and_then(|date| date.format(format_description!("[year][month][day]")).ok())
        .unwrap_or_default();
    DataSet::new()
        .with(tags::SPECIFIC_CHARACTER_SET, "ISO_IR 192")
        .with(tags::PATIENT_ID, &text(&ask.patient_id))
        // Asked for, not matched: many a PACS has none, and ours may be a default.
        .with(tags::ISSUER_OF_PATIENT_ID, "")
        .with(tags::STUDY_DATE, &format!("{from}-{}", text(&ask.study_date)))
        .with(tags::STUDY_TIME, "")
        .with(tags::MODALITIES_IN_STUDY, "")
        .with(tags::STUDY_DESCRIPTION, "")
        .with(tags::STUDY_INSTANCE_UID, "")
}

/// Keys at SERIES level for one of the candidates.
pub fn series_keys(candidate: &Candidate) -> DataSet {
    DataSet::new()
        .with(tags::STUDY_INSTANCE_UID, candidate.study_uid.expose())
        .with(tags::SERIES_INSTANCE_UID, "")
        .with(tags::MODALITY, "")
        .with(tags::BODY_PART_EXAMINED, "")
        .with(tags::SERIES_DESCRIPTION, "")
        .with(tags::NUMBER_OF_SERIES_RELATED_INSTANCES, "")
}

/// Keys at IMAGE level for one of its series.
pub fn instance_keys(candidate: &Candidate, series: &Chosen) -> DataSet {
    DataSet::new()
        .with(tags::STUDY_INSTANCE_UID, candidate.study_uid.expose())
        .with(tags::SERIES_INSTANCE_UID, series.series_uid.expose())
        .with(tags::SOP_INSTANCE_UID, "")
}

fn text(of: &Match, tag: Tag) -> String {
    of.text(tag).unwrap_or_default().trim().to_owned()
}

/// The earlier studies among the answers, the latest first.
pub fn studies(ask: &Ask, answers: &[Match]) -> Vec<Candidate> {
    let (Some(id), Some(own_date)) = (&ask.patient_id, &ask.study_date) else { return Vec::new() };
    let earliest = date_of(ask.study_date.as_ref())
        .zip(ask.within_days)
        .and_then(|(date, days)| date.checked_sub(Duration::days(i64::from(days))));
    let mut found: Vec<Candidate> = answers
        .iter()
        .filter_map(|answer| {
            let issuer = text(answer, tags::ISSUER_OF_PATIENT_ID);
            let other_issuer =
                ask.issuer.as_ref().is_some_and(|own| !issuer.is_empty() && own.expose().trim() != issuer);
            if text(answer, tags::PATIENT_ID) != id.expose().trim() || other_issuer {
                return None;
            }
            let modalities = answer.raw(tags::MODALITIES_IN_STUDY).map(String::from_utf8_lossy);
            let modalities = modalities.unwrap_or_default().trim().to_owned();
            if ask.same_modality
                && !modalities.is_empty()
                && !modalities.split('\\').any(|one| same(one, ask.modality.as_deref()))
            {
                return None;
            }
            let candidate = Candidate {
                study_uid: Phi::new(answer.uid(tags::STUDY_INSTANCE_UID)?),
                date: Phi::new(text(answer, tags::STUDY_DATE)),
                time: text(answer, tags::STUDY_TIME),
                description: text(answer, tags::STUDY_DESCRIPTION),
            };
            let date = date_of(Some(&candidate.date))?;
            let own_time = ask.study_time.as_deref().unwrap_or_default();
            let earlier = match candidate.date.cmp(own_date) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => !candidate.time.is_empty() && candidate.time.as_str() < own_time,
                std::cmp::Ordering::Greater => false,
            };
            let kept = earlier
                && candidate.study_uid != ask.study_uid
                && earliest.is_none_or(|earliest| date >= earliest);
            kept.then_some(candidate)
        })
        .collect();
    found.sort_by(|one, other| (&other.date, &other.time).cmp(&(&one.date, &one.time)));
    found.dedup_by(|one, other| one.study_uid == other.study_uid);
    found
}

/// The series of a candidate that are wanted.
pub fn series(ask: &Ask, candidate: &Candidate, answers: &[Match]) -> Vec<Chosen> {
    answers
        .iter()
        .filter(|answer| !ask.same_modality || same(&text(answer, tags::MODALITY), ask.modality.as_deref()))
        .filter(|answer| !ask.same_body_part || same_body_part(ask, candidate, answer))
        .filter_map(|answer| {
            Some(Chosen {
                series_uid: Phi::new(answer.uid(tags::SERIES_INSTANCE_UID)?),
                instances: answer
                    .number(tags::NUMBER_OF_SERIES_RELATED_INSTANCES)
                    .filter(|number| *number > 0),
            })
        })
        .collect()
}

fn same(one: &str, other: Option<&str>) -> bool {
    other.is_some_and(|other| one.trim().eq_ignore_ascii_case(other.trim()))
}

fn same_body_part(ask: &Ask, candidate: &Candidate, answer: &Match) -> bool {
    let Some(wanted) = ask.body_part.as_deref() else { return false };
    let named = text(answer, tags::BODY_PART_EXAMINED);
    if !named.is_empty() {
        return same(&named, Some(wanted));
    }
    let word = wanted.trim().to_lowercase();
    let descriptions = [candidate.description.clone(), text(answer, tags::SERIES_DESCRIPTION)];
    descriptions.iter().any(|description| {
        description.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|one| one == word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        Ask {
            study_uid: "1.2.3".into(),
            patient_id: Some("4711".into()),
            issuer: Some("HOSPITAL".into()),
            study_date: Some("20260110".into()),
            study_time: Some("1200".into()),
            modality: Some("CT".into()),
            body_part: Some("CHEST".into()),
            latest: 2,
            same_modality: true,
            same_body_part: true,
            within_days: Some(365),
            by_get: false,
            by_web: false,
        }
    }

    fn study(uid: &str, date: &str) -> DataSet {
        DataSet::new()
            .with(tags::PATIENT_ID, "4711")
            .with(tags::STUDY_DATE, date)
            .with(tags::STUDY_TIME, "110000")
            .with(tags::MODALITIES_IN_STUDY, "CT\\SR")
            .with(tags::STUDY_DESCRIPTION, "CT Thorax/Chest")
            .with(tags::STUDY_INSTANCE_UID, uid)
    }

    fn uids(answers: &[DataSet]) -> Vec<String> {
        studies(&ask(), answers).into_iter().map(|one| one.study_uid.into_exposed()).collect()
    }

    #[test]
    fn only_earlier_studies_of_the_same_patient_count_and_the_latest_comes_first() {
        let found = uids(&[
            study("1.1", "20250601"),
            study("1.2", "20251224"),
            study("1.2", "20251224"),
            study("1.3", "20260110"),
            study("1.4", "20260110").with(tags::STUDY_TIME, "130000"),
            study("1.5", "20260111"),
            study("1.6", "20240101"),
            study("1.7", ""),
            study("1.2.3", "20251224"),
            study("1.8", "20251224").with(tags::PATIENT_ID, "47110"),
            study("1.9", "20251224").with(tags::ISSUER_OF_PATIENT_ID, "ELSEWHERE"),
            study("1.10", "20251224").with(tags::MODALITIES_IN_STUDY, "MR"),
            study("1.11", "20251001")
                .with(tags::MODALITIES_IN_STUDY, "")
                .with(tags::ISSUER_OF_PATIENT_ID, "HOSPITAL"),
        ]);
        assert_eq!(found, ["1.3", "1.2", "1.11", "1.1"]);
    }

    #[test]
    fn series_share_modality_and_body_part_which_a_description_may_name() {
        let candidate = &studies(&ask(), &[study("1.1", "20250601")])[0];
        let series_of = |uid: &str, modality: &str, part: &str| {
            DataSet::new()
                .with(tags::SERIES_INSTANCE_UID, uid)
                .with(tags::MODALITY, modality)
                .with(tags::BODY_PART_EXAMINED, part)
                .with(tags::NUMBER_OF_SERIES_RELATED_INSTANCES, "7")
        };
        let answers = [
            series_of("2.1", "CT", "Chest"),
            series_of("2.2", "CT", "HEAD"),
            series_of("2.3", "SR", "CHEST"),
            series_of("2.4", "CT", ""),
        ];
        let chosen = series(&ask(), candidate, &answers);
        assert_eq!(chosen, ["2.1", "2.4"].map(|uid| Chosen { series_uid: uid.into(), instances: Some(7) }));
        let any = Ask { same_modality: false, same_body_part: false, ..ask() };
        assert_eq!(series(&any, candidate, &answers).len(), 4);
    }

    #[test]
    fn what_would_match_other_patients_is_not_asked() {
        let because = |ask: Ask| cannot_ask(&ask).unwrap_or("nothing");
        assert_eq!(because(ask()), "nothing");
        assert!(because(Ask { patient_id: Some("47*".into()), ..ask() }).contains("wildcard"));
        assert!(because(Ask { patient_id: Some(" ".into()), ..ask() }).contains("no Patient ID"));
        assert!(because(Ask { study_date: Some("2026".into()), ..ask() }).contains("Study Date"));
        assert!(because(Ask { body_part: None, ..ask() }).contains("Body Part"));
        let keys = study_keys(&ask());
        assert_eq!(keys.ascii(tags::STUDY_DATE).as_deref(), Some("20250110-20260110"));
    }
}
