//! Values and their text form. Pure: no clock, no socket, no file.
#![forbid(unsafe_code)]

pub mod address;
pub mod apply;
pub mod command;
pub mod config;
pub mod http;
pub mod ids;
pub mod listen;
pub mod logline;
pub mod number;
pub mod proxy;
pub mod record;
pub mod render;
pub mod reply;
pub mod server_name;
pub mod settings;
pub mod time;
pub mod tls;
