//! What happened: the shared region and its tables. `unsafe` only in [`region`].

pub mod clients;
pub mod ledger;
pub mod lock;
pub mod preview;
pub mod region;
pub mod servers;
pub mod slots;
pub mod visits;
pub mod workers;
