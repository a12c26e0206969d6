//! The behaviour of the real program, told from outside: real processes, real sockets, real signals.
//!
//! `cargo test --test behaviour` tests the pen that cargo has just built; with `PEN_UNDER_TEST=/path/to/pen` the same
//! stories are told of another one. A story that is known to differ there says so, with the reason, in its first line
//! ([`support::only_ours`]).
#![allow(clippy::unwrap_used)] // the whole crate is a test
#![allow(unreachable_pub)] // support/ is one module for all stories

mod support;

mod aborts;
mod addresses;
mod choosing;
mod commands;
mod control;
mod countries;
mod http;
mod http_clients;
mod http_refusals;
mod inherited;
mod jail;
mod limits;
mod listeners;
mod log_json;
mod log_json_ends;
mod log_json_http;
mod log_json_settings;
mod log_json_udp;
mod logs;
mod mergelogs;
mod passthrough;
mod peeking;
mod penlog;
mod penlogd;
mod proxy;
mod proxy_programs;
mod relaying;
mod reload;
mod signals;
mod start_stop;
mod statistics;
mod supervision;
mod tls;
mod tls_clients;
mod tls_names;
mod tls_processes;
mod tls_reload;
mod tls_scan;
mod tls_servers;
mod tls_staples;
mod tls_tickets;
mod transparent;
mod udp;
mod udp_addresses;
mod udp_choosing;
mod udp_dns;
mod udp_failures;
mod udp_limits;
mod udp_processes;
mod udp_programs;
mod udp_proxy;
mod weblogs;
