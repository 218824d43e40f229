//! Connections in numbers, for what they cost the agent rather than the machine.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;

/// Short connections with one byte there and back, both ends here; `per_second` 0 is as fast as it goes.
pub(crate) fn connections(count: u64, per_second: u64) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let begin = Instant::now();
    for number in 0..count {
        if per_second > 0 {
            let due = Duration::from_nanos(number * 1_000_000_000 / per_second);
            sleep(due.saturating_sub(begin.elapsed()));
        }
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        let mut byte = [1];
        client.write_all(&byte)?;
        server.read_exact(&mut byte)?;
        server.write_all(&byte)?;
        client.read_exact(&mut byte)?;
    }
    println!("@@connections {count} {}", begin.elapsed().as_nanos());
    Ok(())
}

/// Opens that many connections and keeps them until killed.
pub(crate) fn hold(count: u64) -> Result<()> {
    let _ = count;
    anyhow::bail!("not yet")
}

/// Connections that make that many label sets: one for each port.
pub(crate) fn spread(count: u64) -> Result<()> {
    let _ = count;
    anyhow::bail!("not yet")
}
