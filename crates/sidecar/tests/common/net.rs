//! TCP connections under a test's control, and what the kernel itself counts for them.

use std::{
    collections::BTreeMap,
    collections::BTreeSet,
    io::{Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    sync::Mutex,
    thread,
    time::Duration,
};

use super::{Agent, Page, Side};

/// `struct tcp_info` (`include/uapi/linux/tcp.h`) up to what we compare with: the figures `ss -ti` prints.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TcpInfo {
    pub(crate) state: u8,
    before: [u8; 4],
    options: u8,
    scales: [u8; 2],
    timers: [u32; 15],
    /// Microseconds.
    pub(crate) rtt: u32,
    middle: [u32; 7],
    pub(crate) total_retrans: u32,
    pacing: [u64; 2],
    pub(crate) bytes_acked: u64,
    pub(crate) bytes_received: u64,
    pub(crate) segs_out: u32,
    pub(crate) segs_in: u32,
    rest: [u32; 4],
    rates: [u64; 4],
    delivered: [u32; 2],
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_retrans: u64,
}

/// `TcpInfo::state` when it is over (`include/net/tcp_states.h`).
const TCP_CLOSE: u8 = 7;

impl TcpInfo {
    /// `TCPI_OPT_…` bits.
    pub(crate) fn options(&self) -> u8 {
        self.options
    }
}

const _: () = {
    assert!(std::mem::offset_of!(TcpInfo, options) == 5);
    assert!(std::mem::offset_of!(TcpInfo, rtt) == 68);
    assert!(std::mem::offset_of!(TcpInfo, total_retrans) == 100);
    assert!(std::mem::offset_of!(TcpInfo, segs_out) == 136);
    assert!(std::mem::offset_of!(TcpInfo, bytes_sent) == 200);
};

/// What the kernel has counted for a socket.
pub(crate) fn info(socket: &impl AsRawFd) -> TcpInfo {
    let mut info = MaybeUninit::<TcpInfo>::zeroed();
    let mut length = size_of::<TcpInfo>() as u32;
    // SAFETY: a valid buffer of the length given; any bytes make a `TcpInfo`.
    unsafe {
        let fd = socket.as_raw_fd();
        let result = libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        assert_eq!(result, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
        assert_eq!(length as usize, size_of::<TcpInfo>(), "this kernel's tcp_info is shorter");
        info.assume_init()
    }
}

/// The traffic part of a side as `TCP_INFO` has it. `fins` is how many FINs it has received: the kernel counts each as a
/// received byte.
pub(crate) fn truth(info: &TcpInfo, fins: u64) -> Side {
    Side {
        sent: info.bytes_sent - info.bytes_retrans,
        received: info.bytes_received - fins,
        packets_sent: info.segs_out.into(),
        packets_received: info.segs_in.into(),
        retransmits: info.total_retrans.into(),
        ..Side::default()
    }
}

/// The traffic part of what the agent says.
pub(crate) fn traffic(side: &Side) -> Side {
    Side { opened: 0, active: 0, closed: BTreeMap::new(), failed: BTreeMap::new(), ..side.clone() }
}

/// Sets an integer option.
pub(crate) fn set(socket: &impl AsRawFd, level: i32, option: i32, value: i32) {
    // SAFETY: a valid integer of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    assert_eq!(result, 0, "setsockopt {level}/{option}: {}", std::io::Error::last_os_error());
}

/// Makes `close()` send a RST.
pub(crate) fn linger_zero(socket: &impl AsRawFd) {
    let value = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: a valid struct of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const value).cast(),
            size_of::<libc::linger>() as u32,
        )
    };
    assert_eq!(result, 0);
}

/// A TCP socket that is not connected yet.
pub(crate) fn socket(family: i32) -> OwnedFd {
    // SAFETY: no pointers involved; the descriptor is ours alone.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}

/// An IPv4 address for the system calls below.
fn raw(address: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(address) = address else { panic!("not IPv4") };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// `connect()` as it is, blocking or not, to an IPv4 address; its errno if it fails.
pub(crate) fn connect(socket: &impl AsRawFd, to: SocketAddr) -> Result<(), i32> {
    let (address, length) = (raw(to), size_of::<libc::sockaddr_in>() as u32);
    // SAFETY: a valid address of the length given.
    errno(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

/// `bind()` as it is.
pub(crate) fn bind(socket: &impl AsRawFd, to: SocketAddr) -> Result<(), i32> {
    let (address, length) = (raw(to), size_of::<libc::sockaddr_in>() as u32);
    // SAFETY: a valid address of the length given.
    errno(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

/// `connect()` with `AF_UNSPEC`: dissolves the connection and leaves the socket for another.
pub(crate) fn disconnect(socket: &impl AsRawFd) -> Result<(), i32> {
    let address = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    // SAFETY: a valid address of the length given.
    errno(unsafe {
        libc::connect(socket.as_raw_fd(), &raw const address, size_of::<libc::sockaddr>() as u32)
    })
}

/// `listen()` with a backlog of the caller's choice on a bound socket.
pub(crate) fn listen(socket: &impl AsRawFd, backlog: i32) -> Result<(), i32> {
    // SAFETY: no pointers involved.
    errno(unsafe { libc::listen(socket.as_raw_fd(), backlog) })
}

/// Connects with the data already in the first packet (`MSG_FASTOPEN`); how much was taken.
pub(crate) fn send_first(socket: &impl AsRawFd, to: SocketAddr, data: &[u8]) -> Result<usize, i32> {
    let (address, length) = (raw(to), size_of::<libc::sockaddr_in>() as u32);
    // SAFETY: valid data and a valid address of the lengths given.
    let sent = unsafe {
        let (data, count) = (data.as_ptr().cast(), data.len());
        libc::sendto(socket.as_raw_fd(), data, count, libc::MSG_FASTOPEN, (&raw const address).cast(), length)
    };
    if sent < 0 { errno(-1).map(|()| 0) } else { Ok(sent as usize) }
}

fn errno(result: i32) -> Result<(), i32> {
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error().unwrap()) }
}

/// A port on this address that nobody listens on.
pub(crate) fn closed_port() -> SocketAddr {
    let listener = listener();
    listener.local_addr().unwrap()
}

/// A listener whose queue is full, so that further SYNs go unanswered; and what fills it.
pub(crate) fn full_listener() -> (OwnedFd, SocketAddr, Vec<TcpStream>) {
    let listener = socket(libc::AF_INET);
    bind(&listener, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    listen(&listener, 1).unwrap();
    let (listener, address) = {
        let listener = TcpListener::from(listener);
        let address = listener.local_addr().unwrap();
        (OwnedFd::from(listener), address)
    };
    // A queue of 1 holds two.
    let filling = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
    (listener, address, filling)
}

/// Listens on 127.0.0.1.
pub(crate) fn listener() -> TcpListener {
    listener_at((Ipv4Addr::LOCALHOST, 0).into())
}

/// Listens on an address of this machine; on a port no other test of this process has had, because the agent they share
/// would count both connections as one service's.
pub(crate) fn listener_at(address: SocketAddr) -> TcpListener {
    static USED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut refused = Vec::new();
    loop {
        let listener = TcpListener::bind(address).unwrap();
        if address.port() != 0 || USED.lock().unwrap().insert(listener.local_addr().unwrap().port()) {
            return listener;
        }
        refused.push(listener);
    }
}

/// Both ends of one connection in this process.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    pub(crate) listener: TcpListener,
    pub(crate) port: u16,
}

impl Pair {
    /// Over 127.0.0.1.
    pub(crate) fn new() -> Self {
        Self::over(Ipv4Addr::LOCALHOST.into())
    }

    /// Over an address of this machine.
    pub(crate) fn over(address: IpAddr) -> Self {
        Self::at(SocketAddr::new(address, 0))
    }

    /// Listening on an address of this machine, with a scope or a port if need be.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let listener = listener_at(address);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = accept_from(&listener, &client);
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        Self { port: listener.local_addr().unwrap().port(), client, server, listener }
    }

    /// Moves bytes both ways and reads them all.
    pub(crate) fn exchange(&self, to_server: usize, to_client: usize) {
        send(&self.client, &self.server, to_server);
        send(&self.server, &self.client, to_client);
    }

    /// The client sends its FIN first, then the server, and both ends are closed; what the kernel counted at last.
    pub(crate) fn finish(self) -> (TcpInfo, TcpInfo) {
        use std::net::Shutdown::Write;
        self.client.shutdown(Write).unwrap();
        assert_eq!((&self.server).read(&mut [0]).unwrap(), 0);
        self.server.shutdown(Write).unwrap();
        assert_eq!((&self.client).read(&mut [0]).unwrap(), 0);
        super::eventually("closed on both sides", || {
            info(&self.client).state == TCP_CLOSE && info(&self.server).state == TCP_CLOSE
        });
        (info(&self.client), info(&self.server))
    }

    /// A page and the kernel's counters, both of a time in which nothing moved.
    pub(crate) fn at_rest(&self, agent: &Agent) -> (Page, TcpInfo, TcpInfo) {
        let key = |info: &TcpInfo| (info.segs_in, info.segs_out, info.bytes_received, info.bytes_sent);
        for _ in 0..20 {
            let before = (info(&self.client), info(&self.server));
            let page = agent.scrape();
            let after = (info(&self.client), info(&self.server));
            if key(&before.0) == key(&after.0) && key(&before.1) == key(&after.1) {
                return (page, after.0, after.1);
            }
        }
        panic!("the connection never came to rest");
    }
}

/// The connection `client` made, whatever else arrives at the listener.
pub(crate) fn accept_from(listener: &TcpListener, client: &TcpStream) -> TcpStream {
    loop {
        let (server, peer) = listener.accept().unwrap();
        if peer.port() == client.local_addr().unwrap().port() {
            return server;
        }
    }
}

/// Sends `length` bytes through a connection and reads them at its other end.
pub(crate) fn send(from: &TcpStream, to: &TcpStream, length: usize) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = vec![b'x'; 64 * 1024];
            let mut left = length;
            while left > 0 {
                left -= { from }.write(&chunk[..left.min(chunk.len())]).unwrap();
            }
        });
        receive(to, length);
    });
}

/// Reads exactly `length` bytes.
pub(crate) fn receive(mut from: &TcpStream, length: usize) {
    let mut chunk = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let room = left.min(chunk.len());
        let got = from.read(&mut chunk[..room]).unwrap();
        assert!(got > 0, "the connection ended with {left} bytes missing");
        left -= got;
    }
}

/// Reads to the end, or to an error; how much there was.
pub(crate) fn receive_all(mut from: &TcpStream) -> usize {
    let mut chunk = vec![0; 64 * 1024];
    let mut sum = 0;
    while let Ok(got @ 1..) = from.read(&mut chunk) {
        sum += got;
    }
    sum
}

/// Waits until everything sent has been acknowledged.
pub(crate) fn acknowledged(socket: &impl AsRawFd) {
    super::eventually("acknowledged", || {
        let mut left = 0i32;
        // SAFETY: SIOCOUTQ writes an integer.
        assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) }, 0);
        left == 0
    });
}

/// A moment for what takes no acknowledgement.
pub(crate) fn moment() {
    thread::sleep(Duration::from_millis(50));
}
