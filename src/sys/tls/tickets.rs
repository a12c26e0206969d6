//! Keys for session tickets, made by the master and shared with all workers: a session that one worker made is resumed
//! by any other, also after a reload and by a worker that was made later.
//!
//! The master alone writes. There is no lock: a key that changes while it is read opens no ticket, and what it seals is
//! a ticket that nobody opens.
#![allow(unsafe_code)]

use std::io;
use std::os::raw::{c_int, c_uchar};
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};
use std::sync::{Arc, OnceLock};

use foreign_types::ForeignTypeRef;
use openssl::asn1::Asn1Time;
use openssl::cipher_ctx::CipherCtxRef;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::rand::rand_bytes;
use openssl::ssl::{SslContext, SslContextBuilder, SslRef, SslVersion};
use openssl_sys as ffi;

use super::library;
use crate::model::time::Seconds;
use crate::sys::clock;
use crate::sys::memory::SharedMemory;

/// How many keys open tickets: the one that new tickets are made with, and two before it.
const SLOTS: usize = 3;

const NAME: usize = 16;
const SECRET: usize = 32;
const NONCE: usize = 16;
const WORDS: usize = (NAME + 2 * SECRET) / 8;

/// RFC 8446, 4.6.1: the longest life of a ticket, in seconds.
const LONGEST: u32 = 7 * 24 * 3600;

/// The keys: the one for new tickets, and the ones before it, which still open old ones. Copies share them.
#[derive(Debug, Clone)]
pub struct TicketKeys(Arc<SharedMemory>);

/// What a context makes its tickets with.
struct Issuer {
    keys: TicketKeys,
    /// How long tickets are good, in seconds.
    lifetime: u32,
}

/// What is in the memory.
#[repr(C)]
struct Table {
    /// How many keys have been made; 0: there are none (any more). The n-th is in slot n modulo [`SLOTS`].
    made: AtomicU64,
    slots: [[AtomicU64; WORDS]; SLOTS],
}

/// A name, which goes with a ticket in the clear, a key for AES-256-CBC and one for HMAC-SHA256.
struct Key([u8; WORDS * 8]);

impl Key {
    fn random() -> Result<Self, ErrorStack> {
        let mut bytes = [0; WORDS * 8];
        rand_bytes(&mut bytes)?;
        Ok(Key(bytes))
    }

    fn name(&self) -> &[u8] {
        &self.0[..NAME]
    }

    fn cipher(&self) -> &[u8] {
        &self.0[NAME..NAME + SECRET]
    }

    fn mac(&self) -> &[u8] {
        &self.0[NAME + SECRET..]
    }
}

impl TicketKeys {
    /// Shared memory with a first key in it. Must be made before the first fork.
    ///
    /// # Errors
    /// No memory, no descriptors, no randomness.
    pub fn create() -> io::Result<Self> {
        let keys = TicketKeys(Arc::new(SharedMemory::create("pen-tickets", size_of::<Table>())?));
        keys.rotate()?;
        Ok(keys)
    }

    /// Master only: a new key is for new tickets from now on; the oldest is forgotten.
    ///
    /// # Errors
    /// No randomness.
    pub fn rotate(&self) -> io::Result<()> {
        let Key(bytes) = Key::random()?;
        let table = self.table();
        let number = table.made.load(Relaxed) + 1;
        for (word, bytes) in table.slot(number).iter().zip(bytes.as_chunks().0) {
            word.store(u64::from_ne_bytes(*bytes), Relaxed);
        }
        table.made.store(number, Release);
        Ok(())
    }

    /// Master only: forgets all keys. There are no tickets any more.
    pub fn wipe(&self) {
        let table = self.table();
        table.made.store(0, Relaxed);
        // Whoever reads a word that is wiped must see that there is no key.
        fence(Release);
        table.slots.iter().flatten().for_each(|word| word.store(0, Relaxed));
    }

    /// Makes the tickets of a context with these keys. They are good as long as their key surely is.
    pub(super) fn attach(
        &self,
        builder: &mut SslContextBuilder,
        rotation: Seconds,
    ) -> Result<(), ErrorStack> {
        let lifetime = rotation.0.saturating_mul(2).min(LONGEST);
        builder.set_ex_data(index()?, Issuer { keys: self.clone(), lifetime });
        library::set_ticket_callback(builder, seal_or_open)?;
        library::set_session_lifetime(builder, lifetime);
        Ok(())
    }

    /// The key for new tickets.
    fn newest(&self) -> Option<Key> {
        let table = self.table();
        table.stable(|made| Some(table.read(made)))
    }

    /// The key of this name, and whether it is the newest.
    fn find(&self, name: &[u8]) -> Option<(Key, bool)> {
        let table = self.table();
        table.stable(|made| {
            let numbers =
                (0..SLOTS as u64).filter_map(|age| made.checked_sub(age)).filter(|number| *number > 0);
            let mut keys = numbers.map(|number| (table.read(number), number == made));
            keys.find(|(key, _)| key.name() == name)
        })
    }

    fn table(&self) -> &Table {
        let start = self.0.start().cast::<Table>();
        // SAFETY: the mapping is as long as a Table, on a page of its own, never moved, and lives as long as self.
        // Atomic integers are all that is in it, of which any bit pattern is valid, and nobody lends it out otherwise.
        unsafe { start.as_ref() }
    }
}

impl Table {
    fn slot(&self, number: u64) -> &[AtomicU64; WORDS] {
        &self.slots[(number % SLOTS as u64) as usize]
    }

    fn read(&self, number: u64) -> Key {
        let mut bytes = [0; WORDS * 8];
        for (word, bytes) in self.slot(number).iter().zip(bytes.as_chunks_mut().0) {
            *bytes = word.load(Relaxed).to_ne_bytes();
        }
        Key(bytes)
    }

    /// What `look` finds when so many keys have been made, if none was made or wiped meanwhile.
    fn stable<T>(&self, look: impl Fn(u64) -> Option<T>) -> Option<T> {
        // The master needs hours for one more: a second try is enough.
        for _ in 0..2 {
            let made = self.made.load(Acquire);
            if made == 0 {
                return None;
            }
            let found = look(made);
            fence(Acquire);
            if self.made.load(Relaxed) == made {
                return found;
            }
        }
        None
    }
}

impl Issuer {
    /// Is whoever gets a ticket still a client as long as it is good? A session that is resumed is not asked for its
    /// certificate again, and each time has a new ticket in store: it would never end.
    fn outlives_its_tickets(&self, ssl: &SslRef) -> bool {
        let Some(certificate) = ssl.peer_certificate() else {
            return true;
        };
        let end = i64::try_from(clock::wall().0).unwrap_or(i64::MAX).saturating_add(self.lifetime.into());
        Asn1Time::from_unix(end).is_ok_and(|end| *certificate.not_after() > *end)
    }
}

/// Where a context has its keys.
fn index() -> Result<Index<SslContext, Issuer>, ErrorStack> {
    static INDEX: OnceLock<Index<SslContext, Issuer>> = OnceLock::new();
    library::place(&INDEX, SslContext::new_ex_index)
}

/// What the library asks when it makes a ticket (`sealing`: fill in the name and a nonce) and when it is shown one.
/// Answers: 1 = done; 2 = done, and a newer ticket would be better; 0 = no ticket; -1 = it failed.
pub(super) unsafe extern "C" fn seal_or_open(
    ssl: *mut ffi::SSL,
    name: *mut c_uchar,
    nonce: *mut c_uchar,
    cipher: *mut ffi::EVP_CIPHER_CTX,
    mac: *mut ffi::HMAC_CTX,
    sealing: c_int,
) -> c_int {
    // SAFETY: the library calls this with the connection that it is busy with.
    let ssl = unsafe { SslRef::from_ptr(ssl) };
    let Some(issuer) = index().ok().and_then(|index| ssl.ssl_context().ex_data(index)) else {
        return 0;
    };
    // SAFETY: a context for this call alone.
    let cipher = unsafe { CipherCtxRef::from_ptr_mut(cipher) };
    let (method, digest) = library::ticket_algorithms();
    let (key, newest, ready) = if sealing != 0 {
        // SAFETY: room for the name of a key, which always has sixteen bytes, ours during this call.
        let name = unsafe { std::slice::from_raw_parts_mut(name, NAME) };
        // SAFETY: room for the longest nonce that there is; AES-CBC's has sixteen bytes. Ours during this call.
        let nonce = unsafe { std::slice::from_raw_parts_mut(nonce, NONCE) };
        let newest = issuer.keys.newest().filter(|_| issuer.outlives_its_tickets(ssl));
        // Without keys a ticket is one that nobody can open. (Not to make any is an error with AWS-LC.)
        let Ok(key) = newest.map_or_else(Key::random, Ok) else {
            return -1;
        };
        name.copy_from_slice(key.name());
        let ready = rand_bytes(nonce)
            .and_then(|()| cipher.encrypt_init(Some(method), Some(key.cipher()), Some(nonce)));
        (key, true, ready)
    } else {
        // SAFETY: as above, but to be read: the library has seen that the ticket is long enough for both.
        let name = unsafe { std::slice::from_raw_parts(name, NAME) };
        // SAFETY: the same.
        let nonce = unsafe { std::slice::from_raw_parts(nonce, NONCE) };
        let Some((key, newest)) = issuer.keys.find(name) else {
            return 0;
        };
        let ready = cipher.decrypt_init(Some(method), Some(key.cipher()), Some(nonce));
        (key, newest, ready)
    };
    let (secret, length) = (key.mac().as_ptr().cast(), key.mac().len() as _);
    // SAFETY: a context for this call alone; the key is as long as said, and is copied.
    let keyed = unsafe { ffi::HMAC_Init_ex(mac, secret, length, digest.as_ptr(), std::ptr::null_mut()) };
    if ready.is_err() || keyed != 1 {
        return -1;
    }
    // RFC 8446, C.4: clients of TLS 1.3 use a ticket once, and without a new one they could not come again.
    let renewed = sealing == 0 && (!newest || ssl.version2() == Some(SslVersion::TLS1_3));
    if renewed { 2 } else { 1 }
}
