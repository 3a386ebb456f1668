//! `/metrics` over plain HTTP, on an address of its own: the CRI socket is root's.

use super::Metrics;
use crate::chain::chain;
use crate::host::blocking;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Prometheus' text format (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The address cannot be served at.
#[derive(Debug, thiserror::Error)]
#[error("listen for metrics on {address}")]
pub(crate) struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

/// Answers scrapes until the daemon ends.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let scrape = move || scraped(Arc::clone(&metrics));
    let router = Router::new().route("/metrics", get(scrape));
    if let Err(err) = axum::serve(listener, router).await {
        tracing::error!(err = chain(&err), "serve metrics");
    }
}

async fn scraped(metrics: Arc<Metrics>) -> Response {
    match blocking(move || metrics.text()).await {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(err) => (StatusCode::INTERNAL_SERVER_ERROR, err.to_string()).into_response(),
    }
}
