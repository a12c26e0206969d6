//! Towards clients: a context for each certificate, and which of them a client gets.

use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::sha::Sha256;
use openssl::ssl::{
    AlpnError, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use openssl::stack::Stack;
use openssl::x509::X509;

use super::{Scope, failed, prepare, refused, set_default_groups, store, trial};
use crate::model::server_name::NameIndex;
use crate::model::tls::{TlsOption, TlsSettings, TlsVersion, VerifyClient};
use crate::sys::clock;
use crate::sys::tls::library;
use crate::sys::tls::material::{Front, Identity, Staple, TlsError};
use crate::sys::tls::tickets::TicketKeys;

/// Up to TLS 1.2, for whoever names none: those with forward secrecy and without known weaknesses. Of them those first
/// that take the fewest instructions.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// What TLS 1.0 and 1.1 have beside them.
const OLD_CIPHERS: &str = ":ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:\
    ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA:AES128-SHA:AES256-SHA";

/// What all contexts are made by.
struct Recipe {
    settings: TlsSettings,
    tickets: TicketKeys,
    /// [`TlsSettings::alpn`], as it is on the wire.
    protocols: Arc<[Vec<u8>]>,
}

/// The certificates that have names.
struct Names {
    recipe: Recipe,
    /// Which of `named`; none: the default certificate.
    index: NameIndex<Option<usize>>,
    named: Vec<Named>,
}

struct Named {
    identity: Identity,
    /// None inside: it could not be made.
    context: OnceLock<Option<SslContext>>,
}

/// The context that clients begin with. It knows the others.
pub(super) fn build(
    settings: &TlsSettings,
    front: &Front,
    tickets: &Rc<TicketKeys>,
    scope: Scope,
) -> Result<SslContext, TlsError> {
    check_lists(settings)?;
    let recipe = Recipe {
        settings: settings.clone(),
        tickets: TicketKeys::clone(tickets),
        protocols: settings.alpn.iter().map(|name| name.clone().into_bytes()).collect(),
    };
    let mut builder = recipe.context(&front.default)?;
    let names = Names::new(recipe, front);
    if scope == Scope::Everything {
        names.make_all().map_err(|error| match &settings.sni_path {
            Some(path) => error.in_directory(path),
            None => error,
        })?;
    }
    let suites = settings.ciphersuites.as_deref().unwrap_or(library::CIPHERSUITES);
    let named = !names.named.is_empty();
    let choose = move |ssl: &mut SslRef, name: Option<&str>| names.choose(ssl, name);
    library::at_hello(&mut builder, suites, named.then_some(choose)).map_err(failed)?;
    let context = builder.build();
    if scope == Scope::Everything {
        trial::check(&context, settings, &front.default.file)?;
    }
    Ok(context)
}

impl Names {
    fn new(recipe: Recipe, front: &Front) -> Self {
        let mut index = NameIndex::default();
        // The first of a name counts: what a file is named after, then what is in the certificates.
        for (number, identity) in front.named.iter().enumerate() {
            if let Some(pattern) = &identity.pattern {
                index.add(pattern, Some(number));
            }
        }
        for (number, identity) in front.named.iter().enumerate() {
            identity.names.iter().for_each(|name| index.add(name, Some(number)));
        }
        front.default.names.iter().for_each(|name| index.add(name, None));
        let named =
            front.named.iter().map(|identity| Named { identity: identity.clone(), context: OnceLock::new() });
        Names { recipe, index, named: named.collect() }
    }

    /// Makes all contexts before somebody asks for them.
    fn make_all(&self) -> Result<(), TlsError> {
        for Named { identity, context } in &self.named {
            let new = self.recipe.context(identity)?.build();
            trial::check(&new, &self.recipe.settings, &identity.file)?;
            let _ = context.set(Some(new));
        }
        Ok(())
    }

    /// Turns a connection over to the context of the name that its client asks for. False: there should be one, and
    /// there is not.
    fn choose(&self, ssl: &mut SslRef, name: Option<&str>) -> bool {
        let Some(number) = name.and_then(|name| *self.index.find(name)?) else {
            return true;
        };
        let named = &self.named[number];
        let make = || self.recipe.context(&named.identity).ok().map(SslContextBuilder::build);
        match named.context.get_or_init(make) {
            Some(context) => ssl.set_ssl_context(context).is_ok(),
            None => false,
        }
    }
}

impl Recipe {
    /// A context with this certificate.
    fn context(&self, identity: &Identity) -> Result<SslContextBuilder, TlsError> {
        let mut builder = SslContext::builder(SslMethod::tls_server()).map_err(failed)?;
        self.set_up(&mut builder).map_err(failed)?;
        self.set_lists(&mut builder)?;
        present(&mut builder, identity).map_err(|error| refused(&identity.file, &identity.file, &error))?;
        self.set_verification(&mut builder, identity).map_err(failed)?;
        if let Some(staple) = &identity.staple {
            set_staple(&mut builder, staple.clone()).map_err(failed)?;
        }
        Ok(builder)
    }

    fn set_up(&self, builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        prepare(builder);
        let mut options =
            library::options() | SslOptions::NO_RENEGOTIATION | SslOptions::CIPHER_SERVER_PREFERENCE;
        for option in &self.settings.options {
            match option {
                TlsOption::NoTlsv1 => options |= SslOptions::NO_TLSV1,
                TlsOption::NoTlsv11 => options |= SslOptions::NO_TLSV1_1,
                TlsOption::NoTlsv12 => options |= SslOptions::NO_TLSV1_2,
            }
        }
        builder.set_options(options);
        builder.set_min_proto_version(Some(version(self.settings.min_version)))?;
        builder.set_max_proto_version(Some(version(self.settings.max_version)))?;
        // Sessions are in tickets: a worker knows nothing of those that others made.
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        library::set_one_ticket(builder)?;
        library::keep_server_name(builder);
        self.tickets.attach(builder, self.settings.ticket_rotation)?;
        if !self.protocols.is_empty() {
            let protocols = Arc::clone(&self.protocols);
            builder.set_alpn_select_callback(move |_, offered| {
                let ours = protocols.iter().find_map(|ours| names_in(offered).find(|theirs| theirs == ours));
                // RFC 7301: none in common is the end, with no_application_protocol.
                ours.ok_or(AlpnError::ALERT_FATAL)
            });
        }
        Ok(())
    }

    /// The lists that people write.
    fn set_lists(&self, builder: &mut SslContextBuilder) -> Result<(), TlsError> {
        let old = self.settings.min_version < TlsVersion::Tls12;
        if old {
            // Their signatures are made with SHA-1, which is not secure enough for any other level.
            library::allow_sha1(builder);
        }
        match &self.settings.ciphers {
            Some(list) => builder.set_cipher_list(list).map_err(failed)?,
            None => {
                let list = if old { [CIPHERS, OLD_CIPHERS].concat() } else { CIPHERS.to_owned() };
                builder.set_cipher_list(&list).map_err(failed)?;
            }
        }
        match &self.settings.ciphersuites {
            Some(list) => library::set_ciphersuites(builder, list),
            None => library::set_ciphersuites(builder, library::CIPHERSUITES),
        }
        .map_err(failed)?;
        match &self.settings.groups {
            Some(list) => builder.set_groups_list(list),
            None => set_default_groups(builder),
        }
        .map_err(failed)
    }

    /// Who may be a client, and whose sessions count.
    fn set_verification(
        &self,
        builder: &mut SslContextBuilder,
        identity: &Identity,
    ) -> Result<(), ErrorStack> {
        let mode = match self.settings.verify_client {
            VerifyClient::Off => SslVerifyMode::NONE,
            VerifyClient::Request => SslVerifyMode::PEER,
            VerifyClient::Require => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
        };
        builder.set_verify(mode);
        let mut digest = Sha256::new();
        digest.update(&mode.bits().to_be_bytes());
        if mode != SslVerifyMode::NONE {
            builder.set_cert_store(store(&identity.authorities)?);
            let mut names = Stack::new()?;
            for authority in &identity.authorities {
                names.push(X509::from_der(authority)?.subject_name().to_owned()?)?;
                digest.update(&(authority.len() as u64).to_be_bytes());
                digest.update(authority);
            }
            builder.set_client_ca_list(names);
        }
        // A session that was made under another verification is none here.
        builder.set_session_id_context(&digest.finish())
    }
}

pub(super) fn version(version: TlsVersion) -> SslVersion {
    match version {
        TlsVersion::Tls10 => SslVersion::TLS1,
        TlsVersion::Tls11 => SslVersion::TLS1_1,
        TlsVersion::Tls12 => SslVersion::TLS1_2,
        TlsVersion::Tls13 => SslVersion::TLS1_3,
    }
}

/// The certificate with those that go with it, and its key.
fn present(builder: &mut SslContextBuilder, identity: &Identity) -> Result<(), ErrorStack> {
    for (number, certificate) in identity.chain.iter().enumerate() {
        let certificate = X509::from_der(certificate)?;
        if number == 0 {
            builder.set_certificate(&certificate)?;
        } else {
            builder.add_extra_chain_cert(certificate)?;
        }
    }
    builder.set_private_key(&*PKey::private_key_from_der(&identity.key)?)?;
    builder.check_private_key()
}

fn set_staple(builder: &mut SslContextBuilder, staple: Staple) -> Result<(), ErrorStack> {
    builder.set_status_callback(move |ssl| {
        let now = i64::try_from(clock::wall().0).unwrap_or(i64::MAX);
        if staple.expires.is_some_and(|expires| expires <= now) {
            return Ok(false);
        }
        library::staple(ssl, &staple.response).map(|()| true)
    })
}

/// The protocols of a client, each behind its length.
fn names_in(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let (&length, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked(usize::from(length))?;
        rest = after;
        Some(name)
    })
}

/// Does the library have everything that the lists name? By itself it passes over ciphers that it does not know.
fn check_lists(settings: &TlsSettings) -> Result<(), TlsError> {
    check_list("ssl_ciphers", &settings.ciphers, &[':', ',', ';'], |builder, list| {
        builder.set_cipher_list(list)
    })?;
    check_list("ssl_ciphersuites", &settings.ciphersuites, &[':'], library::set_ciphersuites)?;
    check_list("ssl_groups", &settings.groups, &[':'], |builder, list| builder.set_groups_list(list))
}

fn check_list(
    command: &str,
    list: &Option<String>,
    between: &[char],
    set: impl Fn(&mut SslContextBuilder, &str) -> Result<(), ErrorStack>,
) -> Result<(), TlsError> {
    let Some(list) = list else { return Ok(()) };
    let mut builder = SslContext::builder(SslMethod::tls_server()).map_err(failed)?;
    // What is taken away, sorted, or wanted only if it is there need not be there.
    let is_name = |word: &&str| !word.is_empty() && !word.starts_with(['!', '-', '+', '@', '?']);
    if let Some(unknown) = list.split(between).filter(is_name).find(|word| set(&mut builder, word).is_err()) {
        let library = library::name();
        let reason = format!("{command}: {library} has no {unknown} for it; leave it out, or take another");
        return Err(TlsError { word: list.clone(), reason, unreachable: None });
    }
    set(&mut builder, list).map_err(|error| refused(list, &format!("{command} {list}"), &error))
}
