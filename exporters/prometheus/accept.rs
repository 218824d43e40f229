//! What a client would rather have: preference lists with quality values (RFC 9110, 12.4.2) and the choice of format.

use super::Format;

/// One entry of a preference list such as `Accept` or `Accept-Encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preference<'a> {
    /// What is preferred: a media range or a coding.
    pub what: &'a str,
    /// Its parameters, `;` between them.
    parameters: &'a str,
    /// How much, in thousandths; 0 means not at all.
    pub quality: u16,
}

impl<'a> Preference<'a> {
    /// The value of a parameter, without quotes.
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        parameter(self.parameters, name)
    }

    /// Whether it says this word, in any case.
    pub fn is(&self, what: &str) -> bool {
        self.what.eq_ignore_ascii_case(what)
    }
}

/// The entries of a preference list. One with an unreadable quality is left out.
pub fn preferences(list: &str) -> impl Iterator<Item = Preference<'_>> {
    list.split(',').filter_map(|entry| {
        let (what, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let quality = match parameter(parameters, "q") {
            None => 1.0,
            Some(text) => text.parse::<f32>().ok().filter(|quality| (0.0..=1.0).contains(quality))?,
        };
        Some(Preference { what: what.trim(), parameters, quality: (quality * 1000.0).round() as u16 })
    })
}

fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    parameters
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().trim_matches('"'))
}

/// OpenMetrics only for those who name it: a browser or curl that takes anything gets what a human reads as text.
pub(super) fn negotiate(accept: &str) -> Format {
    let quality = |fits: &dyn Fn(&Preference<'_>) -> bool| {
        preferences(accept).filter(fits).map(|preference| preference.quality).max()
    };
    let version =
        |preference: &Preference<'_>, ours| preference.parameter("version").is_none_or(|v| v == ours);
    let open_metrics = quality(&|p| p.is("application/openmetrics-text") && version(p, "1.0.0")).unwrap_or(0);
    let text = quality(&|p| p.is("text/plain") && version(p, "0.0.4"))
        .or_else(|| quality(&|p| p.is("text/*")))
        .or_else(|| quality(&|p| p.is("*/*")))
        .unwrap_or(0);
    if open_metrics > 0 && open_metrics >= text { Format::OpenMetrics } else { Format::Text }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The headers are those Prometheus sends: 3.x and 2.49 and later with and without escaping, 2.5 to 2.48.
    #[test]
    fn prometheus_gets_open_metrics_unless_it_only_knows_a_draft_of_it() {
        for accept in [
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;\
             version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,\
             */*;q=0.2",
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5,\
             application/openmetrics-text;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "Application/OpenMetrics-Text; Version=\"1.0.0\"",
            "application/openmetrics-text",
        ] {
            assert_eq!(negotiate(accept), Format::OpenMetrics, "{accept}");
        }
        let draft = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(negotiate(draft), Format::Text);
    }

    #[test]
    fn everybody_else_gets_text() {
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/plain;version=0.0.4",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/json",
            "application/openmetrics-text;version=1.0.0;q=0",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;version=1.0.0;q=0.2,text/plain;version=0.0.4;q=0.9",
            "application/openmetrics-text;version=1.0.0;q=0.2,*/*",
            "application/openmetrics-text;q=nonsense",
            ";;,,=;q=,",
        ] {
            assert_eq!(negotiate(accept), Format::Text, "{accept}");
        }
        assert_eq!(Format::negotiate(None), Format::Text);
    }

    #[test]
    fn a_preference_list_reads_as_written() {
        let list: Vec<_> =
            preferences("gzip;q=0.5, br , identity; q=0").map(|p| (p.what, p.quality)).collect();
        assert_eq!(list, [("gzip", 500), ("br", 1000), ("identity", 0)]);
    }
}
