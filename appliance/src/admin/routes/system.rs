//! The addresses of the firmware image. The person who decides is the one whose certificate was shown.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Form, Path, State};
use axum::http::HeaderMap;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use serde::Deserialize;

use super::{Answer, App, Caller, Failure, Shared};
use crate::admin::pages;
use crate::store::system;
use crate::system::System;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/system", get(show))
        .route("/system/check", post(check))
        .route("/system/install/{version}", post(install))
}

async fn show(State(app): Shared, Extension(operator): Caller) -> Answer {
    let (trust, start, versions) = app
        .state
        .ledger
        .read(|reader| Ok((system::trust(reader)?, system::last_start(reader)?, system::versions(reader)?)))
        .await?;
    let found = pages::SystemPage { running: System::running(), trust, start, versions };
    Ok(Html(pages::system(&app.page(&operator), &found).into_string()))
}

#[derive(Deserialize)]
struct TokenForm {
    #[serde(default)]
    token: String,
}

async fn check(
    State(app): Shared,
    Extension(operator): Caller,
    headers: HeaderMap,
    Form(form): Form<TokenForm>,
) -> Result<Redirect, Failure> {
    let by = app.allow(&operator, &headers, &form.token, "check-system").await?.operator;
    app.state.ledger.write(move |writer| system::ask_check(writer, &by, &by, None)).await?;
    Ok(Redirect::to("/system"))
}

async fn install(
    State(app): Shared,
    Extension(operator): Caller,
    Path(version): Path<String>,
    headers: HeaderMap,
    Form(form): Form<TokenForm>,
) -> Result<Redirect, Failure> {
    let by = app.allow(&operator, &headers, &form.token, "install-system").await?.operator;
    app.state.ledger.write(move |writer| system::ask_install(writer, &version, &by, &by, false)).await?;
    Ok(Redirect::to("/system"))
}
