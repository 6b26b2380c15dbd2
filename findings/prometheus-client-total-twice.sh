#!/usr/bin/env bash
# The crate prometheus-client appends `_total` to the name of every counter, also to one that ends so already, and the
# unit to the name of every metric that has one; and a full stop to every help text, also behind another one. A counter
# that is registered under the name by which it is to be queried cannot be queried by it. Only a debug build objects, to
# the counter's name alone.
#
# Crate: prometheus-client 0.26.0. Seen, in a release build:
#   counter requests_total, "Requests.": # HELP requests_total Requests..
#   its value: requests_total_total 0
#   gauge up_seconds of unit seconds: up_seconds_seconds 0
. "$(dirname "$0")/common"
needs cargo
mkdir "$work"/src
cat >"$work"/Cargo.toml <<'END'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
prometheus-client = "=0.26.0"
END
cat >"$work"/src/main.rs <<'END'
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use prometheus_client::registry::{Registry, Unit};

fn main() {
    let mut registry = Registry::default();
    registry.register("requests_total", "Requests.", Counter::<u64>::default());
    registry.register_with_unit("up_seconds", "Time", Unit::Seconds, Gauge::<i64>::default());
    let mut text = String::new();
    encode(&mut text, &registry).expect("a String takes everything");
    print!("{text}");
}
END
cargo build --quiet --release --manifest-path "$work"/Cargo.toml 2>"$work"/log ||
  skip "crate prometheus-client 0.26.0: $(tail -n 1 "$work"/log)"
"$work"/target/release/finding >"$work"/text 2>&1

holds 'counter requests_total, "Requests."' "# HELP requests_total Requests.." "$(grep '^# HELP req' "$work"/text)"
holds "its value" "requests_total_total 0" "$(grep ^req "$work"/text)"
holds "gauge up_seconds of unit seconds" "up_seconds_seconds 0" "$(grep ^up "$work"/text)"
exit $status
