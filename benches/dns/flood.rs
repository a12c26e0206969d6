//! Datagrams of many clients that never listen to an answer: spoofed ones, as far as anybody behind can tell.
//!
//! `dns_flood ADDRESS:PORT CLIENTS`: a question each, from ports of 127.1.0.0/16 that nobody has any more when the answer
//! comes. Prints how many were sent.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// `who.pen.test TXT`.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03who\x03pen\x04test\0\0\x10\0\x01";

/// Ports of one address, and the first of them.
const PORTS: (u32, u32) = (50_000, 10_000);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(to), Some(clients)) = (arguments.next(), arguments.next()) else {
        return Err("usage: dns_flood ADDRESS:PORT CLIENTS".into());
    };
    let (to, clients): (SocketAddr, u32) = (to.parse()?, clients.parse()?);
    let mut sent = 0_u32;
    for client in 0..clients {
        let (count, first) = PORTS;
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + client / count);
        // A port may be taken.
        let Ok(socket) = UdpSocket::bind((address, u16::try_from(first + client % count)?)) else { continue };
        if socket.send_to(QUESTION, to).is_ok() {
            sent += 1;
        }
    }
    println!("{sent}");
    Ok(())
}
