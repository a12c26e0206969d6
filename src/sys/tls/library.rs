//! What differs between the libraries that the openssl crate can be built with: OpenSSL (the system's, or `vendored`)
//! and AWS-LC (`aws-lc`).

#[cfg(feature = "aws-lc")]
#[path = "library/aws_lc.rs"]
mod special;
#[cfg(not(feature = "aws-lc"))]
#[path = "library/openssl.rs"]
mod special;

use std::sync::OnceLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{SslRef, SslVersion};

pub use special::name;
pub(super) use special::*;

/// The suites of TLS 1.3 for whoever names none. AES-128 first: its handshakes take fewer instructions, since they do
/// with SHA-256, which processors can do, and it is not the weakest link anywhere.
pub(super) const CIPHERSUITES: &str =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

/// Has the client said the last word of the handshake that has just succeeded? Then nothing of ours acknowledges that
/// word, and a client that does not use TCP_NODELAY waits for it before it says anything more.
pub(super) fn client_had_the_last_word(ssl: &SslRef) -> bool {
    let unanswered = match ssl.version2() {
        Some(SslVersion::TLS1_3) => special::TICKETS_WAIT,
        _ => ssl.session_reused(),
    };
    ssl.is_server() && unanswered
}

/// Where the library keeps something of ours with each context or connection: one place for all of them.
pub(super) fn place<T, D>(
    place: &OnceLock<Index<T, D>>,
    find: fn() -> Result<Index<T, D>, ErrorStack>,
) -> Result<Index<T, D>, ErrorStack> {
    match place.get() {
        Some(index) => Ok(*index),
        None => {
            let new = find()?;
            Ok(*place.get_or_init(|| new))
        }
    }
}

/// A reason of the library as people write: OpenSSL says `http request`, AWS-LC `HTTP_REQUEST`.
pub(super) fn plain(reason: &str) -> String {
    reason.to_ascii_lowercase().replace('_', " ")
}

/// The name in the extension of a client hello that is there for it, of which only one form is in use: a list with one
/// host name in it.
fn name_in(extension: &[u8]) -> Option<String> {
    // The list's length, the kind (0: a host name), the name's length, the name.
    let [_, _, 0, high, low, rest @ ..] = extension else {
        return None;
    };
    let name = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_garbled_server_name_does_no_harm() {
        for extension in [
            &b""[..],
            b"\0",
            b"\0\x0b\0\0\x08www.test"[..8].as_ref(),
            b"\0\x0b\x01\0\x08www.test",
            b"\0\x04\0\0\x01\xff",
        ] {
            assert_eq!(name_in(extension), None, "{extension:?}");
        }
        assert_eq!(name_in(b"\0\x0b\0\0\x08www.test").as_deref(), Some("www.test"));
    }
}
