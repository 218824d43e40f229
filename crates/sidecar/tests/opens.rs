//! Opens are counted exactly, with their results: as `strace -f -c` counts them, and as often as the test itself made
//! them; and events say what was opened.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    ffi::{CStr, CString},
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
        net::UnixStream,
    },
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use common::{
    Agent, Page, Scratch,
    child::{Child, hear, tell},
    events::Stream,
    is_slow,
    programs::{Renamed, own_name},
    run,
};
use serde_json::Value;

const TOTAL: &str = "sidecar_open_total";

fn agent(flags: &[&str]) -> Agent {
    agent_with(flags, &[("latency", "true")])
}

/// An agent that looks at nothing but opens, with some of the probe's options.
fn agent_with(flags: &[&str], options: &[(&str, &str)]) -> Agent {
    let known =
        ["--listen", "127.0.0.1:0", "--no-probe", "connection,exec", "--probe", "open", "--interval", "3600"];
    let mut command = common::agent::command(&[&known, flags].concat());
    for (name, value) in options {
        command.env(format!("SIDECAR_PROBES__OPEN__{}", name.to_uppercase()), value);
    }
    Agent::spawn(command)
}

/// A process that has opened nothing under this name before it does `work`.
fn forked(name: &str, work: impl FnOnce(&mut UnixStream)) -> Child {
    let name = CString::new(name).unwrap();
    Child::fork("unnamed", &[], |line| {
        // SAFETY: a string.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
        work(line);
    })
}

fn opens(page: &Page, comm: &str, result: &str) -> u64 {
    page.count(TOTAL, &[("comm", comm), ("result", result)])
}

/// How a hook is served; nothing if it is not.
fn used(agent: &Agent, hook: &str) -> Option<String> {
    let (_, text) = agent.get("/api/v1/probes").unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let probe = document["probes"].as_array().unwrap().iter().find(|probe| probe["probe"] == "open").unwrap();
    let hook = probe["hooks"].as_array().unwrap().iter().find(|entry| entry["hook"] == hook)?;
    hook["used"]["via"].as_str().map(str::to_owned)
}

/// Opens a file by the library's own number of the call; closes it again. The errno, or 0.
fn call(number: libc::c_long, arguments: [u64; 4]) -> i32 {
    // SAFETY: calls that open files; the pointers among the arguments are strings that live as long.
    let result = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2], arguments[3]) };
    if result < 0 {
        return std::io::Error::last_os_error().raw_os_error().unwrap();
    }
    // SAFETY: just opened.
    unsafe { libc::close(result as i32) };
    0
}

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn openat(path: &CStr, flags: i32) -> i32 {
    call(libc::SYS_openat, [libc::AT_FDCWD as u64, path.as_ptr() as u64, flags as u64, 0o644])
}

/// `struct open_how`
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn openat2(path: &CStr, flags: i32, resolve: u64) -> i32 {
    let how = How { flags: flags as u64, mode: 0, resolve };
    let size = size_of::<How>() as u64;
    call(libc::SYS_openat2, [libc::AT_FDCWD as u64, path.as_ptr() as u64, &raw const how as u64, size])
}

#[test]
fn every_way_to_open_and_to_fail_is_counted() {
    need_root!();
    let agent = agent(&[]);
    let (scratch, name) = (Scratch::new(), own_name());
    let file = text(&scratch.file("file", "text"));
    let secret = scratch.file("secret", "text");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
    let (secret, link, made) = (text(&secret), scratch.0.join("link"), text(&scratch.0.join("made")));
    symlink("link", &link).unwrap();
    let (link, directory, none) = (text(&link), text(&scratch.0), text(&scratch.0.join("none")));
    let below = text(&scratch.0.join("file/below"));
    let long = CString::new(vec![b'x'; 5000]).unwrap();
    let child = forked(&name, |_| {
        let expect = |errno: i32, times: u32, open: &dyn Fn() -> i32| {
            (0..times).for_each(|_| assert_eq!(open(), errno));
        };
        // Twelve that succeed.
        expect(0, 2, &|| openat(&file, libc::O_RDONLY));
        expect(0, 2, &|| openat2(&file, libc::O_RDONLY, 0));
        expect(0, 2, &|| openat(&directory, libc::O_DIRECTORY));
        expect(0, 2, &|| openat(&file, libc::O_PATH));
        #[cfg(target_arch = "x86_64")]
        expect(0, 2, &|| call(libc::SYS_open, [file.as_ptr() as u64, 0, 0, 0]));
        #[cfg(target_arch = "x86_64")]
        expect(0, 2, &|| call(libc::SYS_creat, [made.as_ptr() as u64, 0o600, 0, 0]));
        #[cfg(not(target_arch = "x86_64"))]
        expect(0, 4, &|| openat(&made, libc::O_CREAT));
        expect(libc::ENOENT, 3, &|| openat(&none, 0));
        expect(libc::ENOTDIR, 4, &|| openat(&below, 0));
        expect(libc::ELOOP, 5, &|| openat(&link, 0));
        expect(libc::EISDIR, 6, &|| openat(&directory, libc::O_WRONLY));
        expect(libc::EEXIST, 7, &|| openat(&file, libc::O_CREAT | libc::O_EXCL));
        // RESOLVE_BENEATH
        expect(libc::EXDEV, 8, &|| openat2(&file, 0, 8));
        expect(libc::ENAMETOOLONG, 9, &|| openat(&long, 0));
        expect(libc::EFAULT, 10, &|| call(libc::SYS_openat, [libc::AT_FDCWD as u64, 8, 0, 0]));
        expect(libc::EBADF, 11, &|| call(libc::SYS_openat, [9999, c"x".as_ptr() as u64, 0, 0]));
        expect(libc::EINVAL, 12, &|| openat2(&file, 0, 1 << 40));
        let none_left = libc::rlimit { rlim_cur: 0, rlim_max: 1024 };
        // SAFETY: this process's own limits and user.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none_left) };
        expect(libc::EMFILE, 13, &|| openat(&file, 0));
        let some_left = libc::rlimit { rlim_cur: 100, rlim_max: 1024 };
        // SAFETY: as above.
        unsafe {
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const some_left);
            libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534);
        }
        expect(libc::EACCES, 14, &|| openat(&secret, 0));
    });
    child.join();
    let page = agent.scrape();
    let expected = [
        ("ok", 12),
        ("ENOENT", 3),
        ("ENOTDIR", 4),
        ("ELOOP", 5),
        ("EISDIR", 6),
        ("EEXIST", 7),
        ("EXDEV", 8),
        ("ENAMETOOLONG", 9),
        ("EFAULT", 10),
        ("EBADF", 11),
        ("EINVAL", 12),
        ("EMFILE", 13),
        ("EACCES", 14),
    ];
    for (result, count) in expected {
        assert_eq!(opens(&page, &name, result), count, "{result}\n{}", page.losses());
    }
    assert_eq!(page.count(TOTAL, &[("comm", &name)]), expected.iter().map(|(_, count)| count).sum::<u64>());
    agent.stop();
}

/// Calls and errors of the system calls that open files, as `strace` counts them.
fn strace(scratch: &Scratch, program: &Path, arguments: &[&str]) -> Result<(u64, u64), String> {
    let out = scratch.0.join("strace");
    let tool = common::program("strace").ok_or("strace is not installed")?;
    let which = "-etrace=open,openat,openat2,creat";
    run(Command::new(tool).args(["-f", "-c", which, "-o"]).arg(&out).arg(program).args(arguments))?;
    let text = fs::read_to_string(out).unwrap();
    let (mut calls, mut errors) = (0, 0);
    for line in text.lines().skip(2).take_while(|line| !line.starts_with("---")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        calls += words[3].parse::<u64>().unwrap();
        errors += if words.len() == 6 { words[4].parse::<u64>().unwrap() } else { 0 };
    }
    Ok((calls, errors))
}

#[test]
fn a_find_opens_as_much_as_strace_says() {
    need_root!();
    let (agent, scratch) = (agent(&[]), Scratch::new());
    for directory in 0..30 {
        let place = scratch.0.join(format!("tree/{directory}/within"));
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("file"), "text").unwrap();
    }
    let (find, tree) = (Renamed::new("find"), scratch.0.join("tree"));
    let (calls, errors) = match strace(&scratch, &find.path, &[tree.to_str().unwrap()]) {
        Ok(counts) => counts,
        Err(reason) => skip!("strace does not work here: {reason}"),
    };
    let page = agent.scrape();
    let all = page.count(TOTAL, &[("comm", &find.name)]);
    assert!(calls > 60, "{calls}");
    assert_eq!((all, all - opens(&page, &find.name, "ok")), (calls, errors));
    agent.stop();
}

#[test]
fn threads_count_under_their_process_and_none_is_missing() {
    need_root!();
    let (agent, name) = (agent(&[]), own_name());
    let times: u64 = if is_slow() { 2_000 } else { 30_000 };
    let child = forked(&name, |_| {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..times).for_each(|_| assert_eq!(openat(c"/dev/null", 0), 0)));
            }
        });
    });
    child.join();
    let page = agent.scrape();
    let missed = page.count("sidecar_bpf_missed_runs_total", &[]);
    let counted = opens(&page, &name, "ok");
    assert!(counted <= 8 * times && counted + missed >= 8 * times, "{counted} and {missed} left out");
    agent.stop();
}

#[test]
fn opens_take_as_long_as_they_wait() {
    need_root!();
    let (agent, name, scratch) = (agent(&[]), own_name(), Scratch::new());
    let fifo = text(&scratch.0.join("fifo"));
    // SAFETY: a string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let before = agent.scrape();
    let waiting = forked(&name, |_| assert_eq!(openat(&fifo, libc::O_RDONLY), 0));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(openat(&fifo, libc::O_WRONLY), 0);
    waiting.join();
    let page = agent.scrape();
    let bucket = |page: &Page, bound: f64| {
        let mut buckets = page.rows("sidecar_open_seconds_bucket", &[]);
        buckets.find(|sample| sample.labels["le"].parse() == Ok(bound)).unwrap().value
    };
    let between = |page: &Page| bucket(page, 1.0) - bucket(page, 0.1);
    assert!(between(&page) > between(&before), "between a tenth of a second and one");
    let sum = |page: &Page| page.sum("sidecar_open_seconds_sum", &[]);
    assert!(sum(&page) - sum(&before) >= 0.2);
    assert_eq!(opens(&page, &name, "ok"), 1);
    agent.stop();
    // Not asked for.
    let agent = agent_with(&[], &[]);
    assert_eq!(openat(c"/dev/null", 0), 0);
    let page = agent.scrape();
    assert_eq!(page.rows("sidecar_open_seconds_count", &[]).count(), 0);
    assert!(page.count(TOTAL, &[]) > 0);
    agent.stop();
}

/// As much of an `io_uring` as it takes to open files: no memory is shared but the rings.
struct Ring {
    fd: i32,
    submitted: *mut u8,
    entries: *mut u8,
    completed: *mut u8,
    offsets: [u32; 30],
}

impl Ring {
    const SIZE: usize = 4096;

    /// `struct io_uring_params`: eight words of numbers, then offsets of ten words into each ring.
    fn new() -> Result<Self, std::io::Error> {
        let mut offsets = [0_u32; 30];
        // SAFETY: a place for the parameters, which are that long.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, offsets.as_mut_ptr()) } as i32;
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let map = |at: i64| {
            // SAFETY: memory the kernel chooses.
            let place = unsafe {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                libc::mmap(std::ptr::null_mut(), Self::SIZE, access, libc::MAP_SHARED, fd, at)
            };
            assert_ne!(place, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
            place.cast::<u8>()
        };
        Ok(Self { fd, submitted: map(0), completed: map(0x800_0000), entries: map(0x1000_0000), offsets })
    }

    fn word(ring: *mut u8, offset: u32) -> *mut u32 {
        // SAFETY: within the mapping.
        unsafe { ring.add(offset as usize).cast() }
    }

    /// Opens (`IORING_OP_OPENAT`) and waits; the result. With `forced`, in another thread of the kernel's.
    fn open(&self, path: &CStr, flags: i32, forced: bool) -> i32 {
        let (sq, cq) = (&self.offsets[10..20], &self.offsets[20..30]);
        // SAFETY: the rings as the kernel describes them: head, tail, mask, …; this thread alone uses them.
        unsafe {
            let tail = Self::word(self.submitted, sq[1]);
            let at = *tail & *Self::word(self.submitted, sq[2]);
            // `struct io_uring_sqe`, eight words: opcode and IOSQE_ASYNC with the directory, …, path, mode and flags.
            let first = 0x12 | if forced { 0x1000 } else { 0 } | (libc::AT_FDCWD as u64) << 32;
            let last = 0o644 | (flags as u64) << 32;
            let entry = [first, 0, path.as_ptr() as u64, last, 0, 0, 0, 0].map(u64::to_ne_bytes);
            self.entries.add(at as usize * 64).copy_from_nonoverlapping(entry.as_ptr().cast(), 64);
            *Self::word(self.submitted, sq[6]).add(at as usize) = at;
            tail.write_volatile(*tail + 1);
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            let entered = libc::syscall(libc::SYS_io_uring_enter, self.fd, 1, 1, 1, 0, 0);
            assert_eq!(entered, 1, "{}", std::io::Error::last_os_error());
            let head = Self::word(self.completed, cq[0]);
            let at = *head & *Self::word(self.completed, cq[2]);
            let result = Self::word(self.completed, cq[5] + at * 16 + 8).read_volatile().cast_signed();
            head.write_volatile(*head + 1);
            if result >= 0 {
                libc::close(result);
            }
            result
        }
    }
}

#[test]
fn opens_of_io_uring_are_counted_and_told() {
    need_root!();
    if let Err(error) = Ring::new() {
        skip!("io_uring cannot be used here: {error}");
    }
    let (agent, name, scratch) = (agent(&[]), own_name(), Scratch::new());
    if used(&agent, "io_uring's opens").is_none() {
        skip!("io_uring's opens cannot be seen on this kernel");
    }
    let place = fs::canonicalize(&scratch.0).unwrap();
    fs::write(place.join("file"), "text").unwrap();
    let mut stream = Stream::open(&agent, &format!("types=open&comm={name}"));
    let child = forked(&name, |_| {
        std::env::set_current_dir(&place).unwrap();
        let ring = Ring::new().unwrap();
        for _ in 0..5 {
            assert!(ring.open(c"file", libc::O_RDONLY, false) >= 0);
            assert_eq!(ring.open(c"none", libc::O_RDONLY, false), -libc::ENOENT);
        }
        for _ in 0..3 {
            assert!(ring.open(c"file", libc::O_WRONLY, true) >= 0);
        }
        assert_eq!(openat(c"/last", 0), libc::ENOENT);
    });
    child.join();
    let events = stream.until(|event| event["path"] == "/last");
    let page = agent.scrape();
    let counted = ["ok", "ENOENT", "unknown"].map(|result| opens(&page, &name, result));
    assert_eq!(counted.iter().sum::<u64>(), 14, "{counted:?}");
    assert_eq!(page.count(TOTAL, &[("comm", &name)]), 14);
    // Before 5.19 the kernel does not keep the result of what another thread did.
    if counted[2] == 0 {
        assert_eq!(counted, [8, 6, 0]);
    }
    assert_eq!(events.len(), 14);
    let of = |flags: &str, path: &str| {
        let path = place.join(path);
        let same = |event: &&Value| event["flags"] == flags && event["path"] == path.to_str().unwrap();
        events.iter().filter(same).count()
    };
    let told = [of("O_RDONLY", "file"), of("O_RDONLY", "none"), of("O_WRONLY", "file")];
    assert_eq!(told, [5, 5, 3], "{events:#?}");
    agent.stop();
}

/// A 32-bit call from a 64-bit program: the old gate, the old numbers.
#[cfg(target_arch = "x86_64")]
#[test]
fn opens_of_32_bit_programs_are_counted() {
    need_root!();
    let (agent, name) = (agent(&[]), own_name());
    // SAFETY: memory of the test's own, below 4 GiB, where such a call can name it.
    let low = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        let low = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(low, libc::MAP_FAILED);
        low.cast::<u8>().copy_from_nonoverlapping(c"/dev/null".as_ptr().cast(), 10);
        low as u64
    };
    let mut child = forked(&name, |line| {
        let mut result: i64;
        for _ in 0..9 {
            // SAFETY: open(path, O_RDONLY); rbx is the compiler's own, so it is put back.
            unsafe {
                std::arch::asm!(
                    "xchg rbx, {path}", "int 0x80", "xchg rbx, {path}",
                    path = inout(reg) low => _, inlateout("rax") 5_i64 => result, in("rcx") 0, in("rdx") 0,
                );
            }
            if result < 0 {
                return tell(line, 2);
            }
        }
        tell(line, 1);
    });
    let answer = child.hear();
    child.join();
    if answer == 2 {
        skip!("this kernel runs no 32-bit programs");
    }
    assert_eq!(opens(&agent.scrape(), &name, "ok"), 9);
    agent.stop();
}

#[test]
fn filters_leave_out_what_they_do_not_name() {
    need_root!();
    let (name, other, scratch) = (own_name(), own_name(), Scratch::new());
    let wanted = scratch.0.join("wanted");
    fs::create_dir(&wanted).unwrap();
    fs::write(wanted.join("file"), "text").unwrap();
    let work = |times: usize| {
        std::env::set_current_dir(&wanted).unwrap();
        let whole = text(&wanted.join("file"));
        for _ in 0..times {
            assert_eq!(openat(&whole, 0), 0);
            assert_eq!(openat(c"file", 0), 0);
            assert_eq!(openat(c"none", 0), libc::ENOENT);
            assert_eq!(openat(c"/dev/null", 0), 0);
        }
    };
    let agent_of_one = agent(&["--comm", &name]);
    forked(&name, |_| work(10)).join();
    forked(&other, |_| work(10)).join();
    let page = agent_of_one.scrape();
    assert_eq!((opens(&page, &name, "ok"), opens(&page, &name, "ENOENT")), (30, 10));
    assert_eq!(page.count(TOTAL, &[]), 40);
    agent_of_one.stop();
    let paths = format!("[/never/there, {}/]", wanted.to_str().unwrap());
    let agent_of_paths = agent_with(&[], &[("paths", &paths)]);
    forked(&name, |_| work(10)).join();
    let page = agent_of_paths.scrape();
    assert_eq!((opens(&page, &name, "ok"), opens(&page, &name, "ENOENT")), (20, 10));
    let all: Vec<_> = page.rows(TOTAL, &[]).collect();
    assert_eq!(page.count(TOTAL, &[]), 30, "{all:?}");
    agent_of_paths.stop();
}

#[test]
fn many_names_one_after_the_other_are_all_counted_and_the_rest_is_other() {
    need_root!();
    let work = |name: &str| {
        let child = forked(name, |_| {
            (0..7).for_each(|_| assert_eq!(openat(c"/dev/null", 0), 0));
            assert_eq!(openat(c"/nowhere", 0), libc::ENOENT);
        });
        child.join();
    };
    let agent_of_all = agent(&[]);
    let names: Vec<String> = (0..300).map(|_| own_name()).collect();
    for name in &names {
        work(name);
    }
    let page = agent_of_all.scrape();
    for name in &names {
        assert_eq!((opens(&page, name, "ok"), opens(&page, name, "ENOENT")), (7, 1), "{name}");
    }
    agent_of_all.stop();
    let agent_of_few = agent(&["--max-series", "16"]);
    for name in &names {
        work(name);
    }
    let page = agent_of_few.scrape();
    assert!(page.rows(TOTAL, &[]).count() <= 17);
    assert!(page.count(TOTAL, &[]) >= 2400, "{}", page.count(TOTAL, &[]));
    assert!(page.count(TOTAL, &[("comm", "other")]) > 0);
    agent_of_few.stop();
}

#[test]
fn events_say_what_was_opened_how_and_with_what_result() {
    need_root!();
    let (agent, name, scratch) = (agent(&[]), own_name(), Scratch::new());
    let place = fs::canonicalize(&scratch.0).unwrap();
    fs::create_dir(place.join("deep")).unwrap();
    fs::write(place.join("deep/file"), "text").unwrap();
    let odd = CString::new([place.as_os_str().as_bytes(), b"/od\xffd"].concat()).unwrap();
    let mut stream = Stream::open(&agent, &format!("types=open&comm={name}"));
    let mut child = forked(&name, |line| {
        std::env::set_current_dir(&place).unwrap();
        let whole = text(&place.join("deep/file"));
        assert_eq!(openat(&whole, libc::O_RDONLY | libc::O_CLOEXEC), 0);
        assert_eq!(openat(c"deep/file", libc::O_WRONLY | libc::O_APPEND), 0);
        assert_eq!(openat(c"new", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL), 0);
        assert_eq!(openat(c"none", libc::O_DIRECTORY), libc::ENOENT);
        assert_eq!(openat(&odd, 0), libc::ENOENT);
        // SAFETY: a string; closed with the process.
        let directory = unsafe { libc::open(c"deep".as_ptr(), libc::O_PATH) } as u64;
        assert_eq!(call(libc::SYS_openat, [directory, c"file".as_ptr() as u64, 0, 0]), 0);
        assert_eq!(call(libc::SYS_openat, [9999, c"file".as_ptr() as u64, 0, 0]), libc::EBADF);
        assert_eq!(openat2(c"/../nowhere", 0, 8), libc::EXDEV);
        tell(line, directory as u8);
        hear(line);
    });
    let directory = child.hear();
    let events = stream.until(|event| event["result"] == "EXDEV");
    // The child lives, so the kernel itself can say what it is.
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid)).unwrap();
    assert!(status.contains(&format!("PPid:\t{}\n", std::process::id())));
    let at = |path: &str| Value::from(place.join(path).to_str().unwrap());
    let null = Value::Null;
    let expected: [(&str, &str, Value, Value, Value); 9] = [
        ("ok", "O_RDONLY|O_CLOEXEC", at("deep/file"), null.clone(), null.clone()),
        ("ok", "O_WRONLY|O_APPEND", at("deep/file"), null.clone(), null.clone()),
        ("ok", "O_RDWR|O_CREAT|O_EXCL", at("new"), "0644".into(), null.clone()),
        ("ENOENT", "O_RDONLY|O_DIRECTORY", at("none"), null.clone(), null.clone()),
        ("ENOENT", "O_RDONLY", at("od\\xffd"), null.clone(), null.clone()),
        ("ok", "O_RDONLY|O_PATH", at("deep"), null.clone(), null.clone()),
        ("ok", "O_RDONLY", at("deep/file"), null.clone(), directory.into()),
        ("EBADF", "O_RDONLY", "file".into(), null.clone(), 9999.into()),
        ("EXDEV", "O_RDONLY", "/../nowhere".into(), null.clone(), null.clone()),
    ];
    assert_eq!(events.len(), expected.len(), "{events:#?}");
    for (event, (result, flags, path, mode, dfd)) in events.iter().zip(expected) {
        assert_eq!((&event["pid"], &event["ppid"]), (&child.pid.into(), &std::process::id().into()));
        assert_eq!((&event["comm"], &event["uid"]), (&name.as_str().into(), &0.into()));
        assert_eq!((&event["result"], &event["flags"]), (&result.into(), &flags.into()), "{event}");
        assert_eq!((&event["path"], &event["mode"], &event["dfd"]), (&path, &mode, &dfd), "{event}");
        assert_eq!(event["path_relative"], result == "EBADF");
        assert_eq!(event["path_cut"], false);
        let took = event["latency_seconds"].as_f64().unwrap();
        assert!(took > 0.0 && took < 1.0, "{took}");
    }
    child.tell(1);
    child.join();
    agent.stop();
}

#[test]
fn of_a_burst_with_a_slow_reader_everything_is_delivered_or_lost() {
    need_root!();
    let name = own_name();
    let agent = agent(&["--comm", &name]);
    let mut stream = Stream::open(&agent, "types=open");
    let times: u64 = if is_slow() { 10_000 } else { 200_000 };
    let begun = std::time::Instant::now();
    let child = forked(&name, |_| (0..times).for_each(|_| assert_eq!(openat(c"/dev/null", 0), 0)));
    child.join();
    println!("{times} opens in {:?}", begun.elapsed());
    // Nobody has read anything until now.
    let (mut delivered, mut lost) = (0, 0);
    while delivered + lost < times {
        let event = stream.next();
        if event["event"] == "lost" {
            assert_eq!(event["lost"], "open");
            lost += event["count"].as_u64().unwrap();
        } else {
            assert_eq!((&event["comm"], &event["path"]), (&name.as_str().into(), &"/dev/null".into()));
            delivered += 1;
        }
    }
    println!("{delivered} delivered, {lost} lost");
    assert_eq!(delivered + lost, times);
    assert!(delivered > 0);
    let page = agent.scrape();
    assert_eq!(opens(&page, &name, "ok"), times);
    assert_eq!(page.count("sidecar_events_seen_total", &[("event", "open")]), times);
    agent.stop();
}
