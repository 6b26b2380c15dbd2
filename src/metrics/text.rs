//! The text of a scrape: Prometheus 0.0.4 and OpenMetrics 1.0.

use std::fmt::{self, Write};

use super::families::{ALL, Family, Kind};
use super::scrape::Scrape;

/// Bytes that a family's announcement takes, about.
const ANNOUNCED: usize = 256;

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Prometheus 0.0.4, for whoever does not ask for the other one.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that an HTTP `Accept` prefers; Prometheus's where neither is named.
    pub fn accepted(accept: &str) -> Format {
        let quality = |media: &[&str]| {
            let ranges = accept.split(',').map(Range::of).filter(|range| media.contains(&range.media));
            ranges.map(|range| range.quality).fold(0.0, f32::max)
        };
        let open = quality(&["application/openmetrics-text"]);
        match open > 0.0 && open >= quality(&["text/plain", "text/*"]) {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// A scrape, with every declared family: one without samples is announced all the same.
    pub fn write(self, scrape: &Scrape) -> String {
        let mut text = String::with_capacity(ALL.iter().map(|family| ANNOUNCED + scrape.lines(family).len()).sum());
        for family in ALL {
            self.announce(&mut text, family).expect("a String takes everything");
            text.push_str(scrape.lines(family));
        }
        if self == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn announce(self, text: &mut String, family: &Family) -> fmt::Result {
        let suffix = match self {
            Format::Prometheus => family.kind.suffix(),
            Format::OpenMetrics => "",
        };
        let name = family.name;
        writeln!(text, "# HELP {name}{suffix} {}", family.help())?;
        writeln!(text, "# TYPE {name}{suffix} {}", self.kind(family.kind))?;
        if self == Format::OpenMetrics && !family.unit.is_empty() {
            writeln!(text, "# UNIT {name} {}", family.unit)?;
        }
        Ok(())
    }

    fn kind(self, kind: Kind) -> &'static str {
        match (kind, self) {
            (Kind::Counter, _) => "counter",
            (Kind::Histogram, _) => "histogram",
            (Kind::Info, Format::OpenMetrics) => "info",
            (Kind::Gauge, _) | (Kind::Info, Format::Prometheus) => "gauge",
        }
    }
}

/// One entry of an `Accept`.
struct Range<'a> {
    media: &'a str,
    quality: f32,
}

impl Range<'_> {
    fn of(text: &str) -> Range<'_> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
        Range { media, quality: quality.unwrap_or(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::families;

    fn scrape() -> Scrape {
        let mut scrape = Scrape::default();
        scrape.count(&families::REFUSED, ["imap-login", "a\"b\\c\nd", "absent"], 3_u64);
        let mut recorded = crate::stats::empty_histogram();
        [1500, 40_000_000].into_iter().for_each(|micros| recorded.saturating_record(micros));
        scrape.times(&families::DISPATCH, ["imap"], &recorded, 1e-6);
        scrape.gauge(&families::SERVER_WEIGHT, ["imap", "mail1"], 0.25);
        scrape.info(&families::BUILD, ["1.0", "6.1"]);
        scrape
    }

    #[test]
    fn both_texts_hold_the_same_samples_under_the_names_of_their_format() {
        let [old, new] = [Format::Prometheus, Format::OpenMetrics].map(|format| format.write(&scrape()));
        let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        let [ours, others]: [Vec<String>; 2] = [samples(&old), samples(&new)];
        assert_eq!(ours, others);
        assert!(old.contains("# TYPE vestibule_refused_total counter\n"), "{old}");
        assert!(old.contains("# TYPE vestibule_build_info gauge\n"), "{old}");
        assert!(new.contains("# TYPE vestibule_refused counter\n"), "{new}");
        assert!(new.contains("# TYPE vestibule_build info\n"), "{new}");
        assert!(new.contains("# UNIT vestibule_dispatch_seconds seconds\n") && new.ends_with("\n# EOF\n"), "{new}");
    }

    #[test]
    fn samples_are_written_as_the_formats_have_them() {
        let text = Format::Prometheus.write(&scrape());
        for line in [
            r#"vestibule_refused_total{service="imap-login",listener="a\"b\\c\nd",reason="absent"} 3"#,
            r#"vestibule_dispatch_seconds_bucket{pool="imap",le="0.001"} 0"#,
            r#"vestibule_dispatch_seconds_bucket{pool="imap",le="0.002"} 1"#,
            r#"vestibule_dispatch_seconds_bucket{pool="imap",le="30.0"} 1"#,
            r#"vestibule_dispatch_seconds_bucket{pool="imap",le="+Inf"} 2"#,
            r#"vestibule_dispatch_seconds_count{pool="imap"} 2"#,
            r#"vestibule_server_weight{backend="imap",server="mail1"} 0.25"#,
            r#"vestibule_build_info{version="1.0",kernel="6.1"} 1"#,
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_preferred_format_is_chosen() {
        let of_prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/html", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text; version=1.0.0; q=0.2, text/plain; q=0.9", Format::Prometheus),
            (of_prometheus, Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
