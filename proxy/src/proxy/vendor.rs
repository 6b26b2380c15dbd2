//! TLVs of cloud providers (types 0xe0 to 0xef). A malformed one yields nothing; it never refuses a header.

use core::{fmt, str};

use super::header::Header;
use super::tlv::{Tlv, kind};

/// AWS: the value's first byte for a VPC endpoint id.
const AWS_VPC_ENDPOINT_ID: u8 = 0x01;
/// Azure: the value's first byte for a LINKID.
const AZURE_LINKID: u8 = 0x01;
/// Alibaba: the value's first byte for each of the three ids.
const ALIBABA_VPC_ID: u8 = 0x01;
const ALIBABA_ENDPOINT_ID: u8 = 0x02;
const ALIBABA_ENDPOINT_SERVICE_ID: u8 = 0x03;

/// The private endpoint of a cloud provider that a client came through, as a balancer of that provider says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint<'a> {
    /// AWS: the VPC endpoint's id, such as `vpce-08d2bf15fac5001c9`.
    Aws(&'a str),
    /// Azure: the private endpoint's LINKID.
    Azure(u32),
    /// Google Cloud: the Private Service Connect connection id.
    Gcp(u64),
}

impl<'a> Tlv<'a> {
    /// The private endpoint that it names; `None` for a malformed one too.
    pub fn endpoint(&self) -> Option<Endpoint<'a>> {
        match self.kind {
            kind::AWS => aws_id(self.value).filter(|id| !id.is_empty()).map(Endpoint::Aws),
            kind::AZURE => azure_id(self.value).map(Endpoint::Azure),
            kind::GCP_PSC_CONNECTION_ID => gcp_id(self.value).map(Endpoint::Gcp),
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint<'_> {
    /// As the setting `client_allowed_endpoints` names it: `vpce-08d2bf15fac5001c9`, `azure:LINKID`, `gcp:ID`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Aws(id) => f.write_str(id),
            Endpoint::Azure(id) => write!(f, "azure:{id}"),
            Endpoint::Gcp(id) => write!(f, "gcp:{id}"),
        }
    }
}

impl<'a> Header<'a> {
    /// Every private endpoint that it names, in the order of the wire: as a rule one or none.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint<'a>> + use<'a> {
        self.tlvs().filter_map(|tlv| tlv.endpoint())
    }

    /// AWS: id of the VPC endpoint that the client came through, such as `vpce-08d2bf15fac5001c9`.
    pub fn aws_vpc_endpoint_id(&self) -> Option<&'a str> {
        aws_id(self.tlv(kind::AWS)?)
    }

    /// Azure: LINKID of the private endpoint that the client came through.
    pub fn azure_link_id(&self) -> Option<u32> {
        azure_id(self.tlv(kind::AZURE)?)
    }

    /// Google Cloud: Private Service Connect connection id.
    pub fn gcp_psc_connection_id(&self) -> Option<u64> {
        gcp_id(self.tlv(kind::GCP_PSC_CONNECTION_ID)?)
    }

    /// Alibaba Cloud: id of the VPC.
    pub fn alibaba_vpc_id(&self) -> Option<&'a str> {
        self.alibaba(ALIBABA_VPC_ID)
    }

    /// Alibaba Cloud: id of the endpoint.
    pub fn alibaba_endpoint_id(&self) -> Option<&'a str> {
        self.alibaba(ALIBABA_ENDPOINT_ID)
    }

    /// Alibaba Cloud: id of the endpoint service.
    pub fn alibaba_endpoint_service_id(&self) -> Option<&'a str> {
        self.alibaba(ALIBABA_ENDPOINT_SERVICE_ID)
    }

    fn alibaba(&self, id: u8) -> Option<&'a str> {
        let mut values = self.tlvs().filter(|tlv| tlv.kind == kind::ALIBABA).map(|tlv| tlv.value);
        let text = values.find_map(|value| value.strip_prefix(&[id]))?;
        if text.is_empty() || !text.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        str::from_utf8(text).ok()
    }
}

fn aws_id(value: &[u8]) -> Option<&str> {
    let id = value.strip_prefix(&[AWS_VPC_ENDPOINT_ID])?;
    let is_id = id.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_id.then(|| str::from_utf8(id).ok()).flatten()
}

fn azure_id(value: &[u8]) -> Option<u32> {
    let id = value.strip_prefix(&[AZURE_LINKID])?;
    Some(u32::from_le_bytes(id.try_into().ok()?))
}

fn gcp_id(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}
