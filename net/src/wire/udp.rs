//! UDP headers (RFC 768).

use super::UDP_LEN;

/// The UDP header of an answer from `from` to `to`, without its checksum.
pub fn udp_header(from: u16, to: u16, payload: usize) -> [u8; UDP_LEN] {
    let mut header = [0; UDP_LEN];
    header[0..2].copy_from_slice(&from.to_be_bytes());
    header[2..4].copy_from_slice(&to.to_be_bytes());
    header[4..6].copy_from_slice(&((UDP_LEN + payload) as u16).to_be_bytes());
    header
}
