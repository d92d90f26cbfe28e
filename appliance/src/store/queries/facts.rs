//! The stored headers as rules see them, of many studies in one reading.

use rusqlite::{Connection, params};

use crate::ingest::rules::SeriesFacts;
use crate::phi::Phi;
use crate::store::ledger::{LedgerError, json_column};

/// A stored study and what rules see of it.
#[derive(Clone, Debug)]
pub struct StudyFacts {
    /// Its key.
    pub key: String,
    /// Last new instance, milliseconds since the epoch.
    pub last_at: i64,
    /// Its series, in the order of their first instance.
    pub series: Vec<SeriesFacts>,
}

/// The studies that got an instance at or after `since_ms`, the oldest first.
pub fn facts_since(connection: &Connection, since_ms: i64) -> Result<Vec<StudyFacts>, LedgerError> {
    // First the groups, from an index; then one row for each. Only the first instance of a series has
    // its attributes read.
    let mut statement = connection.prepare_cached(
        "WITH series AS (
            SELECT i.study_id AS study_id, min(i.id) AS first, count(*) AS instances
            FROM studies s JOIN instances i ON i.study_id = s.id
            WHERE s.last_at >= ?1 AND s.state != 'fetched' AND i.state NOT IN ('conflict', 'missing')
            GROUP BY i.study_id, i.series_uid)
         SELECT s.key, s.last_at, i.series_uid, i.attributes, i.calling_ae, i.peer, i.sop_class_uid,
            series.instances
         FROM series JOIN instances i ON i.id = series.first JOIN studies s ON s.id = series.study_id
         ORDER BY s.id, series.first",
    )?;
    let mut rows = statement.query(params![since_ms])?;
    let mut studies: Vec<StudyFacts> = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let facts = SeriesFacts {
            series_uid: Phi::new(row.get(2)?),
            attributes: json_column(row, 3)?,
            calling_ae: row.get(4)?,
            peer: row.get(5)?,
            sop_class_uid: row.get(6)?,
            instances: row.get::<_, u32>(7)? as usize,
        };
        match studies.last_mut() {
            Some(study) if study.key == key => study.series.push(facts),
            _ => studies.push(StudyFacts { key, last_at: row.get(1)?, series: vec![facts] }),
        }
    }
    Ok(studies)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::ingest::completion::series_facts;
    use crate::ingest::rules::diff;
    use crate::store::fixture::{Fixture, START_MS};

    const NOW: &str = "[[rule]]\nname = 'phantoms'\nmatch = { body_part = 'PHANTOM' }\nmodels = ['phantom']\ndeliver = ['pacs']\n\
        [[rule]]\nname = 'large'\nwhen = 'series.instances > 3 && study.series_count > 1'\nforward = ['pacs']\n";

    #[test]
    fn the_facts_of_many_studies_are_those_of_each() {
        let fixture = Fixture::new();
        fixture.receive_studies(5, 2, 3);
        let all = fixture.ledger.read_blocking(|reader| facts_since(reader, START_MS)).expect("read");
        assert_eq!(all.len(), 5);
        for (index, study) in all.iter().enumerate() {
            let one =
                fixture.ledger.read_blocking(|reader| series_facts(reader, index as i64 + 1)).expect("read");
            assert_eq!(study.series, one);
        }
        let none = fixture.ledger.read_blocking(|reader| facts_since(reader, START_MS + 1)).expect("read");
        assert!(none.is_empty());
    }

    #[test]
    fn a_thousand_studies_are_compared_in_less_than_two_seconds() {
        let fixture = Fixture::new();
        fixture.receive_studies(1000, 3, 4);
        let old = fixture.rules(NOW);
        let new = fixture.rules(&NOW.replace("'PHANTOM'", "'CHEST'").replace("> 3", "> 4"));
        let started = Instant::now();
        let studies = fixture.ledger.read_blocking(|reader| facts_since(reader, START_MS)).expect("read");
        let changes: Vec<usize> =
            studies.iter().map(|study| diff::diff(&old, &new, &study.series).len()).collect();
        let took = started.elapsed();
        println!("{} studies in {took:?}", studies.len());
        assert_eq!(studies.len(), 1000);
        // Of each of three series: one decision and one model or another, and the forward with its rule.
        assert!(changes.iter().all(|count| *count == 12), "{:?}", &changes[..4]);
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}
