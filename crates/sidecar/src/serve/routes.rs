//! Which path gives what.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use sidecar_exporters::prometheus::{Format, preferences};
use tokio::sync::Semaphore;

use super::{
    Source, Stats,
    pages::{Kind, PageError, Pages},
    probes, snapshot,
};
use crate::events::Filter;

/// The paths and what they are for; the front page and the 404 list them.
const PATHS: [(&str, &str); 7] = [
    ("/", "this list"),
    ("/metrics", "all metrics, in the Prometheus text format or OpenMetrics"),
    ("/healthz", "200 while the agent runs"),
    ("/readyz", "200 if the agent does what it was started for, else 503 and why not"),
    ("/api/v1/probes", "the state of every probe and what it is attached to, as JSON"),
    ("/api/v1/snapshot", "all rows of all metrics as JSON: metric, labels, value"),
    (
        "/api/v1/events",
        "events as they happen, one JSON object a line; ?types=A,B&pid=N&comm=NAME&cgroup=PATH&sample=N",
    ),
];

struct App {
    source: Arc<dyn Source>,
    pages: Pages,
    /// How long a page may take.
    patience: Duration,
    stats: Arc<Stats>,
    /// Places for readers of `/api/v1/snapshot`.
    snapshots: Arc<Semaphore>,
}

/// All routes.
pub(super) fn router(source: Arc<dyn Source>, patience: Duration, stats: Arc<Stats>) -> Router {
    let snapshots = Arc::new(Semaphore::new(snapshot::MOST_ALIVE));
    let app = App { source, pages: Pages::new(Arc::clone(&stats)), patience, stats, snapshots };
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready))
        .route("/api/v1/probes", get(probe_states))
        .route("/api/v1/snapshot", get(rows))
        .route("/api/v1/events", get(events))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(guard))
        .with_state(Arc::new(app))
}

/// What holds for every request and answer.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = if request.body().is_end_stream() {
        next.run(request).await
    } else {
        // The body stays unread, so nothing after it on this connection can be made sense of.
        let close = [(header::CONNECTION, "close")];
        (StatusCode::PAYLOAD_TOO_LARGE, close, "no path here takes a request body\n").into_response()
    };
    // Label values are whatever the network says; a browser must not take them for a page.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn index() -> Html<String> {
    let items = PATHS.map(|(path, what)| format!("<li><a href=\"{path}\">{path}</a> {what}</li>\n"));
    Html(format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>eBPF Sidecar</title>\n<h1>eBPF Sidecar {}</h1>\n<ul>\n{}</ul>\n",
        env!("CARGO_PKG_VERSION"),
        items.concat()
    ))
}

async fn not_found() -> Response {
    let lines = PATHS.map(|(path, what)| format!("{path}  {what}\n"));
    (StatusCode::NOT_FOUND, format!("no such path; there are:\n{}", lines.concat())).into_response()
}

async fn method_not_allowed() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "paths here take GET and HEAD only\n").into_response()
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    let ready = app.source.ready();
    let (status, word) =
        if ready.ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    let reasons: Vec<_> = ready.reasons.iter().map(|reason| format!("- {reason}\n")).collect();
    (status, format!("{word}\n{}", reasons.concat())).into_response()
}

async fn probe_states(State(app): State<Arc<App>>) -> Response {
    match probes::json(&app.source.probes()) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}; this is a bug\n")).into_response()
        }
    }
}

async fn rows(State(app): State<Arc<App>>) -> Response {
    let Ok(alive) = Arc::clone(&app.snapshots).try_acquire_owned() else {
        let most = snapshot::MOST_ALIVE;
        return unavailable(&format!("{most} snapshots are still being read; try again when they are done"));
    };
    match tokio::time::timeout(app.patience, app.source.request_snapshot()).await {
        Ok(Ok(rows)) => {
            let body = Body::new(snapshot::Document::new(rows, alive));
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Ok(Err(_)) => unavailable(&PageError::Stopping.to_string()),
        Err(_) => unavailable("no snapshot in time; /api/v1/probes shows which probe is stuck"),
    }
}

/// A stream that ends when the client or the agent goes.
async fn events(State(app): State<Arc<App>>, Query(pairs): Query<Vec<(String, String)>>) -> Response {
    let hub = app.source.events();
    let pairs = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let filter = match Filter::parse(pairs, hub.offered()) {
        Ok(filter) => filter,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let (stream, switched) = match hub.subscribe(filter) {
        Ok(subscribed) => subscribed,
        Err(error) => return unavailable(&error.to_string()),
    };
    // The answer begins when the probes are switched on: what happens from then on is in it.
    if !matches!(tokio::time::timeout(app.patience, switched).await, Ok(Ok(()))) {
        return unavailable("the probes cannot be switched on now; /api/v1/probes shows their state");
    }
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(stream)).into_response()
}

async fn metrics(State(app): State<Arc<App>>, method: Method, headers: HeaderMap) -> Response {
    let format = Format::negotiate(list(&headers, &header::ACCEPT).as_deref());
    let gzip = list(&headers, &header::ACCEPT_ENCODING).is_some_and(|list| wants_gzip(&list));
    let page = app.pages.get(&*app.source, Kind { format, gzip });
    let page = match tokio::time::timeout(app.patience, page).await {
        Ok(Ok(page)) => page,
        Ok(Err(error @ PageError::Failed(_))) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response();
        }
        Ok(Err(error)) => return unavailable(&error.to_string()),
        Err(_) => {
            let seconds = app.patience.as_secs_f64();
            return unavailable(&format!(
                "no metrics within {seconds} s; /api/v1/probes shows which probe is stuck"
            ));
        }
    };
    if method == Method::GET {
        app.stats.scrape(format, page.body.len());
    }
    let mut response = Response::new(Body::from(page.body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if page.gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], format!("{why}\n")).into_response()
}

/// The values of a list header that may be given several times, as one list.
fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn wants_gzip(accept_encoding: &str) -> bool {
    let quality = |coding: &str| preferences(accept_encoding).find(|p| p.is(coding)).map(|p| p.quality);
    let gzip = quality("gzip").or_else(|| quality("*")).unwrap_or(0);
    gzip > 0 && gzip >= quality("identity").unwrap_or(0)
}
