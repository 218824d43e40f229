//! The command line as users type it.

use clap::{CommandFactory as _, error::ErrorKind};

use super::*;
use crate::config::KEYS;

fn run(line: &str) -> Result<Invocation, clap::Error> {
    parse_from(std::iter::once("sidecar").chain(line.split_whitespace()).map(OsString::from))
}

fn flags(line: &str) -> Vec<(&'static str, String, Vec<String>)> {
    let Ok(Invocation::Run(args) | Invocation::Doctor(args, _)) = run(line) else { panic!("{line}") };
    args.flags.into_iter().map(|flag| (flag.key, flag.name, flag.texts)).collect()
}

#[test]
fn clap_finds_no_fault_with_the_definition() {
    Cli::command().debug_assert();
}

#[test]
fn no_subcommand_runs_the_agent() {
    assert_eq!(run("").unwrap(), Invocation::Run(CommonArgs::default()));
    let Invocation::Run(args) = run("--config a.yaml --probe x,y --no-probe z").unwrap() else { panic!() };
    assert_eq!(args.config, Some(PathBuf::from("a.yaml")));
    assert_eq!(args.probes, [("x".into(), true), ("y".into(), true), ("z".into(), false)]);
}

#[test]
fn flags_go_before_and_after_a_subcommand_and_may_be_repeated() {
    let ports = |texts: &[&str]| {
        vec![("target.ports", "--ports".to_owned(), texts.iter().map(|text| (*text).to_owned()).collect())]
    };
    assert_eq!(flags("--ports 80,443"), ports(&["80,443"]));
    assert_eq!(flags("--port 80 --ports=443"), ports(&["80", "443"]));
    assert_eq!(flags("--port 80 doctor"), ports(&["80"]));
    assert_eq!(flags("doctor --port 80"), ports(&["80"]));
}

#[test]
fn children_is_a_switch_that_can_be_switched_off() {
    let children = |text: &str| vec![("target.children", "--children".to_owned(), vec![text.to_owned()])];
    assert_eq!(flags("--children"), children("true"));
    assert_eq!(flags("--children=false"), children("false"));
    assert_eq!(run("--children maybe").unwrap_err().kind(), ErrorKind::InvalidSubcommand);
}

#[test]
fn every_key_has_its_flag() {
    for key in KEYS {
        for flag in std::iter::once(&key.flag).chain(key.aliases) {
            let value = match key.spec.kind {
                sidecar_core::OptionKind::Bool => "true",
                sidecar_core::OptionKind::Choice(words) => words[0],
                _ => "1",
            };
            assert_eq!(
                flags(&format!("--{flag}={value}")),
                [(key.spec.name, format!("--{}", key.flag), vec![value.to_owned()])]
            );
        }
    }
}

#[test]
fn subcommands_are_told_apart() {
    let none = CommonArgs::default;
    let named = || CommonArgs { config: Some("x".into()), ..none() };
    for (line, expected) in [
        ("doctor", Invocation::Doctor(none(), Format::Text)),
        ("doctor --format json", Invocation::Doctor(none(), Format::Json)),
        ("probes --format=text", Invocation::Probes(none(), Format::Text)),
        ("config check", Invocation::ConfigCheck(none())),
        ("config check x", Invocation::ConfigCheck(named())),
        ("config check --config x", Invocation::ConfigCheck(named())),
        ("--config x config print", Invocation::ConfigPrint(named(), FileFormat::Yaml)),
        ("config print --format json", Invocation::ConfigPrint(none(), FileFormat::Json)),
        ("config print --format yaml", Invocation::ConfigPrint(none(), FileFormat::Yaml)),
        ("config print --defaults", Invocation::ConfigDefaults),
        ("codegen metrics", Invocation::Codegen(Page::Metrics)),
        ("codegen config", Invocation::Codegen(Page::Config)),
        ("codegen probes", Invocation::Codegen(Page::Probes)),
        ("version", Invocation::Version),
    ] {
        assert_eq!(run(line).unwrap_or_else(|error| panic!("{line}: {error}")), expected);
    }
}

#[test]
fn what_is_not_understood_ends_with_the_usage_code() {
    for line in [
        "--port",
        "--prot 80",
        "start",
        "config",
        "config check a b",
        "--log-format xml",
        "--interval 1 --interval 2",
    ] {
        let error = run(line).unwrap_err();
        assert_eq!(error.exit_code(), Exit::Usage as i32, "{line}: {error}");
    }
    let text = run("--prot 80").unwrap_err().to_string();
    assert!(text.contains("'--port"), "{text}");
    for line in ["--help", "-h", "--version", "-V", "doctor --help"] {
        assert_eq!(run(line).unwrap_err().exit_code(), Exit::Ok as i32, "{line}");
    }
}

#[test]
fn help_fits_eighty_columns_and_names_every_default_and_exit_code() {
    for line in
        ["-h", "--help", "doctor --help", "probes --help", "config check --help", "config print --help"]
    {
        let text = run(line).unwrap_err().to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
    let text = run("--help").unwrap_err().to_string();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for default in
        ["15", "65536", "2000", "src_ip,dst_ip,dst_port,role,comm", "127.0.0.1:9090", "text", "info"]
    {
        assert!(words.contains(&format!("[default: {default}]")), "{default}: {text}");
    }
    for exit in Exit::ALL {
        assert!(words.contains(exit.meaning()), "{text}");
    }
    assert!(!words.contains("codegen"), "{text}");
}

#[test]
fn the_version_starts_with_the_packages() {
    assert!(LONG_VERSION.starts_with(VERSION));
    assert_eq!(run("--version").unwrap_err().to_string(), format!("sidecar {LONG_VERSION}\n"));
}
