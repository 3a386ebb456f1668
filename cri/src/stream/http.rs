//! The HTTP side: a request with a ticket becomes a connection of another protocol.

use super::negotiate::{self, Carrier, Command, Forward, Refused, STREAM_PROTOCOL};
use super::tickets::{Errand, Wanted};
use super::wires::Wires;
use super::{forward, session};
use crate::node::Node;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::sync::Arc;

type Answer = Response<Full<Bytes>>;

/// What a session holds as long as it lives.
pub(super) type Place = Arc<tokio::sync::OwnedSemaphorePermit>;

/// Answers a request, and where that is a switch of protocols, runs the session behind it.
pub(super) fn answer(node: &Arc<Node>, mut request: Request<Incoming>, place: Place) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "GET or POST");
    }
    let mut path = request.uri().path().split('/').skip(1);
    let (kind, ticket, end) = (path.next(), path.next(), path.next());
    let (Some(kind), Some(ticket), None) = (kind, ticket, end) else {
        return refuse(StatusCode::NOT_FOUND, "not found");
    };
    let errand = node.streaming.tickets.redeem(ticket).filter(|errand| errand.path() == kind);
    let Some(errand) = errand else {
        return refuse(StatusCode::NOT_FOUND, "not found, used, or too old");
    };
    let switched = match &errand {
        Errand::Exec { wanted, .. } | Errand::Attach { wanted, .. } => {
            negotiate::command(request.headers()).map(|how| How::Command(how, *wanted))
        }
        Errand::Forward { .. } => negotiate::forward(request.headers()).map(How::Forward),
    };
    let how = match switched {
        Ok(how) => how,
        Err(err @ Refused::NoUpgrade) => return refuse(StatusCode::BAD_REQUEST, &err.to_string()),
        Err(err @ Refused::NoProtocol) => return refuse(StatusCode::FORBIDDEN, &err.to_string()),
    };
    let answer = match how.switch(request.headers()) {
        Ok(answer) => answer,
        Err(refused) => return *refused,
    };
    let (node, upgrade) = (Arc::clone(node), hyper::upgrade::on(&mut request));
    tokio::spawn(async move {
        // A client that has gone meanwhile has nothing to be served.
        if let Ok(upgraded) = upgrade.await {
            serve(&node, errand, how, TokioIo::new(upgraded)).await;
        }
        drop(place);
    });
    answer
}

/// What was agreed on.
#[derive(Clone, Copy, Debug)]
enum How {
    Command(Command, Wanted),
    Forward(Forward),
}

async fn serve(node: &Arc<Node>, errand: Errand, how: How, io: TokioIo<Upgraded>) {
    match (errand, how) {
        (Errand::Forward { sandbox, ports }, How::Forward(how)) => {
            forward::run(node, sandbox, &ports, how, io).await;
        }
        (errand @ (Errand::Exec { .. } | Errand::Attach { .. }), How::Command(how, wanted)) => {
            match Wires::new(io, how, wanted).await {
                Some(wires) => session::run(node, errand, wires).await,
                None => tracing::debug!("client did not open its streams"),
            }
        }
        // `answer` has put the right two together.
        (Errand::Forward { .. }, How::Command(..))
        | (Errand::Exec { .. } | Errand::Attach { .. }, How::Forward(_)) => {}
    }
}

impl How {
    /// The answer that switches protocols.
    fn switch(self, request: &HeaderMap) -> Result<Answer, Box<Answer>> {
        let (is_websocket, protocol) = match self {
            How::Command(Command { carrier: Carrier::Spdy, protocol, .. }, _) => (false, protocol),
            How::Command(Command { carrier: Carrier::WebSocket(_), protocol, .. }, _) => {
                (true, protocol)
            }
            How::Forward(Forward::Spdy) => (false, Some(negotiate::FORWARD)),
            How::Forward(Forward::Tunnel) => (true, Some(negotiate::TUNNEL)),
            How::Forward(Forward::WebSocket { protocol, .. }) => (true, protocol),
        };
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let name = if is_websocket {
            let refused = |why| Box::new(refuse(StatusCode::BAD_REQUEST, why));
            if request.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
                return Err(refused("Sec-WebSocket-Version must be 13"));
            }
            let key = request.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
            let key = key.ok_or_else(|| refused("Sec-WebSocket-Key is missing"))?;
            let accept = HeaderValue::try_from(remote::websocket::accept(key.trim()));
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept.map_err(|_| refused("Sec-WebSocket-Key"))?);
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            SEC_WEBSOCKET_PROTOCOL
        } else {
            headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            STREAM_PROTOCOL
        };
        if let Some(protocol) = protocol {
            headers.insert(name, HeaderValue::from_static(protocol));
        }
        Ok(answer)
    }
}

fn refuse(code: StatusCode, why: &str) -> Answer {
    let mut answer = Response::new(Full::from(format!("{why}\n")));
    *answer.status_mut() = code;
    // Nothing else can be meant for us on this connection (CVE-2018-1002105).
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
