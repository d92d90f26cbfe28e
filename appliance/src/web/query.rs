//! QIDO-RS (PS3.18 §10.6): the same questions and answers as C-FIND ([`crate::dicom::query`]).

use std::fmt::Write as _;

use dicom_dictionary_std::tags;
use hyper::Method;
use tokio::time::timeout;

use super::client::{ANSWER_MAX, Question, Remote, WebError};
use super::{DICOM_JSON, json};
use crate::dicom::data_set::DataSet;
use crate::dicom::query::{Found, Level, SeriesCount, StudyCount};
use crate::phi::Phi;

/// Series of one study that are counted.
const SERIES_MAX: usize = 1_000;
/// Instances of one series that are counted one by one.
const INSTANCES_MAX: usize = 20_000;

/// One query. `keys` holds the keys to match (a value) and those to return (empty); UIDs of the levels
/// above go into the path. At most `limit` answers are taken.
pub async fn find(remote: &Remote, level: Level, keys: &DataSet, limit: usize) -> Result<Found, WebError> {
    timeout(remote.deadline, search(remote, level, keys, limit))
        .await
        .map_err(|_| WebError::Deadline(remote.deadline))?
}

async fn search(remote: &Remote, level: Level, keys: &DataSet, limit: usize) -> Result<Found, WebError> {
    let answer = remote
        .get(Question {
            service: "QIDO-RS",
            method: Method::GET,
            path: &path(level, keys, limit),
            accept: DICOM_JSON,
            content: None,
            within: remote.deadline,
            max: ANSWER_MAX,
        })
        .await;
    let mut answer = answer?;
    if answer.status == 204 {
        return Ok(Found { complete: true, ..Found::default() });
    }
    let bytes = answer.body.all().await?;
    let mut matches = match bytes.is_empty() {
        true => Vec::new(),
        false => json::data_sets(&bytes).ok_or(WebError::Unreadable("a list in the DICOM JSON model"))?,
    };
    // One more was asked for, to know whether these are all. A 206 or a Warning says that there are more.
    let complete = matches.len() <= limit && answer.status != 206;
    matches.truncate(limit);
    Ok(Found { matches, complete, keys_ignored: false })
}

fn path(level: Level, keys: &DataSet, limit: usize) -> String {
    let study = keys.uid(tags::STUDY_INSTANCE_UID);
    let series = keys.uid(tags::SERIES_INSTANCE_UID);
    let (mut path, in_path) = match (level, &study, &series) {
        (Level::Study, ..) => ("/studies".to_owned(), 0),
        (Level::Series, Some(study), _) => (format!("/studies/{study}/series"), 1),
        (Level::Series, None, _) => ("/series".to_owned(), 0),
        (Level::Image, Some(study), Some(series)) => {
            (format!("/studies/{study}/series/{series}/instances"), 2)
        }
        (Level::Image, Some(study), None) => (format!("/studies/{study}/instances"), 1),
        (Level::Image, None, _) => ("/instances".to_owned(), 0),
    };
    let _ = write!(path, "?limit={}", limit.saturating_add(1));
    let named = [tags::STUDY_INSTANCE_UID, tags::SERIES_INSTANCE_UID];
    for tag in keys.tags() {
        if named[..in_path].contains(&tag) || tag == tags::SPECIFIC_CHARACTER_SET {
            continue;
        }
        let name = format!("{:04X}{:04X}", tag.group(), tag.element());
        let _ = match keys.text(tag) {
            Some(value) => write!(path, "&{name}={}", escaped(&value)),
            None => write!(path, "&includefield={name}"),
        };
    }
    path
}

/// Percent-encoding of everything but unreserved letters (RFC 3986 §2.3).
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// Counts a study at a PACS: by Number of Study Related Instances and Number of Series Related Instances,
/// and by listing instances where the PACS does not return them.
pub async fn count_study(remote: &Remote, study_uid: &Phi<String>) -> Result<StudyCount, WebError> {
    timeout(remote.deadline, count(remote, study_uid.expose()))
        .await
        .map_err(|_| WebError::Deadline(remote.deadline))?
}

async fn count(remote: &Remote, study_uid: &str) -> Result<StudyCount, WebError> {
    let study = DataSet::new().with(tags::STUDY_INSTANCE_UID, study_uid);
    let keys = study.clone().with(tags::NUMBER_OF_STUDY_RELATED_INSTANCES, "");
    let studies = search(remote, Level::Study, &keys, SERIES_MAX).await?;
    let of_study = |one: &&DataSet| one.uid(tags::STUDY_INSTANCE_UID).is_none_or(|uid| uid == study_uid);
    let Some(told) = studies.matches.iter().find(of_study) else {
        return Ok(StudyCount { instances: Some(0), series: Vec::new() });
    };
    let told = told.number(tags::NUMBER_OF_STUDY_RELATED_INSTANCES);
    let keys = study
        .clone()
        .with(tags::SERIES_INSTANCE_UID, "")
        .with(tags::MODALITY, "")
        .with(tags::NUMBER_OF_SERIES_RELATED_INSTANCES, "");
    let found = search(remote, Level::Series, &keys, SERIES_MAX).await?;
    let mut series = Vec::new();
    for one in found.matches.iter().filter(of_study) {
        let Some(series_uid) = one.uid(tags::SERIES_INSTANCE_UID) else { continue };
        let instances = match one.number(tags::NUMBER_OF_SERIES_RELATED_INSTANCES) {
            Some(instances) => Some(instances),
            None => {
                let keys = study.clone().with(tags::SERIES_INSTANCE_UID, &series_uid);
                let listed = search(remote, Level::Image, &keys, INSTANCES_MAX).await?;
                listed.complete.then_some(listed.matches.len() as u32)
            }
        };
        let modality = one.ascii(tags::MODALITY).unwrap_or_default();
        series.push(SeriesCount { series_uid: Phi::new(series_uid), modality, instances });
    }
    let counted: Option<Vec<u32>> = series.iter().map(|one| one.instances).collect();
    let sum = counted
        .filter(|_| found.complete)
        .map(|counts| counts.iter().fold(0, |sum: u32, count| sum.saturating_add(*count)));
    Ok(StudyCount { instances: told.or(sum), series })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_into_the_path_and_the_query() {
        let keys = DataSet::new()
            .with(tags::STUDY_INSTANCE_UID, "1.2")
            .with(tags::PATIENT_NAME, "M*^A B")
            .with(tags::MODALITY, "");
        assert_eq!(
            path(Level::Study, &keys, 9),
            "/studies?limit=10&includefield=00080060&00100010=M%2A%5EA%20B&0020000D=1.2"
        );
        let keys = keys.with(tags::SPECIFIC_CHARACTER_SET, "ISO_IR 192").with(tags::PATIENT_NAME, "Mü*^A B");
        assert_eq!(
            path(Level::Series, &keys, 9),
            "/studies/1.2/series?limit=10&includefield=00080060&00100010=M%C3%BC%2A%5EA%20B"
        );
        let keys =
            DataSet::new().with(tags::STUDY_INSTANCE_UID, "1.2").with(tags::SERIES_INSTANCE_UID, "1.3");
        assert_eq!(path(Level::Image, &keys, 0), "/studies/1.2/series/1.3/instances?limit=1");
    }
}
