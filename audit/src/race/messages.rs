//! The messages of a client, as far as they tell which statement it sends.

use std::collections::{HashMap, HashSet};

/// Takes messages apart, and knows the prepared statements of one connection.
#[derive(Debug, Default)]
pub(super) struct Messages {
    buffer: Vec<u8>,
    started: bool,
    /// The texts of prepared statements, by name.
    texts: HashMap<String, String>,
    /// Those that were prepared and not executed since.
    prepared: HashSet<String>,
}

/// A whole message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// The text of the statement that begins with it.
    pub(super) statement: Option<String>,
    /// A request for encryption, which this side answers.
    pub(super) asks_for_encryption: bool,
}

impl Messages {
    /// Adds what was received.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next message, if it has arrived as a whole.
    pub(super) fn next(&mut self) -> Option<Message> {
        // The first messages of a connection have no type.
        let header = usize::from(self.started);
        let length = self.buffer.get(header..header + 4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        if self.buffer.len() < header + length {
            return None;
        }
        let bytes: Vec<u8> = self.buffer.drain(..header + length).collect();
        if !self.started {
            let code = bytes.get(4..8).unwrap_or_default();
            let asks_for_encryption = ENCRYPTION.contains(&code);
            self.started = !asks_for_encryption;
            return Some(Message {
                bytes,
                statement: None,
                asks_for_encryption,
            });
        }
        let statement = self.statement(&bytes);
        Some(Message {
            bytes,
            statement,
            asks_for_encryption: false,
        })
    }

    /// The statement that begins with a message: a simple query, the preparation of a statement, or
    /// the execution of one that was prepared before.
    fn statement(&mut self, message: &[u8]) -> Option<String> {
        let (kind, body) = (message.first()?, message.get(5..)?);
        let mut texts = body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let (first, second) = (texts.next()?.into_owned(), texts.next());
        match kind {
            b'Q' => Some(first),
            b'P' => {
                let text = second?.into_owned();
                self.texts.insert(first.clone(), text.clone());
                self.prepared.insert(first);
                Some(text)
            }
            b'B' => {
                let name = second?;
                let was_prepared = self.prepared.remove(&*name);
                self.texts.get(&*name).filter(|_| !was_prepared).cloned()
            }
            _ => None,
        }
    }
}

/// The codes of the requests for TLS and for GSSAPI.
const ENCRYPTION: [&[u8]; 2] = [&80_877_103_u32.to_be_bytes(), &80_877_104_u32.to_be_bytes()];

#[cfg(test)]
mod tests {
    use super::Messages;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    fn started() -> Messages {
        let mut messages = Messages::default();
        messages.receive(&[0, 0, 0, 8, 4, 210, 22, 47]);
        assert!(messages.next().unwrap().asks_for_encryption);
        messages.receive(&[0, 0, 0, 9, 0, 3, 0, 0, 0]);
        assert!(!messages.next().unwrap().asks_for_encryption);
        messages
    }

    #[test]
    fn message_in_pieces_is_taken_as_a_whole() {
        let mut messages = started();
        let query = message(b'Q', b"SELECT 1\0");
        messages.receive(&query[..7]);
        assert_eq!(messages.next(), None);
        messages.receive(&query[7..]);
        let taken = messages.next().unwrap();
        assert_eq!(
            (taken.bytes, taken.statement.as_deref()),
            (query, Some("SELECT 1"))
        );
    }

    #[test]
    fn prepared_statement_begins_once_for_each_execution() {
        let mut messages = started();
        let mut begins = |kind, body: &[u8]| {
            messages.receive(&message(kind, body));
            messages.next().unwrap().statement
        };
        assert_eq!(
            begins(b'P', b"s1\0UPDATE t\0\0\0").as_deref(),
            Some("UPDATE t")
        );
        assert_eq!(begins(b'B', b"\0s1\0\0\0"), None);
        assert_eq!(begins(b'E', b"\0\0\0\0\0"), None);
        assert_eq!(begins(b'B', b"\0s1\0\0\0").as_deref(), Some("UPDATE t"));
        assert_eq!(begins(b'S', b""), None);
    }
}
