//! Arguments of `sidecar top`.

/// Whose numbers to show, and how.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct TopArgs {
    /// Show a running agent's numbers, as 127.0.0.1:9090, instead of
    /// loading probes. How it names processes is then its metrics.labels
    #[arg(long, value_name = "URL")]
    pub(crate) connect: Option<String>,
    /// No colours; a variable `NO_COLOR` does the same
    #[arg(long)]
    pub(crate) no_color: bool,
}
