//! AWS-LC. Half of what is different is not bound by the openssl crate, the rest does not exist.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::raw::{c_int, c_uchar};
use std::sync::OnceLock;

use foreign_types::ForeignTypeRef;
use openssl::cipher::{Cipher, CipherRef};
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::md::{Md, MdRef};
use openssl::ssl::{SslContext, SslContextBuilder, SslOptions, SslRef};
use openssl_sys as ffi;

const EXTENSION_SERVER_NAME: u16 = 0;

/// The suites of TLS 1.3.
const SUITES: [(&str, u16); 3] = [
    ("TLS_AES_128_GCM_SHA256", 0x1301),
    ("TLS_AES_256_GCM_SHA384", 0x1302),
    ("TLS_CHACHA20_POLY1305_SHA256", CHACHA),
];
const CHACHA: u16 = 0x1303;

/// The tickets of TLS 1.3 wait until there is something else to send.
pub(super) const TICKETS_WAIT: bool = true;

/// The callback for tickets.
pub(in super::super) type TicketCallback = unsafe extern "C" fn(
    *mut ffi::SSL,
    *mut c_uchar,
    *mut c_uchar,
    *mut ffi::EVP_CIPHER_CTX,
    *mut ffi::HMAC_CTX,
    c_int,
) -> c_int;

/// Turns a connection over to the context for a name.
type Choose = dyn Fn(&mut SslRef, Option<&str>) -> bool + Send + Sync;

/// What is done with each client hello.
struct AtHello {
    /// The suites of TLS 1.3, the best one first.
    preference: Vec<(CString, u16)>,
    choose: Option<Box<Choose>>,
}

/// The library's name and version.
pub fn name() -> String {
    let version = openssl::version::version();
    let own = version.split_once("AWS-LC").map_or(version, |(_, own)| own);
    format!("AWS-LC {}", own.trim_matches([' ', ')']))
}

/// Options for everybody.
pub(in super::super) fn options() -> SslOptions {
    SslOptions::empty()
}

/// Nothing is too weak for TLS 1.0 and 1.1 here.
pub(in super::super) fn allow_sha1(_builder: &mut SslContextBuilder) {}

/// The suites of TLS 1.3. Their order means nothing to the library; [`at_hello`] sees to it.
pub(in super::super) fn set_ciphersuites(
    builder: &mut SslContextBuilder,
    list: &str,
) -> Result<(), ErrorStack> {
    let Ok(list) = CString::new(list) else {
        return Err(ErrorStack::get());
    };
    // SAFETY: the context is the builder's; the list is copied.
    done(unsafe { ffi::SSL_CTX_set_ciphersuites(builder.as_ptr(), list.as_ptr()) })
}

/// One ticket a handshake: a second one costs as much and is hardly ever used.
pub(in super::super) fn set_one_ticket(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    // SAFETY: the context is the builder's.
    done(unsafe { ffi::SSL_CTX_set_num_tickets(builder.as_ptr(), 1) })
}

/// How long sessions can be resumed, in seconds.
pub(in super::super) fn set_session_lifetime(builder: &mut SslContextBuilder, seconds: u32) {
    // SAFETY: the context is the builder's.
    unsafe { ffi::SSL_CTX_set_timeout(builder.as_ptr(), seconds) };
    // SAFETY: the same. This one is for TLS 1.3.
    unsafe { ffi::SSL_CTX_set_session_psk_dhe_timeout(builder.as_ptr(), seconds) };
}

/// What makes and opens tickets.
pub(in super::super) fn set_ticket_callback(
    builder: &mut SslContextBuilder,
    callback: TicketCallback,
) -> Result<(), ErrorStack> {
    // SAFETY: the context is the builder's.
    done(unsafe { ffi::SSL_CTX_set_tlsext_ticket_key_cb(builder.as_ptr(), Some(callback)) })
}

/// AES-256-CBC and SHA-256.
pub(in super::super) fn ticket_algorithms() -> (&'static CipherRef, &'static MdRef) {
    (Cipher::aes_256_cbc(), Md::sha256())
}

/// The name that a client asks for is known by itself.
pub(in super::super) fn keep_server_name(_builder: &mut SslContextBuilder) {}

/// Has `choose` turn each connection over to the context for the name that its client asks for, before anything else is
/// done with what the client says: its session is looked for under that context. False is the end of the connection.
///
/// `suites`: those of TLS 1.3, the best one first. Among them the library leaves the choice to the client, so that a
/// client is shown only the one that it will have.
pub(in super::super) fn at_hello<F>(
    builder: &mut SslContextBuilder,
    suites: &str,
    choose: Option<F>,
) -> Result<(), ErrorStack>
where
    F: Fn(&mut SslRef, Option<&str>) -> bool + Send + Sync + 'static,
{
    let known = |word: &str| SUITES.into_iter().find(|(name, _)| *name == word);
    let preference = suites
        .split(':')
        .filter_map(known)
        .filter_map(|(name, number)| Some((CString::new(name).ok()?, number)))
        .collect();
    let choose = choose.map(|choose| Box::new(choose) as Box<_>);
    builder.set_ex_data(index()?, AtHello { preference, choose });
    // SAFETY: the context is the builder's.
    unsafe { ffi::SSL_CTX_set_select_certificate_cb(builder.as_ptr(), Some(read_hello)) };
    Ok(())
}

/// Where a context has what is done with client hellos.
fn index() -> Result<Index<SslContext, AtHello>, ErrorStack> {
    static INDEX: OnceLock<Index<SslContext, AtHello>> = OnceLock::new();
    super::place(&INDEX, SslContext::new_ex_index)
}

unsafe extern "C" fn read_hello(hello: *const ffi::SSL_CLIENT_HELLO) -> ffi::ssl_select_cert_result_t {
    // SAFETY: the library's own description of the client hello, unchanged until this returns.
    let hello = unsafe { &*hello };
    // SAFETY: the connection that it came on; nobody else uses it during this call.
    let ssl = unsafe { SslRef::from_ptr_mut(hello.ssl) };
    // The context that every connection begins with keeps living: the connection holds it.
    let context = ssl.ssl_context().to_owned();
    let Some(todo) = index().ok().and_then(|index| context.ex_data(index)) else {
        return ffi::ssl_select_cert_result_t_ssl_select_cert_success;
    };
    if let Some(choose) = &todo.choose {
        let name = asked_name(hello);
        if !choose(ssl, name.as_deref()) {
            return ffi::ssl_select_cert_result_t_ssl_select_cert_error;
        }
    }
    prefer(ssl, hello, &todo.preference);
    ffi::ssl_select_cert_result_t_ssl_select_cert_success
}

/// The name in a client hello; none if there is none, or it is not as it should be (the library will say so).
fn asked_name(hello: &ffi::SSL_CLIENT_HELLO) -> Option<String> {
    let mut start = std::ptr::null();
    let mut length = 0;
    // SAFETY: the library's own; it sets both if there is such an extension.
    let found = unsafe {
        ffi::SSL_early_callback_ctx_extension_get(hello, EXTENSION_SERVER_NAME, &mut start, &mut length)
    };
    if found != 1 || start.is_null() {
        return None;
    }
    // SAFETY: a part of the client hello.
    super::name_in(unsafe { std::slice::from_raw_parts(start, length) })
}

/// Leaves the connection only the suite of TLS 1.3 that comes first with us, of those that the client has. The
/// client's choice stays if it begins with ChaCha20: it has no AES in hardware. So it does if we have none.
fn prefer(ssl: &mut SslRef, hello: &ffi::SSL_CLIENT_HELLO, preference: &[(CString, u16)]) {
    // SAFETY: asks for a property of the processor.
    if hello.cipher_suites.is_null() || unsafe { ffi::EVP_has_aes_hardware() } == 0 {
        return;
    }
    // SAFETY: a part of the client hello.
    let offered = unsafe { std::slice::from_raw_parts(hello.cipher_suites, hello.cipher_suites_len) };
    let offered = || offered.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let first = offered().find(|suite| SUITES.iter().any(|(_, number)| number == suite));
    let best = preference.iter().find(|(_, ours)| offered().any(|theirs| theirs == *ours));
    if let (Some(first), Some((name, number))) = (first, best)
        && first != *number
        && first != CHACHA
    {
        // It cannot fail but for want of memory, and then the client's choice stays.
        // SAFETY: the connection is ours during this call; the list is copied.
        unsafe { ffi::SSL_set_ciphersuites(ssl.as_ptr(), name.as_ptr()) };
    }
}

/// Gives a client this OCSP response.
pub(in super::super) fn staple(ssl: &mut SslRef, response: &[u8]) -> Result<(), ErrorStack> {
    // SAFETY: the connection is ours during this call; the response is copied.
    done(unsafe { ffi::SSL_set_ocsp_response(ssl.as_ptr(), response.as_ptr(), response.len()) })
}

fn done(result: c_int) -> Result<(), ErrorStack> {
    if result == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}
