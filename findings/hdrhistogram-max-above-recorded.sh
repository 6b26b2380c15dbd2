#!/usr/bin/env bash
# hdrhistogram's max() can be larger than every value that was recorded, and its min() smaller than every one, by up to the
# histogram's precision: they are the ends of the ranges that the values fell into. A maximum that is printed as such may
# never have been seen, and of a single value neither max(), min() nor mean() need be that value.
#
# Crate: hdrhistogram 7.6.0. Seen, for a histogram of 3 significant digits:
#   recorded 1000001: min 999936, max 1000447, mean 1000192
#   recorded 2047: min 2047, max 2047, mean 2047
#   recorded 2049: min 2048, max 2049, mean 2049
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
hdrhistogram = { version = "=7.6.0", default-features = false }
END
cat >"$work"/src/main.rs <<'END'
use hdrhistogram::Histogram;

fn main() {
    for value in [1_000_001, 2047, 2049] {
        let mut histogram = Histogram::<u64>::new(3).expect("3 digits are possible");
        histogram.record(value).expect("it resizes itself");
        println!("min {}, max {}, mean {}", histogram.min(), histogram.max(), histogram.mean());
    }
}
END
cargo build --quiet --manifest-path "$work"/Cargo.toml 2>"$work"/log ||
  skip "crate hdrhistogram 7.6.0: $(tail -n 1 "$work"/log)"
{ read -r large; read -r exact; read -r odd; } < <("$work"/target/debug/finding 2>&1)

holds "recorded 1000001" "min 999936, max 1000447, mean 1000192" "$large"
holds "recorded 2047" "min 2047, max 2047, mean 2047" "$exact"
holds "recorded 2049" "min 2048, max 2049, mean 2049" "$odd"
exit $status
