//! The models' addresses. The person who decides is the one whose certificate was shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Form, Path, State};
use axum::http::HeaderMap;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use lightbox_models::life_cycle::{Event, State as LifeState};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, App, Caller, Failure, Shared};
use crate::admin::{Operator, pages};
use crate::audit::Outcome;
use crate::store::ledger::LedgerError;
use crate::store::models::{self, Actor, VersionRow};
use crate::update::{self, Folders, ShadowReport};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/models", get(all))
        .route("/models/check", post(check))
        .route("/models/{slot}/rollback", post(rollback))
        .route("/models/{slot}/disable", post(disable))
        .route("/models/{slot}/{digest}", get(one))
        .route("/models/{slot}/{digest}/shadow", get(shadow))
        .route("/models/{slot}/{digest}/approve", post(approve))
        .route("/models/{slot}/{digest}/refuse", post(refuse))
}

async fn all(State(app): Shared, Extension(operator): Caller) -> Answer {
    let found = app
        .state
        .ledger
        .read(|reader| {
            let slots = models::slots(reader)?;
            let mut events = BTreeMap::new();
            for slot in &slots {
                let mut of_slot = models::events(reader, &slot.slot, None)?;
                of_slot.reverse();
                events.insert(slot.slot.clone(), of_slot);
            }
            Ok(pages::Models {
                trust: models::trust(reader)?,
                versions: models::versions(reader, None)?,
                refused: models::refused_targets(reader)?,
                recalls: models::recalls(reader)?,
                slots,
                events,
            })
        })
        .await?;
    Ok(Html(pages::models(&app.page(&operator), &found).into_string()))
}

fn find(versions: Vec<VersionRow>, digest: &str) -> Result<VersionRow, LedgerError> {
    let found = versions.into_iter().find(|version| version.digest == digest);
    found.ok_or(LedgerError::NotFound("version of that model"))
}

async fn one(
    State(app): Shared,
    Extension(operator): Caller,
    Path((slot, digest)): Path<(String, String)>,
) -> Answer {
    let version = app
        .state
        .ledger
        .read(move |reader| {
            let row = find(models::versions(reader, Some(&slot))?, &digest)?;
            let decidable =
                matches!(row.state, LifeState::Accepted | LifeState::Shadow | LifeState::RolledBack);
            Ok(pages::Version {
                events: models::events(reader, &slot, Some(&digest))?,
                approvals: models::approvals(reader, &slot, &digest)?,
                plan: update::plan(reader, &slot)?,
                not_now: match decidable {
                    true => update::approval_refused(reader, &slot, &digest)?,
                    false => None,
                },
                has_report: ShadowReport::of(reader, &slot, &digest)?.is_some(),
                studies: models::touched(reader, &slot, &digest)?.len(),
                row,
            })
        })
        .await?;
    Ok(Html(pages::version(&app.page(&operator), &version).into_string()))
}

async fn shadow(
    State(app): Shared,
    Extension(_): Caller,
    Path((slot, digest)): Path<(String, String)>,
) -> Answer {
    let report = app.state.ledger.read(move |reader| ShadowReport::of(reader, &slot, &digest)).await?;
    Ok(Html(report.ok_or(Failure::NotFound)?.page))
}

#[derive(Deserialize)]
struct OrderForm {
    #[serde(default)]
    token: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    acknowledge: String,
}

/// Who decides, if they may: the certificate's name, never a name that a form says.
async fn actor(
    app: &App,
    operator: &Operator,
    headers: &HeaderMap,
    form: &OrderForm,
    action: &str,
) -> Result<Actor, Failure> {
    let name = app.allow(operator, headers, &form.token, action).await?.operator;
    let reason: String = form.reason.chars().filter(|one| !one.is_control()).take(500).collect();
    // The person is the account: the certificate says both.
    Ok(Actor { account: name.clone(), name, reason: reason.trim().to_owned() })
}

async fn check(
    State(app): Shared,
    Extension(operator): Caller,
    headers: HeaderMap,
    Form(form): Form<OrderForm>,
) -> Result<Redirect, Failure> {
    let actor = actor(&app, &operator, &headers, &form, "check-models").await?;
    app.state
        .ledger
        .write(move |writer| models::ask_check(writer, &actor.name, &actor.account, None))
        .await?;
    Ok(Redirect::to("/models"))
}

async fn approve(
    State(app): Shared,
    Extension(operator): Caller,
    Path((slot, digest)): Path<(String, String)>,
    headers: HeaderMap,
    Form(form): Form<OrderForm>,
) -> Result<Redirect, Failure> {
    let actor = actor(&app, &operator, &headers, &form, "approve-model").await?;
    let read = form.acknowledge == "yes";
    let back = Redirect::to(&format!("/models/{slot}/{digest}"));
    app.state.ledger.write(move |writer| update::approve(writer, &slot, &digest, &actor, read)).await?;
    app.state.changed.notify_one();
    Ok(back)
}

async fn refuse(
    State(app): Shared,
    Extension(operator): Caller,
    Path((slot, digest)): Path<(String, String)>,
    headers: HeaderMap,
    Form(form): Form<OrderForm>,
) -> Result<Redirect, Failure> {
    let actor = actor(&app, &operator, &headers, &form, "refuse-model").await?;
    app.state
        .ledger
        .write(move |writer| update::order(writer, &slot, &digest, Event::Refuse, &actor))
        .await?;
    Ok(Redirect::to("/models"))
}

async fn disable(
    State(app): Shared,
    Extension(operator): Caller,
    Path(slot): Path<String>,
    headers: HeaderMap,
    Form(form): Form<OrderForm>,
) -> Result<Redirect, Failure> {
    let actor = actor(&app, &operator, &headers, &form, "disable-model").await?;
    app.state
        .ledger
        .write(move |writer| {
            let active = models::active(writer.tx(), &slot)?;
            let active = active.ok_or_else(|| LedgerError::Illegal("no version is active".into()))?;
            update::order(writer, &slot, &active.digest, Event::Disable, &actor)
        })
        .await?;
    Ok(Redirect::to("/models"))
}

async fn rollback(
    State(app): Shared,
    Extension(operator): Caller,
    Path(slot): Path<String>,
    headers: HeaderMap,
    Form(form): Form<OrderForm>,
) -> Result<Redirect, Failure> {
    let actor = actor(&app, &operator, &headers, &form, "roll-back-model").await?;
    let state = app.state.clone();
    let folders = Folders::of(&state.site.file.appliance.data_dir);
    // It hashes the files of the version that it goes back to.
    let done = tokio::task::spawn_blocking(move || update::go_back(&state.ledger, &folders, &slot, actor));
    if let Err(error) = done.await.map_err(|_| Failure::Ledger(LedgerError::Panicked))? {
        let why = format!("{error:#}");
        let detail = json!({ "action": "roll-back-model", "through": "page", "refused": why });
        app.audit(&operator, Outcome::Minor, detail).await?;
        return Err(Failure::Conflict(why));
    }
    app.state.changed.notify_one();
    Ok(Redirect::to("/models"))
}
