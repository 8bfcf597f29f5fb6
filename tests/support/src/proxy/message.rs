//! The messages of the PostgreSQL protocol that the proxy must know.

use std::io::{self, ErrorKind, Read};

/// A message with its type.
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u8, body: Vec<u8>) -> Self {
        Self { kind, body }
    }

    /// A Query of the simple protocol.
    pub(super) fn query(text: &str) -> Self {
        Self::new(b'Q', [text.as_bytes(), &[0]].concat())
    }

    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut kind = [0];
        from.read_exact(&mut kind)?;
        let [kind] = kind;
        let body = read_body(from)?;
        Ok(Self { kind, body })
    }

    pub(super) fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.kind);
        write_body(&self.body, bytes);
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.body.len() + 5);
        self.write_to(&mut bytes);
        bytes
    }

    /// The strings at the beginning of the body.
    pub(super) fn strings(&self) -> impl Iterator<Item = String> {
        self.body
            .split(|byte| *byte == 0)
            .map(|string| String::from_utf8_lossy(string).into_owned())
    }
}

/// A message without a type, with which a client opens a connection.
pub(super) struct Opening(Vec<u8>);

impl Opening {
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        read_body(from).map(Self)
    }

    /// Whether it only asks for TLS or GSSAPI.
    pub(super) fn asks_for_encryption(&self) -> bool {
        const SSL: [u8; 4] = 80_877_103_u32.to_be_bytes();
        const GSSAPI: [u8; 4] = 80_877_104_u32.to_be_bytes();
        self.0 == SSL || self.0 == GSSAPI
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_body(&self.0, &mut bytes);
        bytes
    }
}

fn read_body(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length).checked_sub(4);
    let mut body = vec![0; length.ok_or(ErrorKind::InvalidData)? as usize];
    from.read_exact(&mut body)?;
    Ok(body)
}

fn write_body(body: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
}
