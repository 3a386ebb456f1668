use super::*;
use crate::{Incoming, Stream};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn pair() -> (Spdy, Spdy) {
    let (near, far) = tokio::io::duplex(1000);
    (Spdy::client(near), Spdy::server(far))
}

async fn open(client: &mut Spdy, server: &mut Spdy, name: &str) -> (Stream, Stream) {
    let ours = client.open(&[("streamType", name)]).await.unwrap();
    let theirs = server.accept().await.unwrap();
    assert_eq!(theirs.header("streamtype"), name);
    (ours, theirs.stream)
}

async fn all(mut incoming: Incoming) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = incoming.next().await {
        all.extend_from_slice(&piece);
    }
    all
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_end_each_way() {
    let (mut client, mut server) = pair();
    let (ours, theirs) = open(&mut client, &mut server, "data").await;
    let (other, _others) = open(&mut client, &mut server, "error").await;
    ours.outgoing.send(&b"question"[..]).await.unwrap();
    ours.outgoing.finish().await.unwrap();
    assert_eq!(all(theirs.incoming).await, b"question");
    let answer: Vec<u8> = (0..70_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let sending = {
        let (answer, outgoing) = (answer.clone(), theirs.outgoing);
        tokio::spawn(async move {
            outgoing.send(answer).await.unwrap();
            outgoing.finish().await.unwrap();
        })
    };
    assert_eq!(all(ours.incoming).await, answer);
    sending.await.unwrap();
    server.link.close().await;
    assert_eq!(all(other.incoming).await, b"", "the end of the connection is the end of all");
    timeout(PATIENCE, client.link.closed()).await.unwrap();
}

#[tokio::test]
async fn a_reset_is_told_from_an_end() {
    let (mut client, mut server) = pair();
    let (ours, mut theirs) = open(&mut client, &mut server, "data").await;
    ours.outgoing.reset().await.unwrap();
    assert!(theirs.incoming.next().await.is_none() && theirs.incoming.was_reset());
    assert_eq!(theirs.outgoing.send(&b"x"[..]).await, Err(Closed));
}

#[tokio::test]
async fn a_stream_that_nobody_reads_any_more_is_thrown_away() {
    let (mut client, mut server) = pair();
    let (ours, theirs) = open(&mut client, &mut server, "data").await;
    drop(theirs);
    timeout(PATIENCE, ours.outgoing.send(vec![0; 1 << 20])).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_that_is_slow_holds_its_peer_up_and_loses_nothing() {
    let (mut client, mut server) = pair();
    let (ours, theirs) = open(&mut client, &mut server, "data").await;
    let sending = tokio::spawn(async move {
        ours.outgoing.send(vec![7; 4 << 20]).await.unwrap();
        ours.outgoing.finish().await.unwrap();
    });
    let early = tokio::time::sleep(Duration::from_millis(50));
    early.await;
    assert!(!sending.is_finished(), "the queues are short");
    assert_eq!(all(theirs.incoming).await.len(), 4 << 20);
}

/// A peer without a conscience.
struct Raw(DuplexStream);

impl Raw {
    fn with_server() -> (Self, Spdy) {
        let (near, far) = tokio::io::duplex(100_000);
        (Self(near), Spdy::server(far))
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn syn(&mut self, id: u32, packer: &mut headers::Packer) {
        let packed = packer.pack(&[]).unwrap();
        let length = u32::try_from(10 + packed.len()).unwrap();
        let head = [0x8003_0001_u32.to_be_bytes(), length.to_be_bytes()].concat();
        self.say(&[&head[..], &id.to_be_bytes(), &[0; 6], &packed].concat()).await;
    }
}

#[tokio::test]
async fn who_breaks_the_protocol_is_gone() {
    let cases: [(&str, Vec<u8>); 6] = [
        ("another version", vec![0x80, 2, 0, 1, 0, 0, 0, 0]),
        ("a control frame of 16 MiB", vec![0x80, 3, 0, 1, 0, 255, 255, 255]),
        ("a stream without headers", vec![0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1]),
        (
            "headers that are none",
            [&[0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1][..], &[7; 10]].concat(),
        ),
        ("a ping without a number", vec![0x80, 3, 0, 6, 0, 0, 0, 0]),
        ("farewell", vec![0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (name, bytes) in cases {
        let (mut raw, mut server) = Raw::with_server();
        raw.say(&bytes).await;
        timeout(PATIENCE, server.link.closed()).await.expect(name);
        assert!(server.accept().await.is_none(), "{name}");
    }
}

#[tokio::test]
async fn numbers_of_streams_go_up_and_are_the_openers() {
    for (name, ids) in [("twice", [1, 1]), ("down", [3, 1]), ("ours", [1, 2])] {
        let (mut raw, server) = Raw::with_server();
        let mut packer = headers::Packer::new();
        for id in ids {
            raw.syn(id, &mut packer).await;
        }
        timeout(PATIENCE, server.link.closed()).await.expect(name);
    }
}

#[tokio::test]
async fn pings_are_answered_and_what_is_unknown_is_passed_over() {
    let (mut raw, _server) = Raw::with_server();
    raw.say(&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0]).await;
    raw.say(&[0, 0, 0, 99, 0, 0, 0, 3, b'a', b'b', b'c']).await;
    raw.say(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]).await;
    let mut pong = [0; 12];
    timeout(PATIENCE, raw.0.read_exact(&mut pong)).await.unwrap().unwrap();
    assert_eq!(pong, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
}

/// A peer that opens streams without end is refused, and takes no more memory than its thousand.
#[tokio::test]
async fn streams_have_a_limit() {
    let (mut raw, mut server) = Raw::with_server();
    let opening = tokio::spawn(async move {
        let mut packer = headers::Packer::new();
        for number in 0..=MOST_STREAMS {
            raw.syn(u32::try_from(2 * number + 1).unwrap(), &mut packer).await;
        }
        let (mut last, mut frame) = (0, [0; 8]);
        // Replies, and then one refusal.
        while last != u32::from(kind::RST_STREAM) {
            raw.0.read_exact(&mut frame).await.unwrap();
            last = u32::from_be_bytes([0, 0, frame[2], frame[3]]);
            let mut body = vec![0; usize::from(frame[7])];
            raw.0.read_exact(&mut body).await.unwrap();
        }
    });
    let mut held = Vec::new();
    while held.len() < MOST_STREAMS {
        held.push(server.accept().await.unwrap());
    }
    timeout(PATIENCE, opening).await.unwrap().unwrap();
}
