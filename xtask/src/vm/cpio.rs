//! Writes the archive format the kernel unpacks as its first file system ("newc"; the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst), so that no cpio program is needed.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::Path,
};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;

/// An archive being written. Directories on the way to a file are made as needed.
pub(crate) struct Archive<W> {
    out: W,
    directories: BTreeSet<String>,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, directories: BTreeSet::new(), inode: 0 }
    }

    /// Adds a directory and those above it.
    pub(crate) fn directory(&mut self, path: impl AsRef<Path>) -> io::Result<()> {
        let mut above: Vec<String> = path.as_ref().ancestors().filter_map(name).collect();
        above.reverse();
        for directory in above {
            if self.directories.insert(directory.clone()) {
                self.entry(&directory, DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// Adds an executable file.
    pub(crate) fn program(&mut self, path: impl AsRef<Path>, content: &[u8]) -> io::Result<()> {
        self.file(path.as_ref(), PROGRAM, content)
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: impl AsRef<Path>, to: &Path) -> io::Result<()> {
        self.file(path.as_ref(), SYMLINK, to.as_os_str().as_encoded_bytes())
    }

    /// Writes the end mark and returns what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn file(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        let Some(name) = name(path) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file without a name"));
        };
        self.entry(&name, mode, content)
    }

    /// Header fields are eight hexadecimal digits each; name and content end on multiples of four bytes.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is larger than 4 GiB"))
        })?;
        self.inode += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let name_size = name.len() as u32 + 1;
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(6 + 8 * fields.len() + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..length.next_multiple_of(4) - length])
    }
}

/// A path as the archive names it: without the leading slash.
fn name(path: &Path) -> Option<String> {
    let name = path.to_string_lossy();
    let name = name.trim_start_matches('/');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.program("/bin/one", b"12345").unwrap();
        archive.program("/bin/empty", b"").unwrap();
        archive.link("/init", Path::new("bin/one")).unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn each_part_ends_on_a_multiple_of_four() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        let headers = bytes.windows(6).enumerate().filter(|(_, window)| window == b"070701");
        assert!(headers.clone().all(|(at, _)| at % 4 == 0));
        assert_eq!(headers.count(), 5, "a directory, two programs, a link and the trailer");
    }

    #[test]
    fn the_cpio_program_lists_what_was_written() {
        let Ok(mut cpio) = Command::new("cpio")
            .args(["--list", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            eprintln!("skipped: there is no cpio program on this machine");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "bin\nbin/one\nbin/empty\ninit\n");
    }
}
