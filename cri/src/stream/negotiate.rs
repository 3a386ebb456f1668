//! Which protocol a client and we speak, from the headers of its request: pure.

use hyper::header::{CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use remote::websocket::{Encoding, Form};

/// Names the subprotocol over SPDY, in a request (several) and its answer (one).
pub(super) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What carries the channels of an exec or an attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) carrier: Carrier,
    /// The subprotocol's name, where one was asked for.
    pub(super) protocol: Option<&'static str>,
    /// Whether the error channel has a status for programs; a text for people where not.
    pub(super) status: bool,
    /// Whether the client opens a channel for the size of its terminal.
    pub(super) resize: bool,
}

/// The protocol below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Spdy,
    WebSocket(Form),
}

/// What carries forwarded connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forward {
    /// A pair of streams for each connection.
    Spdy,
    /// The same, over WebSocket.
    Tunnel,
    /// A pair of channels for each port, and so one connection for each.
    WebSocket { form: Form, protocol: Option<&'static str> },
}

/// There is nothing that both speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("this address is for SPDY/3.1 and WebSocket clients")]
    NoUpgrade,
    #[error("no subprotocol that was asked for is spoken here")]
    NoProtocol,
}

/// The names of what we speak over SPDY to forward ports, and over WebSocket to carry that.
pub(super) const FORWARD: &str = "portforward.k8s.io";
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const fn binary(ends: bool) -> Form {
    Form { encoding: Encoding::Binary, ends }
}

const BASE64: Form = Form { encoding: Encoding::Base64, ends: false };

/// Over WebSocket: name, form, whether the error channel has a status. Versions 1 to 3 differ in what SPDY does.
const SOCKET: [(&str, Form, bool); 8] = [
    ("v5.channel.k8s.io", binary(true), true),
    ("v4.channel.k8s.io", binary(false), true),
    ("v3.channel.k8s.io", binary(false), false),
    ("v2.channel.k8s.io", binary(false), false),
    ("v1.channel.k8s.io", binary(false), false),
    ("channel.k8s.io", binary(false), false),
    ("v4.base64.channel.k8s.io", BASE64, true),
    ("base64.channel.k8s.io", BASE64, false),
];

/// Over SPDY: name, whether the error stream has a status, whether there is a stream for sizes.
const SPDY: [(&str, bool, bool); 4] = [
    ("v4.channel.k8s.io", true, true),
    ("v3.channel.k8s.io", false, true),
    ("v2.channel.k8s.io", false, false),
    ("channel.k8s.io", false, false),
];

/// For an exec or an attach.
pub(super) fn command(headers: &HeaderMap) -> Result<Command, Refused> {
    if is_websocket(headers) {
        let asked = values(headers, &SEC_WEBSOCKET_PROTOCOL);
        let known = |asked: &&str| SOCKET.iter().find(|(name, ..)| name == asked);
        // A client that names none gets the oldest.
        let (protocol, form, status) = match asked.iter().find_map(known) {
            Some((name, form, status)) => (Some(*name), *form, *status),
            None if asked.is_empty() => (None, binary(false), false),
            None => return Err(Refused::NoProtocol),
        };
        return Ok(Command { carrier: Carrier::WebSocket(form), protocol, status, resize: true });
    }
    if !is_spdy(headers) {
        return Err(Refused::NoUpgrade);
    }
    let asked = values(headers, &STREAM_PROTOCOL);
    let known = |asked: &&str| SPDY.iter().find(|(name, ..)| name == asked);
    let (protocol, status, resize) = match asked.iter().find_map(known) {
        Some((name, status, resize)) => (Some(*name), *status, *resize),
        None if asked.is_empty() => (None, false, false),
        None => return Err(Refused::NoProtocol),
    };
    Ok(Command { carrier: Carrier::Spdy, protocol, status, resize })
}

/// For forwarded ports.
pub(super) fn forward(headers: &HeaderMap) -> Result<Forward, Refused> {
    if is_websocket(headers) {
        let asked = values(headers, &SEC_WEBSOCKET_PROTOCOL);
        if asked.contains(&TUNNEL) {
            return Ok(Forward::Tunnel);
        }
        let known = |asked: &&str| SOCKET.iter().find(|(name, ..)| name == asked);
        return match asked.iter().find_map(known) {
            Some((name, form, _)) => Ok(Forward::WebSocket { form: *form, protocol: Some(name) }),
            None if asked.is_empty() => {
                Ok(Forward::WebSocket { form: binary(false), protocol: None })
            }
            None => Err(Refused::NoProtocol),
        };
    }
    if !is_spdy(headers) {
        return Err(Refused::NoUpgrade);
    }
    let asked = values(headers, &STREAM_PROTOCOL);
    if asked.is_empty() || asked.contains(&FORWARD) {
        Ok(Forward::Spdy)
    } else {
        Err(Refused::NoProtocol)
    }
}

fn is_websocket(headers: &HeaderMap) -> bool {
    upgrades_to(headers, "websocket")
}

fn is_spdy(headers: &HeaderMap) -> bool {
    upgrades_to(headers, "SPDY/3.1")
}

fn upgrades_to(headers: &HeaderMap, protocol: &str) -> bool {
    let has = |name, wanted: &str| {
        values(headers, name).iter().any(|value| value.eq_ignore_ascii_case(wanted))
    };
    has(&CONNECTION, "upgrade") && has(&UPGRADE, protocol)
}

/// The values of a header, of all its lines and between commas.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(upgrade: &'static str, name: HeaderName, protocols: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
        for protocol in protocols {
            headers.append(&name, HeaderValue::from_static(protocol));
        }
        headers
    }

    #[test]
    fn the_first_that_both_speak_is_spoken_over_websocket() {
        let cases: [(&[&'static str], Option<&str>, Form, bool); 6] = [
            (&["v5.channel.k8s.io"], Some("v5.channel.k8s.io"), binary(true), true),
            (
                &["v9.channel.k8s.io, v4.channel.k8s.io"],
                Some("v4.channel.k8s.io"),
                binary(false),
                true,
            ),
            (&["v4.base64.channel.k8s.io"], Some("v4.base64.channel.k8s.io"), BASE64, true),
            (&["base64.channel.k8s.io"], Some("base64.channel.k8s.io"), BASE64, false),
            (&["channel.k8s.io"], Some("channel.k8s.io"), binary(false), false),
            (&[], None, binary(false), false),
        ];
        for (asked, protocol, form, status) in cases {
            let got = command(&headers("websocket", SEC_WEBSOCKET_PROTOCOL, asked)).unwrap();
            let carrier = Carrier::WebSocket(form);
            assert_eq!(got, Command { carrier, protocol, status, resize: true }, "{asked:?}");
        }
        let unknown = headers("websocket", SEC_WEBSOCKET_PROTOCOL, &["v9.channel.k8s.io"]);
        assert_eq!(command(&unknown), Err(Refused::NoProtocol));
    }

    #[test]
    fn the_first_that_both_speak_is_spoken_over_spdy() {
        let cases: [(&[&'static str], Option<&str>, bool, bool); 4] = [
            (&["v5.channel.k8s.io", "v4.channel.k8s.io"], Some("v4.channel.k8s.io"), true, true),
            (&["v3.channel.k8s.io"], Some("v3.channel.k8s.io"), false, true),
            (&["v2.channel.k8s.io", "channel.k8s.io"], Some("v2.channel.k8s.io"), false, false),
            (&[], None, false, false),
        ];
        for (asked, protocol, status, resize) in cases {
            let got = command(&headers("spdy/3.1", STREAM_PROTOCOL, asked)).unwrap();
            assert_eq!(got, Command { carrier: Carrier::Spdy, protocol, status, resize });
        }
        assert_eq!(command(&HeaderMap::new()), Err(Refused::NoUpgrade));
        assert_eq!(command(&headers("h2c", STREAM_PROTOCOL, &[])), Err(Refused::NoUpgrade));
    }

    #[test]
    fn ports_are_forwarded_in_three_ways() {
        let spdy = headers("SPDY/3.1", STREAM_PROTOCOL, &[FORWARD]);
        assert_eq!(forward(&spdy), Ok(Forward::Spdy));
        let tunnel = headers("websocket", SEC_WEBSOCKET_PROTOCOL, &[TUNNEL]);
        assert_eq!(forward(&tunnel), Ok(Forward::Tunnel));
        let v4 = headers("websocket", SEC_WEBSOCKET_PROTOCOL, &["v4.channel.k8s.io"]);
        let protocol = Some("v4.channel.k8s.io");
        assert_eq!(forward(&v4), Ok(Forward::WebSocket { form: binary(false), protocol }));
        let other = headers("SPDY/3.1", STREAM_PROTOCOL, &["v4.channel.k8s.io"]);
        assert_eq!(forward(&other), Err(Refused::NoProtocol));
    }
}
