//! The addresses of the inspection: what the box says of itself, shown and signed.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Answer, App, Caller, Failure, Shared};
use crate::admin::{guard, pages};
use crate::audit::Outcome;
use crate::audit::export::Export;
use crate::clock::utc_text;
use crate::inspect::{self, AuditHead, Daemon, Device, Report, judge};
use crate::store::queries;

/// Least time between two reports: each is signed, and leaves an audit record.
const REPORT_PAUSE: Duration = Duration::from_secs(1);
/// How long a report waits for its turn.
const REPORT_WAIT: Duration = Duration::from_secs(5);
/// Audit logs that are handed out at once: each reads the ledger to its end.
const EXPORTS_MAX: usize = 2;

/// Whose turn it is to get what costs the box something.
pub(in crate::admin) struct Turns {
    reports: Arc<Semaphore>,
    exports: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { reports: Arc::new(Semaphore::new(1)), exports: Arc::new(Semaphore::new(EXPORTS_MAX)) }
    }
}

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/system/inspection", get(show))
        .route("/system/report", get(report))
        .route("/system/device.pub", get(device_key))
        .route("/system/audit.jsonl", get(audit_log))
}

async fn show(State(app): Shared, Extension(operator): Caller) -> Answer {
    let report = make(&app, None).await?;
    let checks = judge::judge(&report, &judge::Wanted::default());
    Ok(Html(pages::inspection(&app.page(&operator), &report, &checks).into_string()))
}

#[derive(Deserialize)]
struct ReportQuery {
    nonce: Option<String>,
}

async fn report(
    State(app): Shared,
    Extension(operator): Caller,
    headers: HeaderMap,
    Query(query): Query<ReportQuery>,
) -> Result<Response, Failure> {
    if guard::is_cross_site(&headers) {
        return Ok(elsewhere());
    }
    if query.nonce.as_deref().is_some_and(|nonce| !inspect::is_nonce(nonce)) {
        let why = format!("nonce: 1 to {} letters, digits, - _ or .\n", inspect::NONCE_MAX);
        return Ok((StatusCode::BAD_REQUEST, why).into_response());
    }
    let Ok(Ok(turn)) = timeout(REPORT_WAIT, app.turns.reports.clone().acquire_owned()).await else {
        return Ok(too_many("reports are made one a second"));
    };
    drop(tokio::spawn(async move {
        tokio::time::sleep(REPORT_PAUSE).await;
        drop(turn);
    }));
    // What the device's key signs is on record, with who asked.
    let detail = json!({ "action": "report", "through": "page", "nonce": query.nonce });
    app.audit(&operator, Outcome::Success, detail).await?;
    let signed = make(&app, query.nonce).await?.sign(&app.state.identity);
    let text = signed.and_then(|envelope| serde_json::to_vec_pretty(&envelope)).map_err(unmade)?;
    let name = format!("attachment; filename=\"lightbox-report-{}.json\"", app.state.identity.fingerprint());
    let kind = "application/json".to_owned();
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)], text).into_response())
}

async fn device_key(State(app): Shared) -> Response {
    let name = format!("attachment; filename=\"lightbox-{}.pub\"", app.state.identity.fingerprint());
    let kind = "application/x-pem-file".to_owned();
    let pem = app.state.identity.public_key().to_pem();
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)], pem).into_response()
}

/// The whole audit log, as `lightbox audit export` writes it: a box without a shell has no other way to hand it out.
async fn audit_log(
    State(app): Shared,
    Extension(operator): Caller,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    if guard::is_cross_site(&headers) {
        return Ok(elsewhere());
    }
    let Ok(turn) = app.turns.exports.clone().try_acquire_owned() else {
        return Ok(too_many("the audit log is being handed out to others"));
    };
    app.audit(&operator, Outcome::Success, json!({ "action": "export-audit", "through": "page" })).await?;
    let ledger = app.state.ledger.clone();
    let parts = stream::try_unfold(Some(Export::default()), move |export| {
        let ledger = ledger.clone();
        // Given back when the last part is out, or the connection is gone.
        let _turn = &turn;
        async move {
            let Some(mut export) = export else { return Ok(None) };
            let read = ledger.read(move |reader| {
                let mut text = Vec::new();
                let more = export.part(reader, &mut text);
                Ok(more.map(|more| (text, more.then_some(export))))
            });
            // The connection is cut where the log cannot be read on: what came is then no whole export, and says so.
            match read.await {
                Ok(Ok((text, rest))) => Ok(Some((Bytes::from(text), rest))),
                Ok(Err(error)) => Err(cut(&error)),
                Err(error) => Err(cut(&error)),
            }
        }
    });
    let name = format!("attachment; filename=\"lightbox-audit-{}.jsonl\"", app.state.identity.fingerprint());
    let kind = "application/jsonl".to_owned();
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(parts)).into_response())
}

fn elsewhere() -> Response {
    let why = "another site's page asked for this with your certificate; remedy: follow the link on the box's own page\n";
    (StatusCode::FORBIDDEN, why).into_response()
}

fn too_many(why: &str) -> Response {
    let told = format!("{why}; remedy: ask again in a few seconds\n");
    (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "5")], told).into_response()
}

fn cut(error: &dyn Display) -> std::io::Error {
    tracing::error!(reason = error.to_string(), "the audit log could not be handed out to its end");
    std::io::Error::other("the audit log could not be read")
}

async fn make(app: &App, nonce: Option<String>) -> Result<Report, Failure> {
    let state = &app.state;
    let now = state.clock.now();
    let facts = tokio::task::spawn_blocking(move || inspect::facts(now)).await.map_err(unmade)?;
    let audit = state.ledger.read(queries::audit_end).await?;
    let device = Device {
        name: state.site.file.appliance.name.clone(),
        fingerprint: state.identity.fingerprint(),
        udi_di: state.site.file.appliance.udi_di.clone(),
    };
    let listens = &state.listening.all;
    let daemon = Daemon {
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: utc_text(state.started_ms),
        site_sha256: state.site.revision.clone(),
        listens: listens.iter().map(|(name, at)| ((*name).to_owned(), at.clone())).collect(),
        models: (state.models)().into_iter().map(|model| (model.name, model.digest)).collect(),
        audit: audit.map(|(sequence, hash)| AuditHead { sequence, hash }),
    };
    Ok(Report::new(nonce, inspect::instant(state.clock.now_ms()), device, daemon, facts))
}

/// The report could not be made; the reason is for the log.
fn unmade(error: impl Display) -> Failure {
    Failure::Unavailable(format!("the report could not be made: {error}"))
}
