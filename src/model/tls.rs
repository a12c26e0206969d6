//! What the administrator asked for of TLS: towards clients ([`TlsSettings`]) and towards a server ([`ServerTls`]).
//!
//! Not here: the commands ([`super::command`]), which certificate a name gets ([`super::server_name`]), what the files
//! hold (`sys::tls`).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::address::{Host, ServerSpec};
use super::settings::{FileNameError, file_name};
use super::time::Seconds;

/// How clients are spoken to. Without a certificate, in plain text. See pen(1), TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSettings {
    /// `-E`, `ssl_certificate`: certificates in PEM, the server's own first; its presence turns TLS on.
    pub certificate: Option<PathBuf>,
    /// `-K`, `ssl_key`; none: it is in the file of the certificate.
    pub key: Option<PathBuf>,
    /// `-G`, `ssl_ca_file`: whose client certificates are good.
    pub ca_file: Option<PathBuf>,
    /// `-A`, `ssl_ca_path`: the same, as a directory.
    pub ca_path: Option<PathBuf>,
    /// `-R`, `ssl_verify_client`.
    pub verify_client: VerifyClient,
    /// `ssl_min_version`.
    pub min_version: TlsVersion,
    /// `ssl_max_version`.
    pub max_version: TlsVersion,
    /// `ssl_ciphers`: up to TLS 1.2, in the words of OpenSSL; none: the default list.
    pub ciphers: Option<String>,
    /// `ssl_ciphersuites`: of TLS 1.3; none: the default list.
    pub ciphersuites: Option<String>,
    /// `ssl_groups`; none: the default list.
    pub groups: Option<String>,
    /// `ssl_alpn`: protocols in the order of preference; empty: none is negotiated.
    pub alpn: Vec<String>,
    /// `ssl_option`, each at most once, in the order of [`TlsOption`].
    pub options: Vec<TlsOption>,
    /// `ssl_sni_path`: a directory with certificates by name.
    pub sni_path: Option<PathBuf>,
    /// `ssl_ocsp_response`: what is stapled to the certificate of `-E`.
    pub ocsp_response: Option<PathBuf>,
    /// `ssl_handshake_timeout`, at least 1; also how long a client hello may take with `passthrough`.
    pub handshake_timeout: Seconds,
    /// `ssl_ticket_rotation`: how long a ticket key is the one for new tickets, at least 1.
    pub ticket_rotation: Seconds,
    /// `ssl_passthrough sni`: TLS is not terminated, but the name in the client hello chooses the server.
    pub passthrough: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        TlsSettings {
            certificate: None,
            key: None,
            ca_file: None,
            ca_path: None,
            verify_client: VerifyClient::Off,
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
            ciphers: None,
            ciphersuites: None,
            groups: None,
            alpn: Vec::new(),
            options: Vec::new(),
            sni_path: None,
            ocsp_response: None,
            handshake_timeout: Seconds(10),
            ticket_rotation: Seconds(8 * 3600),
            passthrough: false,
        }
    }
}

/// Are clients asked for a certificate?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyClient {
    /// No.
    Off,
    /// Yes; one that they send must be good, but they need not.
    Request,
    /// Yes, and they must.
    Require,
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum TlsVersion {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

/// The words of `ssl_option` that change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum TlsOption {
    NoTlsv1,
    NoTlsv11,
    NoTlsv12,
}

/// The words of `ssl_option` for what is so anyway: neither version is in the library any more, and the order of ciphers
/// is always that of pen.
pub const ALWAYS_ON: [&str; 3] = ["no_sslv2", "no_sslv3", "cipher_server_preference"];

/// Why a text is no value of one of these types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be {0}")]
pub struct NoSuchWord(pub &'static str);

/// The one of all values that is shown as this text.
pub(super) fn shown_as<T: Copy + fmt::Display>(
    text: &str,
    all: &[T],
    words: &'static str,
) -> Result<T, NoSuchWord> {
    all.iter().copied().find(|value| value.to_string() == text).ok_or(NoSuchWord(words))
}

impl TlsVersion {
    /// All, from the oldest.
    pub const ALL: [TlsVersion; 4] =
        [TlsVersion::Tls10, TlsVersion::Tls11, TlsVersion::Tls12, TlsVersion::Tls13];
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsVersion::Tls10 => "TLSv1",
            TlsVersion::Tls11 => "TLSv1.1",
            TlsVersion::Tls12 => "TLSv1.2",
            TlsVersion::Tls13 => "TLSv1.3",
        })
    }
}

impl FromStr for TlsVersion {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        shown_as(text, &Self::ALL, "TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3")
    }
}

impl fmt::Display for VerifyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VerifyClient::Off => "off",
            VerifyClient::Request => "request",
            VerifyClient::Require => "require",
        })
    }
}

impl FromStr for VerifyClient {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        let all = [VerifyClient::Off, VerifyClient::Request, VerifyClient::Require];
        shown_as(text, &all, "off, request or require")
    }
}

impl fmt::Display for TlsOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsOption::NoTlsv1 => "no_tlsv1",
            TlsOption::NoTlsv11 => "no_tlsv1.1",
            TlsOption::NoTlsv12 => "no_tlsv1.2",
        })
    }
}

/// Not those of [`ALWAYS_ON`].
impl FromStr for TlsOption {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        let all = [TlsOption::NoTlsv1, TlsOption::NoTlsv11, TlsOption::NoTlsv12];
        shown_as(text, &all, "no_tlsv1, no_tlsv1.1 or no_tlsv1.2")
    }
}

impl TlsOption {
    /// The version that it takes away.
    pub fn without(self) -> TlsVersion {
        match self {
            TlsOption::NoTlsv1 => TlsVersion::Tls10,
            TlsOption::NoTlsv11 => TlsVersion::Tls11,
            TlsOption::NoTlsv12 => TlsVersion::Tls12,
        }
    }
}

impl TlsSettings {
    /// The versions that clients may speak, from the oldest; none if the settings contradict each other.
    pub fn versions(&self) -> impl Iterator<Item = TlsVersion> {
        let taken_away = |version| self.options.iter().any(|option| option.without() == version);
        let in_range = TlsVersion::ALL
            .into_iter()
            .filter(|version| (self.min_version..=self.max_version).contains(version));
        in_range.filter(move |version| !taken_away(*version))
    }
}

/// `server N tls [verify CAFILE|none] [sni NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServerTls {
    /// Whose certificates are good.
    pub trust: Trust,
    /// The name that is asked for and that the certificate must have, in lower case; none: the server's host name or
    /// address.
    pub name: Option<String>,
}

/// Whom to believe that a server is what it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Trust {
    /// The authorities that the system trusts.
    System,
    /// Those in this file.
    File(PathBuf),
    /// Anybody.
    Nobody,
}

impl FromStr for Trust {
    type Err = FileNameError;

    /// `system`, `none`, or a file.
    fn from_str(text: &str) -> Result<Self, FileNameError> {
        match text {
            "system" => Ok(Trust::System),
            "none" => Ok(Trust::Nobody),
            file => file_name(file).map(Trust::File),
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trust::System => f.write_str("system"),
            Trust::Nobody => f.write_str("none"),
            Trust::File(file) => file.display().fmt(f),
        }
    }
}

/// All that a connection to a server with TLS needs to know: [`ServerTls`] with the host filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerIdentity {
    /// Whose certificates are good.
    pub trust: Trust,
    /// What the certificate must be for.
    pub subject: Subject,
}

/// What the certificate of a server must be for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// This name, which is also asked for (SNI).
    Name(String),
    /// This address; no name is asked for.
    Address(IpAddr),
    /// A Unix socket without a name: nothing can be checked but the chain.
    Nothing,
}

impl ServerSpec {
    /// What a connection to it must know, if it is spoken to with TLS.
    pub fn identity(&self) -> Option<ServerIdentity> {
        let ServerTls { trust, name } = self.tls.as_ref()?;
        let subject = match (name, &self.host) {
            (Some(name), _) | (None, Some(Host::Name(name))) => Subject::Name(name.clone()),
            (None, Some(Host::Ip(ip))) => Subject::Address(*ip),
            (None, Some(Host::Path(_)) | None) => Subject::Nothing,
        };
        Some(ServerIdentity { trust: trust.clone(), subject })
    }
}

impl ServerIdentity {
    /// A number for it, which is never 0. The shared table has it, for whoever takes a server from there to find out
    /// that he knows another one by that number of the list.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        self.hash(&mut hasher);
        hasher.finish().max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    use super::*;

    fn assert_reads<T: FromStr<Err: Debug> + Display>(words: &str) {
        for word in words.split(' ') {
            assert_eq!(word.parse::<T>().unwrap().to_string(), word);
        }
    }

    #[test]
    fn the_words_of_settings_are_read_as_they_are_shown() {
        assert_reads::<TlsVersion>("TLSv1 TLSv1.1 TLSv1.2 TLSv1.3");
        assert_reads::<VerifyClient>("off request require");
        assert_reads::<TlsOption>("no_tlsv1 no_tlsv1.1 no_tlsv1.2");
        assert_reads::<Trust>("system none /etc/ca.pem ./none");
        assert_eq!("none".parse(), Ok(Trust::Nobody));
        assert_eq!("./none".parse(), Ok(Trust::File("./none".into())));
    }

    #[test]
    fn other_words_are_refused_with_those_that_can_be() {
        for word in ["", "TLSv1.4", "tlsv1.2", "TLSv1.0", "1.2"] {
            let error = word.parse::<TlsVersion>().unwrap_err();
            assert_eq!(error.to_string(), "it must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3");
        }
        assert_eq!("on".parse::<VerifyClient>(), Err(NoSuchWord("off, request or require")));
        assert!("no_tlsv1.3".parse::<TlsOption>().is_err());
        assert!(ALWAYS_ON.iter().all(|word| word.parse::<TlsOption>().is_err()));
        assert!("".parse::<Trust>().is_err() && "/a\nb".parse::<Trust>().is_err());
    }

    #[test]
    fn versions_are_those_in_range_that_no_option_takes_away() {
        let versions = |min, max, options: &[TlsOption]| {
            let tls = TlsSettings {
                min_version: min,
                max_version: max,
                options: options.to_vec(),
                ..TlsSettings::default()
            };
            tls.versions().map(|version| version.to_string()).collect::<Vec<_>>().join(" ")
        };
        use TlsOption::*;
        use TlsVersion::*;
        assert_eq!(TlsSettings::default().versions().collect::<Vec<_>>(), [Tls12, Tls13]);
        assert_eq!(versions(Tls10, Tls13, &[]), "TLSv1 TLSv1.1 TLSv1.2 TLSv1.3");
        assert_eq!(versions(Tls10, Tls12, &[NoTlsv1, NoTlsv11]), "TLSv1.2");
        assert_eq!(versions(Tls12, Tls12, &[NoTlsv12]), "");
        assert_eq!(versions(Tls13, Tls12, &[]), "");
    }
}
