//! Header decoding beside its peers: crates ppp, proxy-header and proxy-protocol.
//!
//! ```text
//! cargo bench --bench header               times, interleaved with the peers', and the ratio to the fastest
//! cargo bench --bench header -- --test     every answer once, no times
//! cargo bench --bench header -- --list     cases and contenders
//! cargo bench --bench header -- --run CASE CONTENDER PASSES     for a profiler, see benches/instructions
//! ```
//!
//! Every contender decodes the same 256 different headers of a case, one after the other, so that no branch predictor
//! learns a single one by heart. Every answer is compared with what was encoded before anything is timed. Each is
//! called at the entry that takes either version, and builds what its own API builds.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use vestibule::proxy::{self, Class, Decoded, Encoder, Header, Rules, Tlv, Version, kind};

const HEADERS: usize = 256;
const ROUNDS: usize = 301;
const ROUND: Duration = Duration::from_micros(400);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cases = cases();
    for case in &cases {
        case.check();
    }
    let asked = |option: &str| arguments.iter().position(|argument| argument == option);
    if let Some(at) = asked("--run") {
        run(&cases, &arguments[at + 1..]);
    } else if asked("--list").is_some() {
        list(&cases);
    } else if asked("--bench").is_some() && asked("--test").is_none() {
        // `cargo bench` passes --bench, `cargo test --benches` does not.
        measure(&cases);
    } else {
        println!("{} cases, every answer right", cases.len());
    }
}

/// A header and what must come out of it.
struct Sample {
    bytes: Vec<u8>,
    answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    addresses: Option<(SocketAddr, SocketAddr)>,
    /// Number of TLVs and sum of their types and lengths, where they are walked.
    tlvs: (usize, usize),
}

struct Case {
    name: &'static str,
    samples: Vec<Sample>,
    /// Ours first.
    contenders: Vec<Contender>,
    /// Our time by the fastest peer's must not exceed this.
    bar: Option<f64>,
}

struct Contender {
    name: &'static str,
    /// Whether it goes over the TLVs.
    walks: bool,
    answer: fn(&[u8]) -> Answer,
    /// Decodes each sample once.
    pass: fn(&[Sample]),
}

impl Case {
    fn check(&self) {
        for contender in &self.contenders {
            for sample in &self.samples {
                let got = (contender.answer)(&sample.bytes);
                let tlvs = if contender.walks { sample.answer.tlvs } else { (0, 0) };
                let expected = Answer { tlvs, ..sample.answer };
                let shown = sample.bytes.escape_ascii();
                assert_eq!(got, expected, "{}, {}: {shown}", self.name, contender.name);
            }
        }
    }
}

fn list(cases: &[Case]) {
    for case in cases {
        for contender in &case.contenders {
            println!("{}\t{}", case.name, contender.name);
        }
    }
}

fn run(cases: &[Case], arguments: &[String]) {
    let [case, contender, passes, ..] = arguments else { panic!("expected: --run CASE CONTENDER PASSES") };
    let case = cases.iter().find(|known| known.name == case).expect("a case of this name");
    let contender = case.contenders.iter().find(|known| known.name == contender).expect("a contender of this name");
    for _ in 0..passes.parse().expect("a number of passes") {
        (contender.pass)(&case.samples);
    }
}

/// Times all contenders of a case in turn, round after round, so that a slow phase of the machine meets all of them.
fn measure(cases: &[Case]) {
    println!("nanoseconds a header, medians of {ROUNDS} interleaved rounds\n");
    for case in cases {
        let passes: Vec<u32> =
            case.contenders.iter().map(|contender| passes_a_round(contender, &case.samples)).collect();
        let mut times = vec![Vec::with_capacity(ROUNDS); case.contenders.len()];
        for _ in 0..ROUNDS {
            for (i, contender) in case.contenders.iter().enumerate() {
                times[i].push(nanoseconds(contender, &case.samples, passes[i]));
            }
        }
        report(case, &times);
    }
}

fn report(case: &Case, times: &[Vec<f64>]) {
    print!("{:<28}", case.name);
    for (contender, times) in case.contenders.iter().zip(times) {
        print!("  {} {:.1}", contender.name, median(times.clone()));
    }
    let fastest = (1..times.len()).min_by(|&a, &b| median(times[a].clone()).total_cmp(&median(times[b].clone())));
    if let Some(fastest) = fastest {
        let ratio = median(times[0].iter().zip(&times[fastest]).map(|(ours, peer)| ours / peer).collect());
        print!("  ratio {ratio:.3}");
        if let Some(bar) = case.bar {
            print!(" ({} {bar})", if ratio <= bar { "within" } else { "ABOVE" });
        }
    }
    println!();
}

fn passes_a_round(contender: &Contender, samples: &[Sample]) -> u32 {
    let one = nanoseconds(contender, samples, 20) * samples.len() as f64;
    (ROUND.as_nanos() as f64 / one).ceil().max(1.0) as u32
}

fn nanoseconds(contender: &Contender, samples: &[Sample], passes: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..passes {
        (contender.pass)(black_box(samples));
    }
    start.elapsed().as_nanos() as f64 / f64::from(passes) / samples.len() as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn cases() -> Vec<Case> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let v4: Vec<_> = (0..HEADERS).map(|_| (random.v4(), random.v4_server())).collect();
    let v6: Vec<_> = (0..HEADERS).map(|_| (random.v6(), random.v6_server())).collect();
    let id = |i: usize| format!("{:08X}:{:04X}_{i:04X}", i * 0x9e37, i);
    let authority = |i: usize| format!("mail{}.example.org", i % 17);
    let three = |i: usize, make: &dyn Fn(&[Tlv<'_>]) -> Vec<u8>| {
        make(&[
            Tlv { kind: kind::UNIQUE_ID, value: id(i).as_bytes() },
            Tlv { kind: kind::AUTHORITY, value: authority(i).as_bytes() },
            Tlv { kind: kind::ALPN, value: b"imap" },
        ])
    };
    let samples = |addresses: &[(SocketAddr, SocketAddr)], make: &dyn Fn(usize, Encoder<'_>) -> Vec<u8>| {
        let samples = addresses.iter().enumerate().map(|(i, &(source, destination))| {
            sample(make(i, Encoder::proxy(source, destination)), Some((source, destination)))
        });
        samples.collect::<Vec<Sample>>()
    };
    let plain = |_: usize, encoder: Encoder<'_>| encoded(&encoder);
    let line = |_: usize, encoder: Encoder<'_>| encoded(&encoder.version(Version::V1));
    let checksum = |_: usize, encoder: Encoder<'_>| encoded(&encoder.checksum(true));
    let tlvs = |i: usize, encoder: Encoder<'_>| three(i, &|own| encoded(&encoder.tlvs(own)));
    let case = |name, samples, contenders, bar| Case { name, samples, contenders, bar };
    vec![
        case("v1 TCP4", samples(&v4, &line), v1_contenders(), Some(0.20)),
        case("v1 TCP6", samples(&v6, &line), v1_contenders(), Some(0.20)),
        case("v2 INET", samples(&v4, &plain), v2_contenders(), Some(0.20)),
        case("v2 INET6", samples(&v6, &plain), v2_contenders(), Some(0.20)),
        case("v2 INET, 3 TLVs walked", samples(&v4, &tlvs), walking_contenders(), Some(0.20)),
        case("v2 INET, CRC32C verified", samples(&v4, &checksum), v2_contenders(), Some(0.50)),
        case("classifier, v1", samples(&v4, &line), classifier(), None),
        case("classifier, v2", samples(&v4, &plain), classifier(), None),
    ]
}

/// A contender from `$decode: fn(&[u8]) -> T`, `$walk: fn(&T) -> (usize, usize)` where it can walk over TLVs, and what
/// its result means, `$answer: fn(&T) -> Addresses`.
macro_rules! contender {
    ($name:literal, $decode:expr, $answer:expr) => {
        contender!($name, $decode, $answer, |_: &_| (0, 0), walks: false)
    };
    ($name:literal, $decode:expr, $answer:expr, $walk:expr) => {
        contender!($name, $decode, $answer, $walk, walks: true)
    };
    ($name:literal, $decode:expr, $answer:expr, $walk:expr, walks: $walks:literal) => {
        Contender {
            name: $name,
            walks: $walks,
            answer: |bytes| {
                let decoded = $decode(bytes);
                Answer { addresses: $answer(&decoded), tlvs: $walk(&decoded) }
            },
            pass: |samples| {
                for sample in samples {
                    let decoded = $decode(&sample.bytes);
                    // By reference: nobody pays for moving the result.
                    black_box(&decoded);
                    if $walks {
                        let (count, sum) = $walk(&decoded);
                        black_box(count + sum);
                    }
                }
            },
        }
    };
}

fn v1_contenders() -> Vec<Contender> {
    vec![
        contender!("vestibule", vestibule_decode, vestibule_answer),
        contender!("ppp", ppp_v1_decode, ppp_v1_answer),
        contender!("proxy-header", proxy_header_decode, proxy_header_answer),
        contender!("proxy-protocol", proxy_protocol_decode, proxy_protocol_answer),
    ]
}

fn v2_contenders() -> Vec<Contender> {
    vec![
        contender!("vestibule", vestibule_decode, vestibule_answer),
        contender!("ppp", ppp_v2_decode, ppp_v2_answer),
        contender!("proxy-header", proxy_header_decode, proxy_header_answer),
        contender!("proxy-protocol", proxy_protocol_decode, proxy_protocol_answer),
    ]
}

/// proxy-protocol cannot read TLVs; it is here so that the fastest peer is the fastest.
fn walking_contenders() -> Vec<Contender> {
    vec![
        contender!("vestibule", vestibule_decode, vestibule_answer, vestibule_walk),
        contender!("ppp", ppp_v2_decode, ppp_v2_answer, ppp_v2_walk),
        contender!("proxy-header", proxy_header_decode, proxy_header_answer, proxy_header_walk),
        contender!("proxy-protocol", proxy_protocol_decode, proxy_protocol_answer),
    ]
}

/// The class has no addresses; the whole decoder stands in for them in the check.
fn classifier() -> Vec<Contender> {
    vec![Contender {
        name: "vestibule",
        walks: false,
        answer: |bytes| {
            let class = if bytes[0] == b'P' { Class::V1 } else { Class::V2 };
            assert_eq!(proxy::classify(bytes), class);
            Answer { addresses: vestibule_answer(&vestibule_decode(bytes)), tlvs: (0, 0) }
        },
        pass: |samples| {
            for sample in samples {
                black_box(proxy::classify(&sample.bytes));
            }
        },
    }]
}

type Addresses = Option<(SocketAddr, SocketAddr)>;

#[inline(always)]
fn vestibule_decode(bytes: &[u8]) -> Decoded<'_> {
    const RULES: &Rules = &Rules { header_limit: 4096, v4_in_tcp6: false, v6_in_tcp4: false };
    let decoded = proxy::decode(bytes, RULES);
    assert!(matches!(decoded, Decoded::Complete(_)));
    decoded
}

#[inline(always)]
fn vestibule_walk(decoded: &Decoded<'_>) -> (usize, usize) {
    header(decoded).tlvs().fold((0, 0), |sum, tlv| (sum.0 + 1, sum.1 + usize::from(tlv.kind) + tlv.value.len()))
}

#[inline(always)]
fn header<'d, 'a>(decoded: &'d Decoded<'a>) -> &'d Header<'a> {
    match decoded {
        Decoded::Complete(header) => header,
        other => panic!("{other:?}"),
    }
}

fn vestibule_answer(decoded: &Decoded<'_>) -> Addresses {
    header(decoded).head().ip()
}

#[inline(always)]
fn ppp_v1_decode(bytes: &[u8]) -> ppp::v1::Header<'_> {
    match ppp::HeaderResult::parse(bytes) {
        ppp::HeaderResult::V1(header) => header.expect("a header"),
        ppp::HeaderResult::V2(header) => panic!("{header:?}"),
    }
}

#[inline(always)]
fn ppp_v2_decode(bytes: &[u8]) -> ppp::v2::Header<'_> {
    match ppp::HeaderResult::parse(bytes) {
        ppp::HeaderResult::V2(header) => header.expect("a header"),
        ppp::HeaderResult::V1(header) => panic!("{header:?}"),
    }
}

#[inline(always)]
fn ppp_v2_walk(header: &ppp::v2::Header<'_>) -> (usize, usize) {
    header.tlvs().fold((0, 0), |sum, tlv| {
        let tlv = tlv.expect("a TLV");
        (sum.0 + 1, sum.1 + usize::from(tlv.kind) + tlv.value.len())
    })
}

fn ppp_v1_answer(header: &ppp::v1::Header<'_>) -> Addresses {
    use ppp::v1::Addresses::{Tcp4, Tcp6, Unknown};
    match header.addresses {
        Tcp4(ip) => Some(sockets(ip.source_address, ip.source_port, ip.destination_address, ip.destination_port)),
        Tcp6(ip) => Some(sockets(ip.source_address, ip.source_port, ip.destination_address, ip.destination_port)),
        Unknown => None,
    }
}

fn ppp_v2_answer(header: &ppp::v2::Header<'_>) -> Addresses {
    use ppp::v2::Addresses::{IPv4, IPv6};
    match header.addresses {
        IPv4(ip) => Some(sockets(ip.source_address, ip.source_port, ip.destination_address, ip.destination_port)),
        IPv6(ip) => Some(sockets(ip.source_address, ip.source_port, ip.destination_address, ip.destination_port)),
        _ => None,
    }
}

fn sockets<A: Into<IpAddr>>(
    source: A,
    source_port: u16,
    destination: A,
    destination_port: u16,
) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(source.into(), source_port), SocketAddr::new(destination.into(), destination_port))
}

#[inline(always)]
fn proxy_header_decode(bytes: &[u8]) -> proxy_header::ProxyHeader<'_> {
    proxy_header::ProxyHeader::parse(bytes, proxy_header::ParseConfig::default()).expect("a header").0
}

#[inline(always)]
fn proxy_header_walk(header: &proxy_header::ProxyHeader<'_>) -> (usize, usize) {
    use proxy_header::Tlv::{Alpn, Authority, UniqueId};
    header.tlvs().fold((0, 0), |sum, tlv| {
        let tlv = tlv.expect("a TLV");
        let length = match &tlv {
            UniqueId(id) => id.len(),
            Authority(name) => name.len(),
            Alpn(name) => name.len(),
            other => panic!("{other:?}"),
        };
        (sum.0 + 1, sum.1 + usize::from(tlv.kind()) + length)
    })
}

fn proxy_header_answer(header: &proxy_header::ProxyHeader<'_>) -> Addresses {
    header.proxied_address().map(|address| (address.source, address.destination))
}

#[inline(always)]
fn proxy_protocol_decode(mut bytes: &[u8]) -> proxy_protocol::ProxyHeader {
    proxy_protocol::parse(&mut bytes).expect("a header")
}

fn proxy_protocol_answer(header: &proxy_protocol::ProxyHeader) -> Addresses {
    use proxy_protocol::ProxyHeader::{Version1, Version2};
    use proxy_protocol::{version1, version2};
    match *header {
        Version1 { addresses: version1::ProxyAddresses::Ipv4 { source, destination } } => {
            Some((source.into(), destination.into()))
        }
        Version1 { addresses: version1::ProxyAddresses::Ipv6 { source, destination } } => {
            Some((source.into(), destination.into()))
        }
        Version2 { addresses: version2::ProxyAddresses::Ipv4 { source, destination }, .. } => {
            Some((source.into(), destination.into()))
        }
        Version2 { addresses: version2::ProxyAddresses::Ipv6 { source, destination }, .. } => {
            Some((source.into(), destination.into()))
        }
        _ => None,
    }
}

/// The sample's TLV sum is read by our decoder; the peers have to agree.
fn sample(bytes: Vec<u8>, addresses: Addresses) -> Sample {
    let tlvs = vestibule_walk(&vestibule_decode(&bytes));
    Sample { answer: Answer { addresses, tlvs }, bytes }
}

fn encoded(encoder: &Encoder<'_>) -> Vec<u8> {
    let mut bytes = vec![0; encoder.encoded_len()];
    encoder.encode(&mut bytes).expect("a header that can be sent");
    bytes
}

/// xorshift: the same headers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn port(&mut self) -> u16 {
        1024 + (self.next() % 64512) as u16
    }

    fn server_port(&mut self) -> u16 {
        [25, 110, 143, 993, 10143][self.next() as usize % 5]
    }

    fn v4(&mut self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::from(self.next() as u32).into(), self.port())
    }

    fn v4_server(&mut self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(192, 0, 2, self.next() as u8).into(), self.server_port())
    }

    /// A client: a routing prefix, a subnet and 64 random bits, or a short address that is written with `::`.
    fn v6(&mut self) -> SocketAddr {
        let id = if self.next().is_multiple_of(2) { self.next() << 16 ^ self.next() } else { self.next() % 4096 };
        let prefix = 0x2001_0db8_0000_0000 | (self.next() & 0xffff_ffff);
        let address = Ipv6Addr::from(u128::from(prefix) << 64 | u128::from(id));
        SocketAddr::new(address.into(), self.port())
    }

    fn v6_server(&mut self) -> SocketAddr {
        let address = Ipv6Addr::from(0x2001_0db8_0000_0025_u128 << 64 | u128::from(self.next() % 256));
        SocketAddr::new(address.into(), self.server_port())
    }
}
