//! Names to addresses, by getaddrinfo(3).
//!
//! It blocks for as long as the name servers take: only processes that serve nobody call it.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr;

use crate::model::listen::Protocol;

/// All addresses of a name, the best first.
///
/// # Errors
///
/// There is no such name, or nobody who knows could be asked.
pub fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    let name = CString::new(name)?;
    Ok(look_up(Some(&name), None, libc::SOCK_STREAM)?.into_iter().map(|address| address.ip()).collect())
}

/// The port of a service of this protocol, or (none given) of TCP, else of UDP. None if there is no such service: some
/// have one protocol alone (`tftp`).
pub fn service_port(name: &str, protocol: Option<Protocol>) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let kind = match protocol {
        Some(Protocol::Tcp) => libc::SOCK_STREAM,
        Some(Protocol::Udp) => libc::SOCK_DGRAM,
        // All of them, in this order.
        None => 0,
    };
    look_up(None, Some(&name), kind).ok()?.first().map(SocketAddr::port)
}

fn look_up(host: Option<&CStr>, service: Option<&CStr>, kind: libc::c_int) -> io::Result<Vec<SocketAddr>> {
    // Flags stay 0: AI_ADDRCONFIG would hide 127.0.0.1 on a machine that has only IPv6 addresses otherwise.
    let hints = libc::addrinfo {
        ai_flags: 0,
        ai_family: libc::AF_UNSPEC,
        ai_socktype: kind,
        ai_protocol: 0,
        ai_addrlen: 0,
        ai_addr: ptr::null_mut(),
        ai_canonname: ptr::null_mut(),
        ai_next: ptr::null_mut(),
    };
    let mut list = ptr::null_mut();
    let host = host.map_or(ptr::null(), CStr::as_ptr);
    let service = service.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: both names are null or end in NUL, the hints are filled in as getaddrinfo(3) asks, and `list` is
    // written only on success.
    let status = unsafe { libc::getaddrinfo(host, service, &hints, &mut list) };
    match status {
        0 => Ok(Answers(list).collect()),
        libc::EAI_SYSTEM => Err(io::Error::last_os_error()),
        status => Err(io::Error::new(io::ErrorKind::NotFound, reason(status))),
    }
}

fn reason(status: libc::c_int) -> String {
    // SAFETY: gai_strerror(3) takes any number.
    let text = unsafe { libc::gai_strerror(status) };
    // SAFETY: it returns a constant, NUL-terminated string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What getaddrinfo(3) returned: the head of its list, freed when dropped.
struct Answers(*mut libc::addrinfo);

impl Answers {
    fn collect(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        let mut next = self.0;
        // SAFETY: `next` is null or an entry of the list, which lives as long as `self`.
        while let Some(entry) = unsafe { next.as_ref() } {
            found.extend(socket_address(entry));
            next = entry.ai_next;
        }
        found
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        // SAFETY: the list came from getaddrinfo(3) and is freed here only.
        unsafe { libc::freeaddrinfo(self.0) };
    }
}

fn socket_address(entry: &libc::addrinfo) -> Option<SocketAddr> {
    match entry.ai_family {
        libc::AF_INET => {
            // SAFETY: an entry of family AF_INET points to a sockaddr_in, aligned by the C library.
            let address = unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().as_ref() }?;
            let ip = Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddr::from((ip, u16::from_be(address.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with sockaddr_in6.
            let address = unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().as_ref() }?;
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(SocketAddr::from((ip, u16::from_be(address.sin6_port))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_name_is_known() {
        let found = addresses("localhost").unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    #[test]
    fn literals_need_no_name_server() {
        assert_eq!(addresses("192.0.2.7").unwrap(), [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(addresses("2001:db8::7").unwrap(), ["2001:db8::7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn unknown_names_are_errors_with_a_reason() {
        let error = addresses("no..such").unwrap_err();
        assert!(!error.to_string().is_empty());
        assert!(addresses("nul\0inside").is_err());
    }

    #[test]
    fn services_have_ports() {
        let (tcp, udp) = (Some(Protocol::Tcp), Some(Protocol::Udp));
        for protocol in [tcp, udp, None] {
            assert_eq!(service_port("no-such-service-here", protocol), None);
            assert_eq!(service_port("8080", protocol), Some(8080));
        }
        let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
        let known = |service: &str, port: &str| {
            let words = |line: &'_ str| line.split_whitespace().any(|word| word == service);
            services.lines().any(|line| words(line) && line.split_whitespace().nth(1) == Some(port))
        };
        if known("http", "80/tcp") {
            assert_eq!([tcp, None].map(|protocol| service_port("http", protocol)), [Some(80); 2]);
        }
        if known("tftp", "69/udp") && !known("tftp", "69/tcp") {
            assert_eq!([tcp, udp, None].map(|of| service_port("tftp", of)), [None, Some(69), Some(69)]);
        }
    }
}
