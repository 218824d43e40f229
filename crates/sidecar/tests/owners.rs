//! Whose socket it is: servers that fork, workers that share a listener, sockets that change hands, threads with names of
//! their own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, FromRawFd as _, RawFd},
        unix::{fs::symlink, net::UnixStream, process::CommandExt as _},
    },
    process::Command,
    thread,
};

use common::{
    Agent, Pair, Scratch, Side,
    child::{Child, hear, tell},
    net::{self, receive, send},
    own_comm,
};

fn listener() -> (TcpListener, u16) {
    let listener = net::listener();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).unwrap()
}

/// What is counted for one process name on the listening side.
fn server(agent: &Agent, port: u16, comm: &str) -> Side {
    agent.scrape().side(&[("dst_port", &port.to_string()), ("role", "server"), ("comm", comm)])
}

#[test]
fn both_sides_carry_the_name_of_the_process() {
    let agent = shared!();
    let pair = Pair::new();
    let page = agent.scrape();
    for role in ["client", "server"] {
        assert_eq!(page.values("comm", pair.port, role), [own_comm()]);
    }
}

#[test]
fn a_thread_with_a_name_of_its_own_counts_under_its_process() {
    let agent = shared!();
    let (listener, port) = listener();
    let accepting = thread::Builder::new().name("acceptor-7".into());
    let accepting = accepting.spawn(move || listener.accept().unwrap().0).unwrap();
    let connecting = thread::Builder::new().name("connector-7".into());
    let client = connecting.spawn(move || connect(port)).unwrap().join().unwrap();
    let accepted = accepting.join().unwrap();
    send(&client, &accepted, 10);
    let page = agent.scrape();
    for role in ["client", "server"] {
        assert_eq!(page.values("comm", port, role), [own_comm()], "{role}");
    }
}

#[test]
fn a_connection_accepted_by_a_forked_child_is_the_childs() {
    let agent = shared!();
    let (listener, port) = listener();
    let mut child = Child::fork("forked-child", &[&listener], |line| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 321]).unwrap();
        tell(line, 1);
        hear(line);
    });
    let mut client = connect(port);
    client.write_all(&[1; 321]).unwrap();
    child.hear();
    let side = server(agent, port, "forked-child");
    assert_eq!((side.opened, side.active, side.received), (1, 1, 321));
    child.tell(1);
    child.join();
    drop(client);
    agent.when_ended(port, 1);
    let side = server(agent, port, "forked-child");
    assert_eq!((side.opened, side.active, side.closed("normal")), (1, 0, 1));
    let all = agent.scrape().both(port).1;
    assert_eq!(all, side, "nobody else has any of it");
}

#[test]
fn each_of_several_workers_on_one_listener_owns_what_it_accepts() {
    let agent = shared!();
    let (listener, port) = listener();
    let names = ["worker-a", "worker-b", "worker-c"];
    let mut workers: Vec<Child> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            Child::fork(name, &[&listener], |line| {
                hear(line);
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(&vec![1; 1000 * (number + 1)]).unwrap();
                tell(line, 1);
                hear(line);
            })
        })
        .collect();
    let mut clients = Vec::new();
    for (number, worker) in workers.iter_mut().enumerate() {
        worker.tell(1);
        let client = connect(port);
        receive(&client, 1000 * (number + 1));
        worker.hear();
        clients.push(client);
    }
    for (number, name) in names.iter().enumerate() {
        let side = server(agent, port, name);
        assert_eq!((side.opened, side.active, side.sent), (1, 1, 1000 * (number as u64 + 1)), "{name}");
    }
    for mut worker in workers {
        worker.tell(1);
        worker.join();
    }
    drop(clients);
    agent.when_ended(port, 3);
    for name in names {
        let side = server(agent, port, name);
        assert_eq!((side.opened, side.active, side.closed("normal")), (1, 0, 1), "{name}");
    }
}

#[test]
fn short_connections_belong_to_the_worker_that_served_them() {
    let agent = shared!();
    let (listener, port) = listener();
    let names = ["short-a", "short-b"];
    for (number, name) in names.iter().enumerate() {
        let rounds = 5 * (number + 1);
        let mut worker = Child::fork(name, &[&listener], |line| {
            for _ in 0..rounds {
                tell(line, 1);
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut [0; 10]).unwrap();
                stream.write_all(&[1; 20]).unwrap();
            }
        });
        for _ in 0..rounds {
            worker.hear();
            let mut client = connect(port);
            client.write_all(&[1; 10]).unwrap();
            receive(&client, 20);
            // The server closes first.
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        worker.join();
    }
    agent.when_ended(port, 15);
    for (number, name) in names.iter().enumerate() {
        let rounds = 5 * (number as u64 + 1);
        let side = server(agent, port, name);
        assert_eq!((side.opened, side.closed("normal"), side.active), (rounds, rounds, 0), "{name}");
        assert_eq!((side.received, side.sent), (10 * rounds, 20 * rounds), "{name}");
    }
}

#[test]
fn a_process_for_each_connection_loses_and_doubles_nothing() {
    let agent = shared!();
    let (listener, port) = listener();
    let parent = Child::fork("per-connection", &[&listener], |_| {
        for _ in 0..8 {
            let (stream, _) = listener.accept().unwrap();
            let child = Child::fork("per-connection", &[&stream], |_| {
                (&stream).read_exact(&mut [0; 50]).unwrap();
                (&stream).write_all(&[1; 60]).unwrap();
            });
            drop(stream);
            child.join();
        }
    });
    let mut clients: Vec<TcpStream> = (0..8).map(|_| connect(port)).collect();
    for client in &mut clients {
        client.write_all(&[1; 50]).unwrap();
        receive(client, 60);
    }
    drop(clients);
    agent.when_ended(port, 8);
    let page = agent.scrape();
    let side = page.both(port).1;
    assert_eq!((side.opened, side.ended(), side.active), (8, 8, 0));
    assert_eq!((side.received, side.sent), (400, 480));
    // Those the agent met while they waited to be accepted were the listener's then.
    let names = page.values("comm", port, "server");
    assert!(names.iter().all(|name| *name == "per-connection" || *name == own_comm()), "{names:?}");
    assert_eq!(server(agent, port, "per-connection").ended(), 8);
    parent.line.shutdown(std::net::Shutdown::Both).unwrap();
    parent.join();
}

#[test]
fn a_connection_passed_to_another_process_is_counted_once_and_to_the_byte() {
    let agent = shared!();
    let (listener, port) = listener();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut receiver = Child::fork("socket-receiver", &[&theirs], |line| {
        let mut stream = receive_socket(&theirs);
        stream.read_exact(&mut [0; 2000]).unwrap();
        tell(line, 1);
        hear(line);
    });
    let mut acceptor = Child::fork("socket-acceptor", &[&listener, &ours], |line| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
        tell(line, 1);
        hear(line);
        send_socket(&ours, stream.as_raw_fd());
        drop(stream);
        tell(line, 1);
        hear(line);
    });
    let mut client = connect(port);
    client.write_all(&[1; 1000]).unwrap();
    acceptor.hear();
    let before = server(agent, port, "socket-acceptor");
    assert_eq!((before.opened, before.active, before.received), (1, 1, 1000));
    acceptor.tell(1);
    acceptor.hear();
    client.write_all(&[1; 2000]).unwrap();
    receiver.hear();
    // Who passed it on stays its owner: moving it would make counters go backwards or a connection active twice.
    let after = agent.scrape().both(port).1;
    assert_eq!((after.opened, after.active, after.received), (1, 1, 3000));
    acceptor.kill();
    let after = agent.scrape().both(port).1;
    assert_eq!((after.active, after.ended()), (1, 0), "it lives on with the receiver");
    receiver.tell(1);
    receiver.join();
    drop(client);
    let end = agent.when_ended(port, 1).both(port).1;
    assert_eq!((end.opened, end.active, end.closed("normal"), end.received), (1, 0, 1, 3000));
}

fn send_socket(to: &UnixStream, socket: RawFd) {
    let data = [0u8];
    let parts = [IoSlice::new(&data)];
    let mut control = [0u64; 4];
    // SAFETY: the header describes live buffers; the control buffer has room for one descriptor and is aligned.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = parts.as_ptr() as *mut libc::iovec;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(socket);
        assert_eq!(libc::sendmsg(to.as_raw_fd(), &raw const message, 0), 1);
    }
}

fn receive_socket(from: &UnixStream) -> TcpStream {
    let mut data = [0u8];
    let mut parts = [IoSliceMut::new(&mut data)];
    let mut control = [0u64; 4];
    // SAFETY: as above; the descriptor received is ours alone.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = parts.as_mut_ptr().cast();
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        assert_eq!(libc::recvmsg(from.as_raw_fd(), &raw mut message, 0), 1);
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        TcpStream::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned())
    }
}

#[test]
fn a_program_counts_under_the_name_of_its_file() {
    let agent = shared!();
    let scratch = Scratch::new();
    let file = scratch.0.join("another-name");
    symlink(common::agent::binary(), &file).unwrap();
    // A second agent, which serves but watches nothing, is a program as good as any.
    let flags = ["--listen", "127.0.0.1:0", "--no-probe", "connection"];
    let other = Agent::spawn(common::agent::command_of(&file, &flags));
    let port = other.address.port();
    let before = server(agent, port, "another-name");
    let mut stream = connect(port);
    let request = b"GET /healthz HTTP/1.0\r\n\r\n";
    stream.write_all(request).unwrap();
    let answered = net::receive_all(&stream) as u64;
    drop(stream);
    let page = agent.when(port, "ended", |page| page.both(port).1.ended() == before.ended() + 1);
    let after = page.both(port).1;
    assert_eq!(page.values("comm", port, "server"), ["another-name"]);
    assert_eq!((after.opened, after.received), (before.opened + 1, before.received + request.len() as u64));
    assert_eq!(after.sent, before.sent + answered);
    other.stop();
}

#[test]
fn a_process_that_becomes_another_program_keeps_its_connection_under_the_old_name() {
    let agent = shared!();
    let (listener, port) = listener();
    let sleep = common::program("sleep").expect("every machine has sleep");
    let child = Child::fork("before-exec", &[], |_| {
        let mut stream = connect(port);
        stream.write_all(&[1; 55]).unwrap();
        // SAFETY: a valid descriptor; it is to survive exec.
        unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_SETFD, 0) };
        let _ = Command::new(sleep).arg("60").exec();
    });
    let (mut server, _) = listener.accept().unwrap();
    receive(&server, 55);
    common::eventually("exec", || {
        fs::read_to_string(format!("/proc/{}/comm", child.pid)).unwrap_or_default() != "before-exec\n"
    });
    server.write_all(&[1; 5]).unwrap();
    let page = agent.scrape();
    assert_eq!(page.values("comm", port, "client"), ["before-exec"]);
    let side = page.both(port).0;
    assert_eq!((side.sent, side.received, side.active, side.opened), (55, 5, 1, 1));
    child.kill();
    drop(server);
    let side = agent.when_ended(port, 1).both(port).0;
    assert_eq!((side.active, side.opened, side.ended()), (0, 1, 1));
}
