use super::frame::Opcode;
use super::*;
use crate::spdy::Spdy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V5: Form = Form { encoding: Encoding::Binary, ends: true };

async fn all(mut incoming: crate::Incoming) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = incoming.next().await {
        all.extend_from_slice(&piece);
    }
    all
}

#[test]
fn keys_are_answered_as_the_rfc_says() {
    assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(BASE64_STANDARD.decode(key()).unwrap().len(), 16);
    assert_ne!(key(), key());
}

#[tokio::test]
async fn channels_carry_bytes_both_ways_in_every_form() {
    let forms = [
        ("binary", Form { encoding: Encoding::Binary, ends: false }),
        ("base64", Form { encoding: Encoding::Base64, ends: false }),
        ("with ends", V5),
    ];
    for (name, form) in forms {
        let (near, far) = tokio::io::duplex(1000);
        let mut client = channels(near, Side::Client, form, 3);
        let mut server = channels(far, Side::Server, form, 3);
        let (one, two) = (client.take(0).unwrap(), server.take(0).unwrap());
        let long: Vec<u8> = (0..100_001_u32).map(|at| at.to_le_bytes()[0]).collect();
        let sent = long.clone();
        let sending = tokio::spawn(async move {
            one.outgoing.send(sent).await.unwrap();
            one.outgoing.send(&b"end"[..]).await.unwrap();
            if form.ends {
                one.outgoing.finish().await.unwrap();
                return Some(client);
            }
            client.link.close().await;
            None
        });
        let got = all(two.incoming).await;
        assert_eq!(got.len(), long.len() + 3, "{name}");
        assert!(got.starts_with(&long) && got.ends_with(b"end"), "{name}");
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn one_channel_ends_before_the_others_where_there_is_a_word_for_it() {
    let (near, far) = tokio::io::duplex(1000);
    let mut client = channels(near, Side::Client, V5, 3);
    let mut server = channels(far, Side::Server, V5, 3);
    let (stdin, stdout) = (client.take(0).unwrap(), client.take(1).unwrap());
    stdin.outgoing.finish().await.unwrap();
    assert_eq!(all(server.take(0).unwrap().incoming).await, b"");
    let out = server.take(1).unwrap().outgoing;
    out.send(&b"still here"[..]).await.unwrap();
    drop(out);
    server.link.close().await;
    assert_eq!(all(stdout.incoming).await, b"still here");
    client.link.closed().await;
}

#[tokio::test]
async fn a_message_in_parts_is_one_message_and_pings_between_them_are_answered() {
    let (mut near, far) = tokio::io::duplex(1000);
    let form = Form { encoding: Encoding::Base64, ends: false };
    let mut server = channels(far, Side::Server, form, 1);
    let mut incoming = server.take(0).unwrap().incoming;
    // "0" and "aGVs" "bG8=" in uneven parts, with a ping between them.
    let mask = Some([9, 8, 7, 6]);
    let mut first = frame::write(Opcode::Text, mask, &[b"0aG"]);
    let mut last = frame::write(Opcode::Continuation, mask, &[b"VsbG8="]);
    first[0] &= 0x7f;
    last[0] |= 0x80;
    near.write_all(&first).await.unwrap();
    near.write_all(&frame::write(Opcode::Ping, mask, &[b"you?"])).await.unwrap();
    near.write_all(&last).await.unwrap();
    assert_eq!(incoming.next().await.unwrap(), "hello");
    let mut pong = [0; 6];
    near.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\x8a\x04you?");
}

#[tokio::test]
async fn who_breaks_the_protocol_is_gone() {
    let mask = Some([1, 1, 1, 1]);
    let binary = Form { encoding: Encoding::Binary, ends: false };
    let base64 = Form { encoding: Encoding::Base64, ends: false };
    let mut middle = frame::write(Opcode::Continuation, mask, &[b"0x"]);
    middle[0] |= 0x80;
    let mut huge = frame::write(Opcode::Binary, mask, &[&[0; 70_000]]);
    huge[2..10].copy_from_slice(&u64::MAX.to_be_bytes());
    huge.truncate(200);
    let cases = [
        ("not masked", binary, frame::write(Opcode::Binary, None, &[b"0x"])),
        ("a continuation of nothing", binary, middle),
        ("no base64", base64, frame::write(Opcode::Text, mask, &[b"0%%%%"])),
        ("a frame of all bytes there are, cut short", binary, huge),
    ];
    for (name, form, bytes) in cases {
        let (mut near, far) = tokio::io::duplex(1000);
        let server = channels(far, Side::Server, form, 1);
        near.write_all(&bytes).await.unwrap();
        if name.contains("cut short") {
            drop(near);
        }
        let closed = tokio::time::timeout(std::time::Duration::from_secs(10), server.link.closed());
        closed.await.expect(name);
    }
}

#[tokio::test]
async fn spdy_goes_through_a_tunnel() {
    let (near, far) = tokio::io::duplex(100);
    let mut client = Spdy::client(tunnel(near, Side::Client));
    let mut server = Spdy::server(tunnel(far, Side::Server));
    let stream = client.open(&[("streamtype", "data")]).await.unwrap();
    let opened = server.accept().await.unwrap();
    assert_eq!(opened.header("streamType"), "data");
    stream.outgoing.send(vec![5; 50_000]).await.unwrap();
    stream.outgoing.finish().await.unwrap();
    assert_eq!(all(opened.stream.incoming).await.len(), 50_000);
    drop(client);
    server.link.closed().await;
}
