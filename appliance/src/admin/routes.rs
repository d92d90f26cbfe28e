//! What each address answers.

mod inspection;
mod models;
mod system;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Form, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Tokens;
use super::metrics::{self, Machine};
use super::pages::{self, Page};
use super::{AdminState, Operator};
use crate::audit::{Event, EventKind, Outcome};
use crate::job::{DeliveryState, State as _, StudyState};
use crate::reload::expiries;
use crate::store::ledger::LedgerError;
use crate::store::queries::{self, DeliveryFilter, StudyFilter};
use crate::store::replay::{self, By, Outgoing, Wish};
use crate::store::retention;

/// Largest body of a form of ours.
const BODY_BYTES_MAX: usize = 4096;
/// Time for one request, its body included.
const REQUEST: Duration = Duration::from_secs(30);
/// Time for the ledger to take a write before the box counts as not ready.
const WRITABLE: Duration = Duration::from_secs(5);
/// Studies on a page.
const STUDIES_PER_PAGE: u32 = 50;
/// Deliveries of each kind that the queue page shows of a destination.
const DELIVERIES_SHOWN: u32 = 100;
/// Refusals shown of a peer.
const REFUSALS_SHOWN: usize = 5;

/// Everything comes from this origin, nothing runs, and nobody frames it.
const SECURITY_HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    // Not `no-referrer`: with it browsers send `Origin: null` with our own forms.
    ("referrer-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// What handlers share.
pub(super) struct App {
    pub(super) state: AdminState,
    pub(super) tokens: Tokens,
    pub(super) turns: Turns,
}

pub(super) use inspection::Turns;

type Shared = State<Arc<App>>;
type Caller = Extension<Operator>;

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(overview))
        .route("/studies", get(studies))
        .route("/studies/{key}", get(study))
        .route("/queue", get(queue))
        .route("/queue/{id}/replay", post(replay_delivery))
        .route("/queue/{id}/release", post(release))
        .route("/queue/replay-all", post(replay_all))
        .route("/jobs/{id}/replay", post(replay_job))
        .merge(models::routes())
        .merge(system::routes())
        .merge(inspection::routes())
        .route("/peers", get(peers))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .route("/style.css", get(style))
        .fallback(|| async { Failure::NotFound })
        .with_state(app)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(around))
}

/// Around every request: its time is bounded, and the security headers are on every answer.
async fn around(request: Request, next: Next) -> Response {
    let mut response = match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Why there is no page.
enum Failure {
    NotFound,
    Forbidden(String),
    Conflict(String),
    Unavailable(String),
    Ledger(LedgerError),
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::NotFound(_) => Failure::NotFound,
            LedgerError::Illegal(why) => Failure::Conflict(why),
            other => Failure::Ledger(other),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, what) = match self {
            Failure::NotFound => (StatusCode::NOT_FOUND, "There is nothing at this address.".to_owned()),
            Failure::Forbidden(why) => (StatusCode::FORBIDDEN, why),
            Failure::Conflict(why) => (StatusCode::CONFLICT, why),
            Failure::Unavailable(why) => {
                tracing::error!(reason = why, "an administration page could not be made");
                (StatusCode::SERVICE_UNAVAILABLE, why)
            }
            Failure::Ledger(error) => {
                tracing::error!(reason = error.to_string(), "an administration page could not be made");
                (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        };
        (status, Html(pages::failure(status.as_u16(), &what).into_string())).into_response()
    }
}

type Answer = Result<Html<String>, Failure>;

impl App {
    fn page<'a>(&'a self, operator: &'a Operator) -> Page<'a> {
        Page {
            site: &self.state.site,
            listening: &self.state.listening,
            operator,
            token: self.tokens.issue(&self.state.identity, operator),
            now_ms: self.state.clock.now_ms(),
            image_warning: self.state.image_warning.as_deref(),
        }
    }

    /// Why the box cannot do its work; empty when it can.
    async fn faults(&self) -> Vec<String> {
        let state = &self.state;
        let mut faults = Vec::new();
        if let Err(error) = state.ledger.read(queries::audit_head).await {
            faults.push(format!("the ledger cannot be read: {error}"));
        }
        match tokio::time::timeout(WRITABLE, state.ledger.write(|_| Ok(()))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => faults.push(format!("the ledger cannot be written: {error}")),
            Err(_) => faults.push("the ledger takes no write in time".into()),
        }
        if let Err(error) = state.objects.check_room() {
            faults.push(format!("nothing can be received: {error}"));
        }
        faults.extend((state.engine_fault)().map(|why| format!("no model can run: {why}")));
        faults.extend(
            (state.models)()
                .into_iter()
                .filter_map(|model| Some(format!("model \"{}\" cannot run: {}", model.name, model.fault?))),
        );
        faults
    }

    /// Puts on record what an operator did, or wanted to do, before it is answered.
    async fn audit(&self, operator: &Operator, outcome: Outcome, detail: Value) -> Result<(), Failure> {
        let event =
            Event::new(EventKind::OperatorAction, operator.name.as_str(), detail).with_outcome(outcome);
        match self.state.ledger.write(move |writer| writer.audit(&event)).await {
            // On a full disk the page is what the operator needs to see.
            Err(error) if error.is_full() && outcome == Outcome::Success => {
                tracing::error!(operator = operator.name, "disk full: a view could not be audited");
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Lets an operator act, or audits the refusal.
    async fn allow(
        &self,
        operator: &Operator,
        headers: &HeaderMap,
        token: &str,
        action: &str,
    ) -> Result<By, Failure> {
        match self.tokens.check(&self.state.identity, operator, headers, token) {
            Ok(()) => Ok(By { operator: operator.name.clone(), through: "page" }),
            Err(refused) => {
                let why = refused.to_string();
                let detail = json!({ "action": action, "through": "page", "refused": why });
                self.audit(operator, Outcome::Minor, detail).await?;
                Err(Failure::Forbidden(why))
            }
        }
    }
}

async fn overview(State(app): Shared, Extension(operator): Caller) -> Answer {
    let faults = app.faults().await;
    let dead = DeliveryFilter { states: vec![DeliveryState::Dead], limit: 5, ..DeliveryFilter::default() };
    let problems = StudyFilter { problems_only: true, limit: 5, ..StudyFilter::default() };
    let days = i64::try_from(app.state.site.file.store.keep_days).unwrap_or(i64::MAX);
    let aged = app.state.clock.now_ms().saturating_sub(days.saturating_mul(86_400_000));
    let (counts, dead, problems, refusals, seen, stuck) = app
        .state
        .ledger
        .read(move |reader| {
            Ok((
                queries::counts(reader)?,
                queries::deliveries(reader, &dead)?,
                queries::studies(reader, &problems)?,
                queries::refusals(reader, 1)?,
                queries::peer_certificates(reader)?,
                retention::stuck(reader, aged)?,
            ))
        })
        .await?;
    let health = pages::Health {
        faults,
        counts,
        dead,
        problems,
        refusals,
        expiries: expiries(&app.state.live.borrow(), &seen),
        reload_fault: app.state.reload_fault.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        models: (app.state.models)(),
        free_bytes: app.state.objects.free_bytes().ok(),
        stuck,
        started_ms: app.state.started_ms,
        fingerprint: app.state.identity.fingerprint(),
    };
    Ok(Html(pages::overview(&app.page(&operator), &health).into_string()))
}

#[derive(Deserialize)]
struct StudiesQuery {
    state: Option<String>,
    problems: Option<String>,
    before: Option<i64>,
}

async fn studies(
    State(app): Shared,
    Extension(operator): Caller,
    Query(query): Query<StudiesQuery>,
) -> Answer {
    let filter = StudyFilter {
        state: query.state.as_deref().and_then(StudyState::parse),
        problems_only: query.problems.is_some(),
        before: query.before,
        limit: STUDIES_PER_PAGE,
    };
    let lines = app.state.ledger.read(move |reader| queries::studies(reader, &filter)).await?;
    Ok(Html(pages::studies(&app.page(&operator), &filter, &lines).into_string()))
}

async fn study(State(app): Shared, Extension(operator): Caller, Path(key): Path<String>) -> Answer {
    let detail = app.state.ledger.read(move |reader| queries::study(reader, &key)).await?;
    let seen = json!({ "action": "viewed", "through": "page", "study": detail.line.key });
    app.audit(&operator, Outcome::Success, seen).await?;
    Ok(Html(pages::study(&app.page(&operator), &detail).into_string()))
}

async fn queue(State(app): Shared, Extension(operator): Caller) -> Answer {
    let named: Vec<String> =
        app.state.site.file.destination.iter().map(|destination| destination.name.clone()).collect();
    let queues = app
        .state
        .ledger
        .read(move |reader| {
            let mut lines = queries::destinations(reader)?;
            for name in named {
                lines.entry(name).or_default();
            }
            let mut queues = BTreeMap::new();
            for (name, line) in lines {
                let list = |states| {
                    let destination = Some(name.clone());
                    queries::deliveries(
                        reader,
                        &DeliveryFilter { states, destination, limit: DELIVERIES_SHOWN },
                    )
                };
                let waiting = list(vec![DeliveryState::Queued, DeliveryState::Sending])?;
                let dead = list(vec![DeliveryState::Dead])?;
                let mut held = list(vec![DeliveryState::Held])?;
                held.retain(queries::DeliveryLine::can_release);
                let states = vec![
                    DeliveryState::Queued,
                    DeliveryState::Sending,
                    DeliveryState::Dead,
                    DeliveryState::Held,
                ];
                let destination = Some(name.clone());
                let limit = DELIVERIES_SHOWN;
                let forwards = queries::forwards(reader, &DeliveryFilter { states, destination, limit })?;
                queues.insert(name, pages::Queue { line, waiting, dead, held, forwards });
            }
            Ok(queues)
        })
        .await?;
    Ok(Html(pages::queue(&app.page(&operator), &queues).into_string()))
}

async fn peers(State(app): Shared, Extension(operator): Caller) -> Answer {
    let open = app.state.places.open();
    let heard = app
        .state
        .ledger
        .read(|reader| {
            Ok(pages::Heard {
                refusals: queries::refusals(reader, REFUSALS_SHOWN)?,
                received: queries::last_received(reader)?,
                certificates: queries::peer_certificates(reader)?,
                open,
            })
        })
        .await?;
    Ok(Html(pages::peers(&app.page(&operator), &heard).into_string()))
}

#[derive(Deserialize)]
struct ReplayForm {
    #[serde(default)]
    token: String,
    #[serde(default)]
    destination: String,
}

async fn replay_delivery(
    State(app): Shared,
    Extension(operator): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Form(form): Form<ReplayForm>,
) -> Result<Redirect, Failure> {
    let id: Outgoing = id.parse().map_err(|_| Failure::NotFound)?;
    let by = app.allow(&operator, &headers, &form.token, "replay-delivery").await?;
    app.state.ledger.write(move |writer| Wish::Replay.act(writer, id, &by)).await?;
    app.state.changed.notify_one();
    Ok(Redirect::to("/queue"))
}

async fn replay_all(
    State(app): Shared,
    Extension(operator): Caller,
    headers: HeaderMap,
    Form(form): Form<ReplayForm>,
) -> Result<Redirect, Failure> {
    let by = app.allow(&operator, &headers, &form.token, "replay-all").await?;
    app.state
        .ledger
        .write(move |writer| Wish::Replay.act_on_all(writer, Some(&form.destination), &by))
        .await?;
    app.state.changed.notify_one();
    Ok(Redirect::to("/queue"))
}

async fn release(
    State(app): Shared,
    Extension(operator): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Form(form): Form<ReplayForm>,
) -> Result<Redirect, Failure> {
    let id: Outgoing = id.parse().map_err(|_| Failure::NotFound)?;
    let by = app.allow(&operator, &headers, &form.token, "release").await?;
    app.state.ledger.write(move |writer| Wish::Release.act(writer, id, &by)).await?;
    app.state.changed.notify_one();
    Ok(Redirect::to("/queue"))
}

async fn replay_job(
    State(app): Shared,
    Extension(operator): Caller,
    Path(id): Path<i64>,
    headers: HeaderMap,
    Form(form): Form<ReplayForm>,
) -> Result<Redirect, Failure> {
    let by = app.allow(&operator, &headers, &form.token, "replay-job").await?;
    let study = app.state.ledger.write(move |writer| replay::replay_job(writer, id, &by)).await?;
    app.state.changed.notify_one();
    Ok(Redirect::to(&format!("/studies/{study}")))
}

async fn readyz(State(app): Shared) -> (StatusCode, String) {
    let faults = app.faults().await;
    if faults.is_empty() {
        (StatusCode::OK, "ready\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", faults.join("\n")))
    }
}

async fn exposition(State(app): Shared) -> Result<Response, Failure> {
    let state = &app.state;
    let (counts, seen) = state
        .ledger
        .read(|reader| Ok((queries::counts(reader)?, queries::peer_certificates(reader)?)))
        .await?;
    let expiries = expiries(&state.live.borrow(), &seen);
    let machine = Machine {
        now_ms: state.clock.now_ms(),
        started_ms: state.started_ms,
        free_bytes: state.objects.free_bytes().ok(),
        reserve_bytes: state.site.file.store.reserve_mib << 20,
        ready: app.faults().await.is_empty(),
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
    };
    state.prometheus.run_upkeep();
    let text = state.prometheus.render() + &metrics::gauges(&counts, &machine, &expiries);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css"))
}
