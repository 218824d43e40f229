//! Makes a fixture: `reduce-btf FULL.btf NAMES.txt REDUCED.btf`. The names stand one per line, `#` starts a comment.

use anyhow::Context as _;
use sidecar_btf::{Btf, reduce};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [full, names, reduced] = arguments.as_slice() else {
        anyhow::bail!("usage: reduce-btf FULL.btf NAMES.txt REDUCED.btf");
    };
    let btf = Btf::from_file(full)?;
    let text = std::fs::read_to_string(names).with_context(|| format!("cannot read names from {names}"))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let keep: Vec<&str> = lines.filter(|name| !name.is_empty()).collect();
    let bytes = reduce(&btf, &keep);
    println!("{reduced}: {} bytes", bytes.len());
    std::fs::write(reduced, bytes).with_context(|| format!("cannot write {reduced}"))
}
