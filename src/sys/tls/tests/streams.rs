use std::io::{ErrorKind, Read, Write};

use super::*;

/// A connection that is ready.
fn ready(version: TlsVersion) -> Pair {
    let (_, material) = simple();
    let contexts = build(only(version), &material);
    let mut pair = Pair::new(&contexts, &contexts, &at("www.test"));
    assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
    pair
}

const VERSIONS: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

/// Bytes that no two places have in common for long.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn what_a_reader_that_stalls_does_not_take_is_held_and_nothing_is_lost() {
    for version in VERSIONS {
        let Pair { mut client, mut server } = ready(version);
        let (up, down) = (bytes(10_000_000, 1), bytes(10_000_000, 2));
        let (mut said_up, mut said_down) = (0, 0);
        // Nobody reads, so that both sides come to hold something.
        until("a full socket", || {
            for (side, bytes, said) in
                [(&mut client, &up, &mut said_up), (&mut server, &down, &mut said_down)]
            {
                if side.flush().unwrap() {
                    side.send(&bytes[*said..*said + 65_536]).unwrap();
                    *said += 65_536;
                }
            }
            let full = |side: &mut Secured| side.held() > 0 && !side.flush().unwrap();
            (full(&mut client) && full(&mut server)).then_some(())
        });
        // What is sent now goes behind it.
        client.send(&up[said_up..said_up + 10]).unwrap();
        said_up += 10;
        let mut heard = [Vec::new(), Vec::new()];
        let mut room = vec![0; 65_536];
        until("everything", || {
            for (number, side) in [&mut server, &mut client].into_iter().enumerate() {
                side.readable(false);
                while let Some(count) = side.receive(&mut room).unwrap() {
                    heard[number].extend_from_slice(&room[..count]);
                }
            }
            for (side, bytes, said) in
                [(&mut client, &up, &mut said_up), (&mut server, &down, &mut said_down)]
            {
                if side.flush().unwrap() && *said < bytes.len() {
                    let end = bytes.len().min(*said + 65_536);
                    side.send(&bytes[*said..end]).unwrap();
                    *said = end;
                }
            }
            (heard[0].len() == up.len() && heard[1].len() == down.len()).then_some(())
        });
        assert!(heard[0] == up && heard[1] == down);
        assert_eq!((client.held(), server.held()), (0, 0));
    }
}

#[test]
fn many_records_are_received_in_one_go() {
    let Pair { mut client, mut server } = ready(TlsVersion::Tls13);
    let sent = bytes(40_000, 3);
    for piece in sent.chunks(5000) {
        client.send(piece).unwrap();
    }
    let mut room = vec![0; 65_536];
    // Sent and received on one machine: all of it is there when the last send returns.
    server.readable(false);
    assert_eq!(server.receive(&mut room).unwrap(), Some(sent.len()));
    assert!(room[..sent.len()] == sent);
    assert_eq!(server.receive(&mut room).unwrap(), None);
}

#[test]
fn records_with_next_to_nothing_in_them_are_received_a_few_at_a_time() {
    for version in VERSIONS {
        let Pair { mut client, mut server } = ready(version);
        let mut sent = 0;
        while client.held() == 0 {
            client.send(b"x").unwrap();
            sent += 1;
        }
        server.readable(false);
        let mut room = vec![0; 65_536];
        let mut heard = 0;
        let mut most = 0;
        while heard < sent {
            match server.receive(&mut room).unwrap() {
                Some(count) => {
                    heard += count;
                    most = most.max(count);
                }
                None if server.has_paused() => {}
                None => {
                    client.flush().unwrap();
                    server.readable(false);
                }
            }
        }
        assert!(sent > 10_000 && most < 2_000, "{most} of {sent} at once");
    }
}

#[test]
fn records_that_are_full_are_received_without_a_pause() {
    let Pair { mut client, mut server } = ready(TlsVersion::Tls13);
    // Small ones have been before them.
    for _ in 0..5000 {
        client.send(b"x").unwrap();
    }
    server.readable(false);
    let mut room = vec![0; 65_536];
    while server.receive(&mut room).unwrap().is_some() || server.has_paused() {}
    client.send(&bytes(1_000_000, 4)).unwrap();
    let mut heard = 0;
    while heard < 1_000_000 {
        client.flush().unwrap();
        server.readable(false);
        while let Some(count) = server.receive(&mut room).unwrap() {
            assert!(heard < 65_536 || !server.has_paused(), "after {heard}");
            heard += count;
        }
    }
}

#[test]
fn a_client_that_says_nothing_has_nothing_set_up_for_it() {
    let (_, material) = simple();
    let contexts = build(TlsSettings::default(), &material);
    let mut pair = Pair::new(&contexts, &contexts, &at("www.test"));
    let untouched = pair.server.ssl().state_string_long().to_owned();
    assert!(!pair.server.handshake().unwrap());
    assert_eq!(pair.server.ssl().state_string_long(), untouched);
    assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
}

#[test]
fn each_direction_ends_on_its_own() {
    for version in VERSIONS {
        let Pair { mut client, mut server } = ready(version);
        client.send(b"question").unwrap();
        client.finish().unwrap();
        client.finish().unwrap();
        assert_eq!(collect(&mut server, usize::MAX).unwrap(), b"question");
        assert_eq!(server.receive(&mut [0; 10]).unwrap(), Some(0), "an end stays one");
        server.send(b"answer").unwrap();
        server.finish().unwrap();
        assert_eq!(collect(&mut client, usize::MAX).unwrap(), b"answer");
        // And the other way round.
        let Pair { mut client, mut server } = ready(version);
        server.finish().unwrap();
        assert_eq!(collect(&mut client, usize::MAX).unwrap(), b"");
        client.send(b"still here").unwrap();
        client.finish().unwrap();
        assert_eq!(collect(&mut server, usize::MAX).unwrap(), b"still here");
        assert!(server.send(b"more").is_err(), "what comes after the end is an error");
    }
}

#[test]
fn an_end_that_nobody_declared_is_an_error_after_what_came_before_it() {
    for version in VERSIONS {
        let Pair { mut client, mut server } = ready(version);
        client.send(b"not all").unwrap();
        drop(client);
        let mut room = [0; 100];
        let count = until("the bytes", || {
            server.readable(true);
            server.receive(&mut room).unwrap()
        });
        assert_eq!(&room[..count], b"not all");
        let error = until("the end", || {
            server.readable(true);
            server.receive(&mut room).err()
        });
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}

#[test]
fn whoever_has_finished_need_not_be_told_the_end() {
    for version in VERSIONS {
        let Pair { client, mut server } = ready(version);
        server.finish().unwrap();
        drop(client);
        let end = until("the end", || {
            server.readable(true);
            match server.receive(&mut [0; 100]) {
                // The kernel resets a connection on which something was not read.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(0),
                other => other.unwrap(),
            }
        });
        assert_eq!(end, 0);
    }
}

#[test]
fn a_reset_is_told_as_one() {
    let Pair { client, mut server } = ready(TlsVersion::Tls13);
    crate::sys::socket::reset_on_close(std::os::fd::AsFd::as_fd(client.socket()));
    drop(client);
    let error = until("the reset", || {
        server.readable(true);
        server.receive(&mut [0; 100]).err()
    });
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn nothing_is_read_before_the_poller_says_so_unless_the_end_was_reported() {
    let Pair { mut client, mut server } = ready(TlsVersion::Tls13);
    let mut room = [0; 100];
    client.send(b"one").unwrap();
    server.readable(false);
    assert_eq!(server.receive(&mut room).unwrap(), Some(3));
    client.send(b"two").unwrap();
    assert_eq!(server.receive(&mut room).unwrap(), None, "the short read has emptied the socket");
    server.readable(true);
    assert_eq!(server.receive(&mut room).unwrap(), Some(3));
    client.send(b"three").unwrap();
    client.finish().unwrap();
    drop(client);
    server.readable(true);
    let mut all = Vec::new();
    while let Some(count) = server.receive(&mut room).unwrap() {
        all.extend_from_slice(&room[..count]);
        if count == 0 {
            break;
        }
    }
    assert_eq!(all, b"three", "all of it comes without another word of the poller");
}

#[test]
fn before_the_handshake_nothing_is_sent_or_received() {
    let (_, material) = simple();
    let contexts = build(TlsSettings::default(), &material);
    let mut pair = Pair::new(&contexts, &contexts, &at("www.test"));
    assert_eq!(pair.client.send(b"early").unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(pair.server.receive(&mut [0; 10]).unwrap_err().kind(), ErrorKind::NotConnected);
    pair.client.finish().unwrap();
    assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
}

/// What a server says to these bytes, and what their sender reads from it.
fn answer(bytes: &[u8]) -> (std::io::Error, Vec<u8>) {
    let (_, material) = simple();
    let contexts = build(TlsSettings::default(), &material);
    let (mut client, server) = sockets();
    let mut server = contexts.accept(server.into(), &Outbox::default()).unwrap();
    client.write_all(bytes).unwrap();
    let error = until("a refusal", || {
        server.readable(true);
        server.handshake().map(|done| assert!(!done)).err()
    });
    assert_eq!(server.receive(&mut [0; 10]).unwrap_err().kind(), ErrorKind::NotConnected);
    drop(server);
    let mut said = Vec::new();
    client.set_nonblocking(false).unwrap();
    let _ = client.read_to_end(&mut said);
    (error, said)
}

#[test]
fn a_peer_that_speaks_something_else_is_refused_in_clear_words() {
    let (error, _) = answer(b"GET / HTTP/1.1\r\nHost: www.test\r\n\r\n");
    assert_eq!(error.to_string(), "http request");
    let (error, _) = answer(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n");
    assert_eq!(error.to_string(), "wrong version number");
    // A record of the right kind, but no client hello.
    let (error, said) = answer(&[22, 3, 1, 0, 4, 99, 0, 0, 0]);
    assert_ne!(error.to_string(), "");
    assert_eq!(said.first(), Some(&21), "an alert: {said:?} for {error}");
}

#[test]
fn a_peer_that_leaves_in_the_handshake_is_told_apart() {
    let (_, material) = simple();
    let contexts = build(TlsSettings::default(), &material);
    let (client, server) = sockets();
    let mut server = contexts.accept(server.into(), &Outbox::default()).unwrap();
    server.readable(false);
    assert!(!server.handshake().unwrap(), "it only waits");
    (&client).write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    drop(client);
    let error = until("the end", || {
        server.readable(true);
        server.handshake().err()
    });
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn the_error_of_one_connection_is_not_that_of_another() {
    let mut good = ready(TlsVersion::Tls13);
    answer(b"GET / HTTP/1.1\r\n\r\n");
    // Errors that others have left behind.
    assert!(PKey::private_key_from_pem(b"nonsense").is_err());
    openssl::error::ErrorStack::get();
    let garbage = X509::from_der(b"nonsense").unwrap_err();
    garbage.put();
    assert_eq!(good.server.receive(&mut [0; 10]).unwrap(), None);
    garbage.put();
    good.client.send(b"fine").unwrap();
    assert_eq!(collect(&mut good.server, 4).unwrap(), b"fine");
}

#[test]
fn what_is_held_has_a_limit_and_goes_with_its_peer() {
    let mut pair = ready(TlsVersion::Tls13);
    // As if the client asked for so much that only the library answers.
    let error = until("the end of patience", || {
        pair.server.send(&[0; 65_536]).unwrap();
        pair.server.receive(&mut [0; 10]).err()
    });
    assert!(error.to_string().contains("does not read"), "{error}");
    assert!(pair.server.held() < 2 * 1024 * 1024);
}

/// What OpenSSL can do as a client and nobody binds.
#[cfg(not(feature = "aws-lc"))]
#[allow(unsafe_code)]
mod rude {
    use std::os::raw::c_int;

    use foreign_types::ForeignTypeRef;
    use openssl_sys as ffi;

    use super::*;

    unsafe extern "C" {
        fn SSL_renegotiate(ssl: *mut ffi::SSL) -> c_int;
        fn SSL_key_update(ssl: *mut ffi::SSL, kind: c_int) -> c_int;
    }

    #[test]
    fn a_client_that_asks_for_renegotiation_is_refused_and_served_on() {
        let mut pair = ready(TlsVersion::Tls12);
        // SAFETY: an established connection.
        assert_eq!(unsafe { SSL_renegotiate(pair.client.ssl().as_ptr()) }, 1);
        pair.client.send(b"hello").unwrap_err();
        let mut room = [0; 100];
        let refusal = until("a refusal", || {
            pair.server.readable(false);
            assert_eq!(pair.server.receive(&mut room).unwrap(), None);
            pair.client.readable(false);
            pair.client.receive(&mut room).err()
        });
        assert_eq!(refusal.to_string(), "no renegotiation");
        pair.server.send(b"and now?").unwrap();
    }

    #[test]
    fn new_keys_are_agreed_on_while_bytes_flow() {
        let mut pair = ready(TlsVersion::Tls13);
        for round in 0..5u8 {
            // SAFETY: an established connection. 1: both sides are to have new keys.
            assert_eq!(unsafe { SSL_key_update(pair.client.ssl().as_ptr(), 1) }, 1);
            pair.client.send(&[round; 20_000]).unwrap();
            assert_eq!(collect(&mut pair.server, 20_000).unwrap(), [round; 20_000]);
            pair.server.send(&[round; 20_000]).unwrap();
            assert_eq!(collect(&mut pair.client, 20_000).unwrap(), [round; 20_000]);
        }
    }
}
