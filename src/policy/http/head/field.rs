//! The headers that mean something to a relay, by name.

/// A header that is not simply passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Ours(Ours),
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
}

/// A header that tells of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ours {
    /// X-Forwarded-For: a list of addresses.
    For,
    /// X-Forwarded-Proto.
    Proto,
    /// Forwarded: a list of elements (RFC 7239).
    Forwarded,
}

impl Ours {
    pub(super) const ALL: [Ours; 3] = [Ours::For, Ours::Proto, Ours::Forwarded];

    /// In small letters.
    pub(super) fn name(self) -> &'static str {
        match self {
            Ours::For => "x-forwarded-for",
            Ours::Proto => "x-forwarded-proto",
            Ours::Forwarded => "forwarded",
        }
    }
}

/// How a name is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As it should be, in any letter case.
    Exact,
    /// With other signs for hyphens: programs behind CGI, WSGI and the like see the same name.
    Disguised,
}

/// Which header is it? The name is a token.
pub(super) fn recognise(name: &str) -> Option<(Field, Spelling)> {
    // Nearly every header is told from these by its length and its first letter.
    let (field, known) = match (name.len(), name.as_bytes().first()? | 0x20) {
        (7, b'u') => (Field::Upgrade, "upgrade"),
        (9, b'f') => (Field::Ours(Ours::Forwarded), Ours::Forwarded.name()),
        (10, b'c') => (Field::Connection, "connection"),
        (14, b'c') => (Field::ContentLength, "content-length"),
        (15, b'x') => (Field::Ours(Ours::For), Ours::For.name()),
        (17, b'x') => (Field::Ours(Ours::Proto), Ours::Proto.name()),
        (17, b't') => (Field::TransferEncoding, "transfer-encoding"),
        _ => return None,
    };
    if is_same(name, known) {
        return Some((field, Spelling::Exact));
    }
    resembles(name.as_bytes(), known).then_some((field, Spelling::Disguised))
}

/// A name is this one of the same length, which is in small letters. Without a branch for each byte: clients write the names
/// of nearly all headers in the same way, and Connection is in nearly every request.
fn is_same(name: &str, known: &str) -> bool {
    // No two characters of a token become the same but letters and those of the other case.
    let difference = |sum, (byte, known): (u8, u8)| sum | ((byte | 0x20) ^ known);
    name.bytes().zip(known.bytes()).fold(0, difference) == 0
}

/// The name is this one (in small letters), whatever signs stand for its hyphens. Common is `_`; some servers turn every
/// sign into one for CGI.
pub(super) fn resembles(name: &[u8], known: &str) -> bool {
    let alike = |(byte, known): (&u8, u8)| match known {
        b'-' => !byte.is_ascii_alphanumeric(),
        letter => byte.eq_ignore_ascii_case(&letter),
    };
    name.len() == known.len() && name.iter().zip(known.bytes()).all(alike)
}
