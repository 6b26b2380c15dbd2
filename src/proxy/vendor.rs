//! TLVs of cloud providers (types 0xe0 to 0xef). A malformed one yields nothing; it never refuses a header.

use core::str;

use super::header::Header;
use super::tlv::kind;

/// AWS: the value's first byte for a VPC endpoint id.
const AWS_VPC_ENDPOINT_ID: u8 = 0x01;
/// Azure: the value's first byte for a LINKID.
const AZURE_LINKID: u8 = 0x01;
/// Alibaba: the value's first byte for each of the three ids.
const ALIBABA_VPC_ID: u8 = 0x01;
const ALIBABA_ENDPOINT_ID: u8 = 0x02;
const ALIBABA_ENDPOINT_SERVICE_ID: u8 = 0x03;

impl<'a> Header<'a> {
    /// AWS: id of the VPC endpoint that the client came through, such as `vpce-08d2bf15fac5001c9`.
    pub fn aws_vpc_endpoint_id(&self) -> Option<&'a str> {
        let id = self.tlv(kind::AWS)?.strip_prefix(&[AWS_VPC_ENDPOINT_ID])?;
        if !id.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        str::from_utf8(id).ok()
    }

    /// Azure: LINKID of the private endpoint that the client came through.
    pub fn azure_link_id(&self) -> Option<u32> {
        let id = self.tlv(kind::AZURE)?.strip_prefix(&[AZURE_LINKID])?;
        Some(u32::from_le_bytes(id.try_into().ok()?))
    }

    /// Google Cloud: Private Service Connect connection id.
    pub fn gcp_psc_connection_id(&self) -> Option<u64> {
        Some(u64::from_be_bytes(self.tlv(kind::GCP_PSC_CONNECTION_ID)?.try_into().ok()?))
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
