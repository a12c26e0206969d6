//! OpenSSL 3.0 and newer.
#![allow(unsafe_code)]

use std::os::raw::{c_int, c_long, c_uchar};
use std::sync::LazyLock;

use foreign_types::ForeignTypeRef;
use openssl::cipher::{Cipher, CipherRef};
use openssl::error::ErrorStack;
use openssl::md::{Md, MdRef};
use openssl::ssl::{ClientHelloResponse, SslAlert, SslContextBuilder, SslOptions, SslRef};
use openssl_sys as ffi;

const SSL_CTRL_SET_TLSEXT_TICKET_KEY_CB: c_int = 72;
const EXTENSION_SERVER_NAME: u32 = 0;

unsafe extern "C" {
    fn SSL_CTX_set_timeout(context: *mut ffi::SSL_CTX, seconds: c_long) -> c_long;
}

/// The tickets of TLS 1.3 leave at once.
pub(super) const TICKETS_WAIT: bool = false;

/// The callback for tickets.
pub(in super::super) type TicketCallback = unsafe extern "C" fn(
    *mut ffi::SSL,
    *mut c_uchar,
    *mut c_uchar,
    *mut ffi::EVP_CIPHER_CTX,
    *mut ffi::HMAC_CTX,
    c_int,
) -> c_int;

/// The library's name and version.
pub fn name() -> String {
    // A date follows.
    openssl::version::version().splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Options for everybody.
pub(in super::super) fn options() -> SslOptions {
    SslOptions::NO_COMPRESSION | SslOptions::PRIORITIZE_CHACHA
}

/// Signatures with SHA-1, which TLS 1.0 and 1.1 cannot do without, and whatever else the library finds too weak.
pub(in super::super) fn allow_sha1(builder: &mut SslContextBuilder) {
    builder.set_security_level(0);
}

/// The suites of TLS 1.3, the best one first.
pub(in super::super) fn set_ciphersuites(
    builder: &mut SslContextBuilder,
    list: &str,
) -> Result<(), ErrorStack> {
    builder.set_ciphersuites(list)
}

/// One ticket a handshake: a second one costs as much and is hardly ever used.
pub(in super::super) fn set_one_ticket(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    builder.set_num_tickets(1)
}

/// How long sessions can be resumed, in seconds.
pub(in super::super) fn set_session_lifetime(builder: &mut SslContextBuilder, seconds: u32) {
    // SAFETY: the context is the builder's.
    unsafe { SSL_CTX_set_timeout(builder.as_ptr(), c_long::from(seconds)) };
}

/// What makes and opens tickets.
pub(in super::super) fn set_ticket_callback(
    builder: &mut SslContextBuilder,
    callback: TicketCallback,
) -> Result<(), ErrorStack> {
    // SAFETY: a function pointer as another one, which nobody calls by that type: the library turns it back.
    let callback: unsafe extern "C" fn() = unsafe { std::mem::transmute(callback) };
    // SAFETY: the context is the builder's, and this control wants the callback of exactly this signature.
    let done = unsafe {
        ffi::SSL_CTX_callback_ctrl__fixed_rust(
            builder.as_ptr(),
            SSL_CTRL_SET_TLSEXT_TICKET_KEY_CB,
            Some(callback),
        )
    };
    if done == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// AES-256-CBC and SHA-256. Those that are not fetched are looked up by name at every use.
pub(in super::super) fn ticket_algorithms() -> (&'static CipherRef, &'static MdRef) {
    static CIPHER: LazyLock<Option<Cipher>> = LazyLock::new(|| Cipher::fetch(None, "AES-256-CBC", None).ok());
    static DIGEST: LazyLock<Option<Md>> = LazyLock::new(|| Md::fetch(None, "SHA256", None).ok());
    (CIPHER.as_deref().unwrap_or(Cipher::aes_256_cbc()), DIGEST.as_deref().unwrap_or(Md::sha256()))
}

/// Has the name that a client asks for kept with its session: of one that is resumed with TLS 1.2 the library knows no
/// other. It only keeps what somebody has accepted.
pub(in super::super) fn keep_server_name(builder: &mut SslContextBuilder) {
    builder.set_servername_callback(|_, _| Ok(()));
}

/// Has `choose` turn each connection over to the context for the name that its client asks for, before anything else is
/// done with what the client says: its session is looked for under that context. False is the end of the connection.
///
/// `suites`: those of TLS 1.3, the best one first, as they are [set](set_ciphersuites) anyway.
pub(in super::super) fn at_hello<F>(
    builder: &mut SslContextBuilder,
    _suites: &str,
    choose: Option<F>,
) -> Result<(), ErrorStack>
where
    F: Fn(&mut SslRef, Option<&str>) -> bool + Send + Sync + 'static,
{
    let Some(choose) = choose else {
        return Ok(());
    };
    builder.set_client_hello_callback(move |ssl, alert| {
        let name = asked_name(ssl);
        if choose(ssl, name.as_deref()) {
            return Ok(ClientHelloResponse::SUCCESS);
        }
        *alert = SslAlert::INTERNAL_ERROR;
        Err(ErrorStack::get())
    });
    Ok(())
}

/// The name in a client hello; none if there is none, or it is not as it should be (the library will say so).
fn asked_name(ssl: &SslRef) -> Option<String> {
    let mut start = std::ptr::null();
    let mut length = 0;
    // SAFETY: only called while the library has a client hello; it sets both if there is such an extension.
    let found = unsafe {
        ffi::SSL_client_hello_get0_ext(ssl.as_ptr(), EXTENSION_SERVER_NAME, &mut start, &mut length)
    };
    if found != 1 || start.is_null() {
        return None;
    }
    // SAFETY: the library's copy of the extension, unchanged until its callback returns.
    super::name_in(unsafe { std::slice::from_raw_parts(start, length) })
}

/// Gives a client this OCSP response.
pub(in super::super) fn staple(ssl: &mut SslRef, response: &[u8]) -> Result<(), ErrorStack> {
    ssl.set_ocsp_status(response)
}
