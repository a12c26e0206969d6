//! The kernel, made safe. The only home of nix, libc, signal-hook, memmap2, maxminddb and openssl, and (with
//! `shared/region.rs`) of `unsafe`.

mod capabilities;
pub mod clock;
pub mod datagram;
pub mod fork;
pub mod geoip;
pub mod input;
pub mod lockfile;
pub mod logfile;
pub mod memory;
pub mod message;
pub mod mutex;
pub mod poller;
pub mod privileges;
pub mod random;
pub mod reason;
pub mod resolve;
pub mod sealed;
pub mod signal;
pub mod socket;
pub mod textfile;
pub mod tls;
pub mod wait;
