//! A reader of the agent's pages that does no more than a scraper must.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Longest we wait for an agent to be ready.
const LIMIT: Duration = Duration::from_mins(2);

/// The body of a page.
pub(crate) fn get(address: &str, path: &str) -> Result<String> {
    let address: SocketAddr = address.parse().with_context(|| format!("`{address}` is no address"))?;
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of its head")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("{path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// Waits until the agent says that it is ready.
pub(crate) fn ready(address: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        match get(address, "/readyz") {
            Ok(_) => return Ok(()),
            Err(error) if begin.elapsed() > LIMIT => {
                return Err(error.context(format!("not ready after {} s", LIMIT.as_secs())));
            }
            Err(_) => sleep(Duration::from_millis(1)),
        }
    }
}

/// Reads the metrics every so many seconds until killed.
pub(crate) fn scrape(address: &str, seconds: u64) -> Result<()> {
    loop {
        get(address, "/metrics")?;
        sleep(Duration::from_secs(seconds));
    }
}

/// The value of a series without labels, or the sum over its labels.
pub(crate) fn value(page: &str, metric: &str) -> Result<f64> {
    let mut values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    let first = values.next().with_context(|| format!("the agent has no metric {metric}"))?;
    Ok(first + values.sum::<f64>())
}
