//! Everything that is counted and measured, declared once: name, kind, unit, help text, labels; and the text in which
//! Prometheus reads it.
//!
//! A [`Scrape`] holds the samples of one moment. Whoever has counted something enters it by the [`families`] that this room
//! declares: the compiler sees that it is of the declared kind and has as many labels. No label is an address: who is
//! refused stands in `vestibule ctl refused` and on the page.
#![forbid(unsafe_code)]

pub mod families;
mod scrape;
mod text;

pub use families::{Counter, Family, Gauge, Histogram, Info, Kind};
pub use scrape::{Number, Scrape};
pub use text::Format;
