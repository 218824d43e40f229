//! Accepting connections, and the limits each of them lives under.

use std::{io::Write, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{Limits, Stats, stream::Timed};

/// Largest request head. Enough for a browser that brings the cookies of everything else on the host.
pub(super) const HEAD_BYTES: usize = 16 << 10;
/// Most header fields of a request.
const HEAD_FIELDS: usize = 64;
/// How long to leave a machine alone that is out of file descriptors or memory.
const BREATH: Duration = Duration::from_millis(100);

/// Serves connections until `shutdown`, and then what is open for as long as the limits say.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stats: &Stats,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < limits.connections => {
                    connections.spawn(serve(stream, router.clone(), limits, stopped.clone()));
                }
                Ok((stream, _)) => {
                    stats.refuse_connection();
                    refuse(stream, limits.connections);
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}; check the limit on open files");
                    tokio::time::sleep(BREATH).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(());
    let finished = async { while connections.join_next().await.is_some() {} };
    // What is left is cut off when `connections` is dropped.
    let _ = tokio::time::timeout(limits.shutdown, finished).await;
}

async fn serve(stream: TcpStream, router: Router, limits: Limits, mut stopped: watch::Receiver<()>) {
    // Not having it costs at most a delayed answer.
    let _ = stream.set_nodelay(true);
    let stream = TokioIo::new(Timed::new(stream, limits.answer));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS);
    let mut connection = std::pin::pin!(http.serve_connection(stream, TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}

/// Tells a client that there are too many, as far as one write without waiting can.
fn refuse(stream: TcpStream, most: usize) {
    let text = format!("{most} connections are open already; close some or wait\n");
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(answer.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}
