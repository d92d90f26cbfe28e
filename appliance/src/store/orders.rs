//! Orders in the ledger: what the RIS said of a study before or while it came, and which study it is.
//!
//! All of it is the patient's: nothing here goes into a log or an audit detail but numbers and codes.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde_json::json;

use super::ledger::{LedgerError, Writer, json_column};
use crate::audit::{Event, EventKind};
use crate::deliver::context::OrderContext;
use crate::dicom::attributes::Attributes;
use crate::finding::Code;
use crate::phi::Phi;

/// What became of an order (ORC-1 in short).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// New.
    Nw,
    /// Changed.
    Xo,
    /// Cancelled.
    Ca,
    /// Discontinued.
    Dc,
}

impl Status {
    /// As the ledger has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Nw => "NW",
            Status::Xo => "XO",
            Status::Ca => "CA",
            Status::Dc => "DC",
        }
    }

    /// From an order control code (HL7 table 0119). Codes that say neither leave an order as it is.
    pub fn of_control(code: &str) -> Option<Self> {
        match code {
            "NW" | "SN" | "RO" => Some(Status::Nw),
            "XO" | "XX" | "XR" => Some(Status::Xo),
            "CA" | "OC" | "CR" => Some(Status::Ca),
            "DC" | "OD" | "DR" => Some(Status::Dc),
            _ => None,
        }
    }
}

/// What a message says of one order. Empty means that it does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// ORC-1.
    pub status: Option<Status>,
    /// ORC-2 or OBR-2.
    pub placer: Phi<String>,
    /// ORC-3 or OBR-3.
    pub filler: Phi<String>,
    /// IPC-1 or OBR-18.
    pub accession: Phi<String>,
    /// IPC-3 or ZDS-1.
    pub study_uid: Phi<String>,
    /// PID-3.1.
    pub patient_id: Phi<String>,
    /// PID-3.4.
    pub patient_issuer: Phi<String>,
    /// Whether TQ1-9, ORC-7, OBR-27 or OBR-5 asks for haste; `None` where there is no word on it.
    pub stat: Option<bool>,
    /// IPC-5 or OBR-24.
    pub modality: String,
    /// IPC-9.
    pub station_ae: String,
    /// OBR-4.
    pub procedure: Option<Code>,
    /// TQ1-7, ORC-7.4 or OBR-36.
    pub scheduled: Phi<String>,
    /// Where the site says that orders carry it.
    pub expected_series: Option<u32>,
    /// Where the site says that orders carry it.
    pub expected_instances: Option<u32>,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Order {
    /// Its row.
    pub id: i64,
    /// Who sent it, as named in the site file.
    pub source: String,
    /// The message that changed it last.
    pub message_id: i64,
    /// NW, XO, CA or DC.
    pub status: String,
    /// Placer order number.
    pub placer: Phi<String>,
    /// Filler order number of the ordering system.
    pub filler: Phi<String>,
    /// Accession number.
    pub accession: Phi<String>,
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// Patient identifier.
    pub patient_id: Phi<String>,
    /// Who issued it.
    pub patient_issuer: Phi<String>,
    /// Whether it asks for haste.
    pub stat: bool,
    /// Modality.
    pub modality: String,
    /// AE title of the scheduled station.
    pub station_ae: String,
    /// The procedure as ordered.
    pub procedure: Option<Code>,
    /// When it is scheduled, as sent.
    pub scheduled: Phi<String>,
    /// Expected series.
    pub expected_series: Option<u32>,
    /// Expected instances.
    pub expected_instances: Option<u32>,
    /// First message.
    pub created_at: i64,
    /// Last message.
    pub updated_at: i64,
}

impl Order {
    /// Whether its study goes first.
    pub fn is_stat(&self) -> bool {
        self.stat
    }

    /// What messages carry of it.
    pub fn context(&self) -> OrderContext {
        OrderContext {
            placer: self.placer.clone(),
            filler: self.filler.clone(),
            accession: self.accession.clone(),
            procedure: self.procedure.clone(),
        }
    }
}

const COLUMNS: &str = "id, source, message_id, status, placer, filler, accession, study_uid, patient_id, patient_issuer,
    stat, modality, station_ae, procedure, scheduled, expected_series, expected_instances, created_at, updated_at";

fn read(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: row.get(0)?,
        source: row.get(1)?,
        message_id: row.get(2)?,
        status: row.get(3)?,
        placer: Phi::new(row.get(4)?),
        filler: Phi::new(row.get(5)?),
        accession: Phi::new(row.get(6)?),
        study_uid: Phi::new(row.get(7)?),
        patient_id: Phi::new(row.get(8)?),
        patient_issuer: Phi::new(row.get(9)?),
        stat: row.get(10)?,
        modality: row.get(11)?,
        station_ae: row.get(12)?,
        procedure: json_column(row, 13)?,
        scheduled: Phi::new(row.get(14)?),
        expected_series: row.get(15)?,
        expected_instances: row.get(16)?,
        created_at: row.get(17)?,
        updated_at: row.get(18)?,
    })
}

/// Orders, the one that changed last first.
pub fn list(connection: &Connection, limit: u32) -> Result<Vec<Order>, LedgerError> {
    Ok(connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM orders ORDER BY updated_at DESC, id DESC LIMIT ?1"))?
        .query_map([limit], read)?
        .collect::<rusqlite::Result<_>>()?)
}

/// The order with this number.
pub fn one(connection: &Connection, id: i64) -> Result<Order, LedgerError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM orders WHERE id = ?1"))?
        .query_row([id], read)
        .optional()?
        .ok_or(LedgerError::NotFound("order"))
}

/// The order that a study belongs to: by Study Instance UID, else by accession number where the patient
/// is the same as far as both tell. Cancelled and discontinued orders count no more.
pub fn of_study(
    connection: &Connection,
    study_uid: &Phi<String>,
    accession: Option<&Phi<String>>,
    patient_id: Option<&Phi<String>>,
) -> Result<Option<Order>, LedgerError> {
    let by_uid = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM orders WHERE study_uid = ?1 AND status NOT IN ('CA', 'DC')
             ORDER BY updated_at DESC, id DESC LIMIT 1"
        ))?
        .query_row([study_uid.expose()], read)
        .optional()?;
    if by_uid.is_some() {
        return Ok(by_uid);
    }
    let Some(accession) = accession.filter(|text| !text.expose().is_empty()) else { return Ok(None) };
    let candidates: Vec<Order> = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM orders WHERE accession = ?1 AND study_uid = '' AND status NOT IN ('CA', 'DC')
             ORDER BY updated_at DESC, id DESC LIMIT 20"
        ))?
        .query_map([accession.expose()], read)?
        .collect::<rusqlite::Result<_>>()?;
    for order in candidates {
        if same_patient(connection, &order, patient_id)? {
            return Ok(Some(order));
        }
    }
    Ok(None)
}

/// The same, for a study of the index.
pub fn of_stored_study(
    connection: &Connection,
    study_id: i64,
    study_uid: &Phi<String>,
) -> Result<Option<Order>, LedgerError> {
    let attributes: Option<Attributes> = connection
        .prepare_cached("SELECT attributes FROM instances WHERE study_id = ?1 LIMIT 1")?
        .query_row([study_id], |row| json_column(row, 0))
        .optional()?;
    let attributes = attributes.unwrap_or_default();
    of_study(connection, study_uid, attributes.accession.as_ref(), attributes.patient_id.as_ref())
}

/// Images made before a merge carry the prior identifier.
fn same_patient(
    connection: &Connection,
    order: &Order,
    patient_id: Option<&Phi<String>>,
) -> Result<bool, LedgerError> {
    let Some(id) = patient_id.filter(|id| !id.expose().is_empty()) else { return Ok(true) };
    if order.patient_id.expose().is_empty() || order.patient_id == *id {
        return Ok(true);
    }
    Ok(connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM patient_merges WHERE prior_id = ?1 AND patient_id = ?2)",
        )?
        .query_row(params![id.expose(), order.patient_id.expose()], |row| row.get(0))?)
}

/// Takes over what a message says of an order; yields its number. A STAT order raises the studies that
/// belong to it, with their waiting jobs and deliveries.
pub fn apply(writer: &Writer<'_>, source: &str, message_id: i64, said: &Said) -> Result<i64, LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let known = find(tx, source, said)?;
    let text = |new: &Phi<String>, old: Option<&Phi<String>>| match old {
        Some(old) if new.expose().is_empty() => old.expose().clone(),
        _ => new.expose().clone(),
    };
    let plain = |new: &String, old: Option<&String>| match old {
        Some(old) if new.is_empty() => old.clone(),
        _ => new.clone(),
    };
    let old = known.as_ref();
    let status = said.status.map_or_else(
        || old.map_or("NW".to_owned(), |order| order.status.clone()),
        |status| status.as_str().to_owned(),
    );
    let procedure = said.procedure.clone().or_else(|| old.and_then(|order| order.procedure.clone()));
    let values = params![
        source,
        message_id,
        status,
        text(&said.placer, old.map(|order| &order.placer)),
        text(&said.filler, old.map(|order| &order.filler)),
        text(&said.accession, old.map(|order| &order.accession)),
        text(&said.study_uid, old.map(|order| &order.study_uid)),
        text(&said.patient_id, old.map(|order| &order.patient_id)),
        text(&said.patient_issuer, old.map(|order| &order.patient_issuer)),
        said.stat.or(old.map(|order| order.stat)).unwrap_or_default(),
        plain(&said.modality, old.map(|order| &order.modality)),
        plain(&said.station_ae, old.map(|order| &order.station_ae)),
        json!(procedure).to_string(),
        text(&said.scheduled, old.map(|order| &order.scheduled)),
        said.expected_series.or_else(|| old.and_then(|order| order.expected_series)),
        said.expected_instances.or_else(|| old.and_then(|order| order.expected_instances)),
        now,
        old.map(|order| order.id),
    ];
    let id = match old {
        Some(order) => {
            tx.prepare_cached(
                "UPDATE orders SET source = ?1, message_id = ?2, status = ?3, placer = ?4, filler = ?5, accession = ?6,
                    study_uid = ?7, patient_id = ?8, patient_issuer = ?9, stat = ?10, modality = ?11,
                    station_ae = ?12, procedure = ?13, scheduled = ?14, expected_series = ?15,
                    expected_instances = ?16, updated_at = ?17 WHERE id = ?18",
            )?
            .execute(values)?;
            order.id
        }
        None => {
            tx.prepare_cached(
                "INSERT INTO orders (source, message_id, status, placer, filler, accession, study_uid, patient_id,
                    patient_issuer, stat, modality, station_ae, procedure, scheduled, expected_series,
                    expected_instances, updated_at, id, created_at)
                 VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?17)",
            )?
            .execute(values)?;
            tx.last_insert_rowid()
        }
    };
    let order = one(tx, id)?;
    if order.is_stat() {
        raise_studies_of(writer, &order)?;
    }
    Ok(id)
}

/// The order that a message speaks of: one that shares an identifier and contradicts none.
fn find(connection: &Connection, source: &str, said: &Said) -> Result<Option<Order>, LedgerError> {
    let candidates: Vec<Order> = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM orders WHERE (study_uid = ?1 AND ?1 != '')
                OR (source = ?2 AND ((filler = ?3 AND ?3 != '') OR (placer = ?4 AND ?4 != '')
                    OR (accession = ?5 AND ?5 != '')))
             ORDER BY id DESC LIMIT 50"
        ))?
        .query_map(
            params![
                said.study_uid.expose(),
                source,
                said.filler.expose(),
                said.placer.expose(),
                said.accession.expose()
            ],
            read,
        )?
        .collect::<rusqlite::Result<_>>()?;
    let agree = |a: &Phi<String>, b: &Phi<String>| a.expose().is_empty() || b.expose().is_empty() || a == b;
    Ok(candidates.into_iter().find(|order| {
        agree(&order.study_uid, &said.study_uid)
            && agree(&order.accession, &said.accession)
            && agree(&order.filler, &said.filler)
    }))
}

fn raise_studies_of(writer: &Writer<'_>, order: &Order) -> Result<(), LedgerError> {
    let tx = writer.tx();
    // The open ones, and those whose work is not done: the others gain nothing.
    let studies: Vec<(i64, String, String)> = tx
        .prepare_cached(
            "SELECT s.id, s.key, s.study_uid FROM studies s WHERE s.priority = 0
                AND (s.study_uid = ?1 OR (?2 != '' AND ?2 = (
                    SELECT json_extract(i.attributes, '$.accession') FROM instances i WHERE i.study_id = s.id LIMIT 1)))
                AND (s.state IN ('receiving', 'processing') OR EXISTS (
                    SELECT 1 FROM results r JOIN deliveries d ON d.result_id = r.id
                    WHERE r.study_id = s.id AND d.state = 'queued'))",
        )?
        .query_map(params![order.study_uid.expose(), order.accession.expose()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (id, key, uid) in studies {
        let belongs = of_stored_study(tx, id, &Phi::new(uid))?;
        if belongs.is_some_and(|found| found.id == order.id) {
            raise(writer, id, &key)?;
        }
    }
    Ok(())
}

/// Puts a study before the others, with its jobs and deliveries. It stays there.
pub fn raise(writer: &Writer<'_>, study_id: i64, study_key: &str) -> Result<(), LedgerError> {
    let raised = writer
        .tx()
        .prepare_cached("UPDATE studies SET priority = 1 WHERE id = ?1 AND priority = 0")?
        .execute([study_id])?;
    if raised > 0 {
        writer.audit(&Event::new(EventKind::StudyRaised, study_key, json!({ "by": "order" })))?;
    }
    Ok(())
}

/// ADT^A40: what the prior identifier meant, the other one means from now on. Orders are changed;
/// studies and results stay as their images have them. Yields how many orders were changed.
pub fn merge_patient(
    writer: &Writer<'_>,
    prior: (&Phi<String>, &Phi<String>),
    now_is: (&Phi<String>, &Phi<String>),
) -> Result<usize, LedgerError> {
    let (tx, at) = (writer.tx(), writer.now_ms());
    tx.prepare_cached(
        "INSERT INTO patient_merges (prior_id, prior_issuer, patient_id, patient_issuer, at) VALUES (?1,?2,?3,?4,?5)
         ON CONFLICT (prior_id, prior_issuer) DO UPDATE SET patient_id = ?3, patient_issuer = ?4, at = ?5",
    )?
    .execute(params![prior.0.expose(), prior.1.expose(), now_is.0.expose(), now_is.1.expose(), at])?;
    Ok(tx
        .prepare_cached(
            "UPDATE orders SET patient_id = ?3, patient_issuer = ?4, updated_at = ?5
             WHERE patient_id = ?1 AND patient_issuer = ?2",
        )?
        .execute(params![prior.0.expose(), prior.1.expose(), now_is.0.expose(), now_is.1.expose(), at])?)
}
