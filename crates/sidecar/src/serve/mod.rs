//! The agent's HTTP side: metrics, health and the state of the probes, on one port.
//!
//! Whoever can reach the port must not be able to hurt the service next to it, so everything a client can make the
//! agent hold is bounded: connections, head size, the time to send a request and to take its answer, the number of
//! pages kept for slow readers. Nothing here blocks the thread the collectors run on: a page is written and compressed
//! on another one.

mod bind;
mod connection;
mod pages;
pub(crate) mod probes;
mod routes;
mod snapshot;
mod stats;
mod stream;
#[cfg(test)]
mod test;
#[cfg(test)]
mod test_events;
#[cfg(test)]
mod test_limits;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use sidecar_core::{ProbeReport, Snapshot};
use tokio::sync::oneshot;

use crate::events::Hub;
pub(crate) use bind::BindError;
pub(crate) use stats::{METRICS, Stats};

/// What is served. The agent implements it, tests fake it.
pub(crate) trait Source: Send + Sync {
    /// Asks for a snapshot that is at most half a second old. The sender may be dropped to say that there is none; the
    /// receiver may be gone by the time it is answered.
    fn request_snapshot(&self) -> oneshot::Receiver<Arc<Snapshot>>;
    /// Whether the agent does what it was started for.
    fn ready(&self) -> Ready;
    /// Every probe's state.
    fn probes(&self) -> Vec<ProbeReport>;
    /// Where events can be subscribed to.
    fn events(&self) -> Arc<Hub>;
}

/// The answer to `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Whether traffic may be sent to, or trust be put in, this agent.
    pub(crate) ready: bool,
    /// Why not, or what is not as it should be all the same; one line each.
    pub(crate) reasons: Vec<String>,
}

/// What one client, and all of them together, may use up.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections at a time; one more is told so and closed.
    connections: usize,
    /// To send a whole request head, counted from the end of the request before it: the idle time, too.
    head: Duration,
    /// To take a whole answer.
    answer: Duration,
    /// For the agent to come up with a page.
    page: Duration,
    /// For open requests to be answered after the agent was told to stop.
    shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(20),
            answer: Duration::from_secs(30),
            page: Duration::from_secs(10),
            shutdown: Duration::from_millis(800),
        }
    }
}

/// A bound port. Binding comes first so that a port in use is reported before any probe is attached.
pub(crate) struct Server {
    listener: TcpListener,
    limits: Limits,
    stats: Arc<Stats>,
}

impl Server {
    /// Takes the port; clients can connect from here on and wait for [`Server::serve`].
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let listener = bind::bind(address)?;
        Ok(Self { listener, limits: Limits::default(), stats: Arc::default() })
    }

    /// The address it is bound to, with the port the kernel chose if 0 was asked for.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What has been served, for the agent's own metrics.
    pub(crate) fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Serves until `shutdown` is there and then for up to a second more, to finish what has begun.
    pub(crate) async fn serve(
        self,
        source: Arc<dyn Source>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let router = routes::router(source, self.limits.page, Arc::clone(&self.stats));
        connection::accept(listener, router, self.limits, &self.stats, shutdown).await;
        Ok(())
    }
}
