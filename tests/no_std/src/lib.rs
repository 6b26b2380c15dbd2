//! The decoder's crate without its default features; and its sources once more in this one, with doors that nothing can be
//! inlined through, so that the assembly of each is whole.
#![no_std]
#![allow(missing_docs)]

pub use vestibule_proxy as whole;

#[path = "../../../proxy/src/proxy/mod.rs"]
pub mod proxy;
#[path = "../../../proxy/src/scan/mod.rs"]
mod scan;

use proxy::{Class, Decoded, Encoder, Header, Rules};

#[inline(never)]
pub fn door_decode<'a>(prefix: &'a [u8], rules: &Rules) -> Decoded<'a> {
    proxy::decode(prefix, rules)
}

/// Every reader of a header's TLVs.
#[inline(never)]
pub fn door_read(header: &Header<'_>) -> usize {
    let texts = [header.alpn(), header.authority_raw(), header.unique_id(), header.netns()];
    let lengths = texts.into_iter().flatten().map(<[u8]>::len).sum::<usize>() + header.tlvs().count();
    let ssl = header.ssl().and_then(|ssl| ssl.verified_common_name()).map_or(0, str::len);
    lengths + ssl + header.authority().map_or(0, str::len) + usize::from(header.source().is_some())
}

#[inline(never)]
pub fn door_encode(encoder: &Encoder<'_>, out: &mut [u8]) -> Option<usize> {
    encoder.encode(out).ok()
}

/// As many bytes as there can be to decide by.
#[inline(never)]
pub fn door_classify(first: &[u8; 16]) -> Class {
    proxy::classify(first)
}
