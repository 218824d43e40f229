//! The measured operations. Each does one thing with as little of its own around it as possible, over and over, so that
//! what differs between two runs is what was added by something else.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

/// How this program is told to be the other end.
pub(crate) const PEER: &str = "peer";

/// Does `operations` of a workload `blocks` times and prints nanoseconds per operation of each block.
pub(crate) fn measure(workload: &str, blocks: u64, operations: u64) -> Result<()> {
    let mut operation = operation(workload)?;
    // What is set up once, such as caches and slabs, is not what we ask for.
    for _ in 0..operations {
        operation()?;
    }
    let mut times = Vec::with_capacity(blocks as usize);
    for _ in 0..blocks {
        let begin = Instant::now();
        for _ in 0..operations {
            operation()?;
        }
        times.push(begin.elapsed());
    }
    // Only now: writing to the console is work, too.
    for time in times {
        println!("@@block {workload} {:.1}", time.as_nanos() as f64 / operations as f64);
    }
    Ok(())
}

type Operation = Box<dyn FnMut() -> Result<()>>;

fn operation(workload: &str) -> Result<Operation> {
    Ok(match workload {
        "roundtrip" => roundtrip()?,
        "connect" => connect()?,
        "openclose" => Box::new(|| {
            drop(File::open("/etc/hosts")?);
            Ok(())
        }),
        "spawn" => Box::new(|| {
            let status = Command::new("/bin/true").env_clear().status().context("cannot start /bin/true")?;
            anyhow::ensure!(status.success(), "/bin/true failed: {status}");
            Ok(())
        }),
        "getppid" => Box::new(|| {
            // SAFETY: no arguments, cannot fail.
            unsafe { libc::getppid() };
            Ok(())
        }),
        "udp" => udp()?,
        "frame" => frame()?,
        _ => bail!("there is no workload `{workload}`"),
    })
}

/// The other end: this program again, in a process of its own that ends with us.
struct Peer {
    process: Child,
    address: SocketAddr,
}

impl Peer {
    fn start() -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(PEER)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the other end")?;
        let mut line = String::new();
        let output = process.stdout.take().context("the other end has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().context("the other end gave no address")?;
        Ok(Self { process, address })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Answers each byte, one connection after the other, until killed.
pub(crate) fn peer() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
    }
}

/// One byte there and back on a connection that stays.
fn roundtrip() -> Result<Operation> {
    let peer = Peer::start()?;
    let mut stream = TcpStream::connect(peer.address)?;
    stream.set_nodelay(true)?;
    Ok(Box::new(move || {
        // All of it: what is not captured ends here, and with it the other end.
        let _peer = &peer;
        exchange(&mut stream)
    }))
}

/// A connection of its own for one byte there and back.
fn connect() -> Result<Operation> {
    let peer = Peer::start()?;
    Ok(Box::new(move || {
        // As above: not the address alone.
        let peer = &peer;
        exchange(&mut TcpStream::connect(peer.address)?)
    }))
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    let mut byte = [1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(())
}

/// A datagram to ourselves.
fn udp() -> Result<Operation> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(socket.local_addr()?)?;
    Ok(Box::new(move || {
        let mut byte = [1];
        socket.send(&byte)?;
        socket.recv(&mut byte)?;
        Ok(())
    }))
}

/// The end of the cable that frames are sent into.
const CABLE: &std::ffi::CStr = c"cable0";

/// A frame with a UDP datagram to nobody, into one end of a cable and out of the other, where the kernel drops it.
fn frame() -> Result<Operation> {
    // SAFETY: plain system calls with a valid name and a valid address of the length given.
    let socket = unsafe {
        let index = libc::if_nametoindex(CABLE.as_ptr());
        anyhow::ensure!(index != 0, "there is no {CABLE:?}");
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        if socket < 0 || libc::bind(socket, (&raw const address).cast(), size_of_val(&address) as u32) != 0 {
            return Err(std::io::Error::last_os_error()).context("no packet socket");
        }
        OwnedFd::from_raw_fd(socket)
    };
    let mut frame = vec![2u8, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    // 8 + 100 bytes of UDP, from 192.0.2.1 to 192.0.2.2.
    frame.extend([0x45, 0, 0, 128, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend([0, 7, 0, 9, 0, 108, 0, 0]);
    frame.resize(14 + 128, 0);
    Ok(Box::new(move || {
        // SAFETY: a valid buffer of the length given.
        let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        anyhow::ensure!(sent == frame.len() as isize, "sending a frame: {}", std::io::Error::last_os_error());
        Ok(())
    }))
}
