//! Writes the reference pages from what the agent declares, so that documentation cannot drift from the code.
//!
//! The agent's hidden command `codegen PAGE` prints a page. Whole pages go to `docs/`; in other files, what stands
//! between `<!-- generated: PAGE -->` and `<!-- /generated -->` is the page, and with `PAGE HEADING` the part of it below
//! that second-level heading (`metrics connection`). The page `bench` is what `bench/results` says, `bench connection`
//! what it says of one probe.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench,
    build::{self, host_triple, target_directory},
    setup::{self, Group},
    shell::{output, relative, root, step},
};

/// Pages that are generated as a whole: the agent's name for it, and the file.
const PAGES: [(&str, &str); 4] = [
    ("metrics", "docs/metrics.md"),
    ("config", "docs/configuration.md"),
    ("probes", "docs/probes.md"),
    ("events", "docs/events.md"),
];
/// The agent's page that holds the JSON Schema of each event type, where they go, and how their names end.
const SCHEMAS: (&str, &str, &str) = ("schemas", "docs/events", ".schema.json");
const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- /generated -->";
/// The page of measurements: it needs no agent.
const MEASURED: &str = "bench";

/// Whether to write or to compare.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail if something would change
    #[arg(long)]
    check: bool,
}

/// Brings all generated text up to date, or says what is not.
pub(crate) fn codegen(options: Options) -> Result<()> {
    setup::setup(&[Group::Build])?;
    // The same build as for the tests, so that continuous integration does not compile everything twice.
    let agent = build::build(&build::Options { release: false, target: Some(host_triple()?) })?;
    step(if options.check { "comparing generated text with the code" } else { "generating documentation" });
    let mut stale = Vec::new();
    for (path, text) in outdated(&agent)? {
        if options.check {
            stale.push(difference(&path, &text)?);
            continue;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("  wrote {}", relative(&path));
    }
    for path in left_over(&agent)? {
        if options.check {
            stale.push(format!("{} belongs to no event type", relative(&path)));
            continue;
        }
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        println!("  removed {}", relative(&path));
    }
    if !stale.is_empty() {
        bail!("generated text is out of date; run `cargo xtask codegen`\n{}", stale.join("\n"));
    }
    println!("  up to date");
    Ok(())
}

/// Files whose generated text differs from what the agent says, with what they should contain.
fn outdated(agent: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut pages = BTreeMap::new();
    let mut wanted = Vec::new();
    for (page, file) in PAGES {
        let text = output(Command::new(agent).args(["codegen", page]))?.trim_end().to_owned() + "\n";
        wanted.push((root().join(file), text.clone()));
        pages.insert(page, text);
    }
    wanted.extend(schemas(agent)?);
    let generate = |section: &str, _: &str| -> Result<String> {
        let (page, heading) = page_and_heading(section);
        if page == MEASURED {
            return bench::page(heading);
        }
        let text = pages.get(page).with_context(|| format!("there is no page `{page}`"))?;
        let Some(heading) = heading else { return Ok(text.clone()) };
        part(text, heading).with_context(|| format!("the page `{page}` has no heading `## {heading}`"))
    };
    for path in with_sections()? {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let replaced =
            replace_sections(&text, generate).with_context(|| format!("in {}", relative(&path)))?;
        wanted.push((path, replaced));
    }
    wanted.retain(|(path, text)| fs::read_to_string(path).ok().as_deref() != Some(text));
    Ok(wanted)
}

/// The schema files with what they should contain.
fn schemas(agent: &Path) -> Result<Vec<(PathBuf, String)>> {
    let (page, folder, ending) = SCHEMAS;
    let text = output(Command::new(agent).args(["codegen", page]))?;
    let schemas: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&text).with_context(|| format!("the page `{page}` is no JSON object"))?;
    let file = |(kind, schema): (String, serde_json::Value)| -> Result<(PathBuf, String)> {
        let text = serde_json::to_string_pretty(&schema)? + "\n";
        Ok((root().join(folder).join(kind + ending), text))
    };
    schemas.into_iter().map(file).collect()
}

/// Schemas of event types that are no more.
fn left_over(agent: &Path) -> Result<Vec<PathBuf>> {
    let (_, folder, ending) = SCHEMAS;
    let wanted = schemas(agent)?;
    let Ok(entries) = fs::read_dir(root().join(folder)) else { return Ok(Vec::new()) };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let is_schema = |path: &PathBuf| path.to_string_lossy().ends_with(ending);
    let is_left = |path: &PathBuf| is_schema(path) && !wanted.iter().any(|(other, _)| other == path);
    Ok(paths.into_iter().filter(is_left).collect())
}

fn page_and_heading(section: &str) -> (&str, Option<&str>) {
    section.split_once(' ').map_or((section, None), |(page, rest)| (page, Some(rest)))
}

/// Brings only the sections with measurements up to date.
pub(crate) fn measurements() -> Result<()> {
    for path in with_sections()? {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let replaced = replace_sections(&text, |section, now| match page_and_heading(section) {
            (MEASURED, heading) => bench::page(heading),
            _ => Ok(now.to_owned()),
        });
        let replaced = replaced.with_context(|| format!("in {}", relative(&path)))?;
        if replaced != text {
            fs::write(&path, replaced).with_context(|| format!("cannot write {}", path.display()))?;
            println!("  wrote {}", relative(&path));
        }
    }
    Ok(())
}

/// What a page says below a second-level heading, up to the next one.
fn part(page: &str, heading: &str) -> Option<String> {
    let is_heading =
        |line: &&str| line.strip_prefix("## ").is_some_and(|title| title.replace('`', "") == heading);
    let mut lines = page.lines().skip_while(|line| !is_heading(line));
    lines.next()?;
    let below: Vec<&str> = lines.take_while(|line| !line.starts_with("## ")).collect();
    Some(below.join("\n").trim().to_owned() + "\n")
}

/// The READMEs that have a generated section.
fn with_sections() -> Result<Vec<PathBuf>> {
    let mut paths = vec![root().join("README.md"), root().join("bench/README.md")];
    for entry in fs::read_dir(root().join("probes"))? {
        paths.push(entry?.path().join("README.md"));
    }
    paths.retain(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(BEGIN)));
    paths.sort();
    Ok(paths)
}

/// `text` with each section's content generated anew, from its name and what is there now.
fn replace_sections(text: &str, generate: impl Fn(&str, &str) -> Result<String>) -> Result<String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, section) = rest.split_at(at);
        let (page, section) =
            section[BEGIN.len()..].split_once(" -->").context("a `generated` mark has no end")?;
        let (now, after) =
            section.split_once(END).with_context(|| format!("no {END} after section `{page}`"))?;
        result.push_str(before);
        for piece in [BEGIN, page, " -->\n", &generate(page, now.trim_start_matches('\n'))?, END] {
            result.push_str(piece);
        }
        rest = after;
    }
    result.push_str(rest);
    Ok(result)
}

/// What would change, as `diff` shows it.
fn difference(path: &Path, wanted: &str) -> Result<String> {
    let new = target_directory()?.join("codegen.new");
    fs::write(&new, wanted)?;
    let old = if path.exists() { path } else { Path::new("/dev/null") };
    let diff = Command::new("diff")
        .args(["-u", "--label", "now", "--label", "generated"])
        .arg(old)
        .arg(&new)
        .output();
    let diff = diff.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let shown: Vec<&str> = diff.lines().take(40).collect();
    Ok(format!("{}\n{}", relative(path), shown.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(text: &str) -> Result<String> {
        replace_sections(text, |page, _| Ok(format!("[{page}]\n")))
    }

    #[test]
    fn sections_are_replaced_and_the_rest_is_kept() {
        let text = "a\n<!-- generated: metrics exec -->\nold\n<!-- /generated -->\nb\n<!-- generated: probes --><!-- /generated -->";
        assert_eq!(
            replace(text).unwrap(),
            "a\n<!-- generated: metrics exec -->\n[metrics exec]\n<!-- /generated -->\nb\n\
             <!-- generated: probes -->\n[probes]\n<!-- /generated -->"
        );
    }

    #[test]
    fn what_a_section_says_now_can_be_kept() {
        let text = "<!-- generated: x -->\n| 1 |\n<!-- /generated -->\n";
        assert_eq!(replace_sections(text, |_, now| Ok(now.to_owned())).unwrap(), text);
    }

    #[test]
    fn replacing_twice_changes_nothing_more() {
        let once = replace("<!-- generated: x -->\n<!-- /generated -->\n").unwrap();
        assert_eq!(replace(&once).unwrap(), once);
    }

    #[test]
    fn a_part_of_a_page_ends_at_the_next_heading_of_its_level() {
        let page = "# Metrics\n\n## `exec`\n\ntext\n\n### more\n\n## dns\n\nother\n";
        assert_eq!(part(page, "exec").unwrap(), "text\n\n### more\n");
        assert_eq!(part(page, "dns").unwrap(), "other\n");
        assert_eq!(part(page, "open"), None);
    }

    #[test]
    fn a_section_without_an_end_is_an_error() {
        let error = replace("<!-- generated: x -->\n").unwrap_err();
        assert!(error.to_string().contains("section `x`"), "{error}");
    }
}
