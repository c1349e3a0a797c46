use std::collections::VecDeque;

use bytes::Bytes;

use super::{Broken, pair::pair};

#[tokio::test]
async fn bytes_cross_in_order_and_the_end_is_seen() {
    let (mut here, mut there, _) = pair(64);
    here.send.write_one(&b"one"[..]).await.unwrap();
    here.send.write_one(&b"two"[..]).await.unwrap();
    here.send.finish();
    let mut chunks = Vec::new();
    while there.recv.chunks(&mut chunks).await.unwrap() {}
    assert_eq!(chunks.concat(), b"onetwo");
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_writer_at_the_window() {
    let (mut here, mut there, _) = pair(4);
    let mut chunks = VecDeque::from([Bytes::from_static(b"123456")]);
    let blocked = std::future::poll_fn(|cx| {
        std::task::Poll::Ready(here.send.poll_write(cx, &mut chunks).is_pending())
    });
    assert!(blocked.await);
    assert_eq!(chunks, [Bytes::from_static(b"56")]);
    let mut read = Vec::new();
    there.recv.chunks(&mut read).await.unwrap();
    here.send.write(&mut chunks).await.unwrap();
    there.recv.chunks(&mut read).await.unwrap();
    assert_eq!(read.concat(), b"123456");
}

#[tokio::test]
async fn what_is_dropped_unfinished_is_no_end() {
    let (here, mut there, _) = pair(64);
    drop(here);
    assert_eq!(there.recv.chunks(&mut Vec::new()).await, Err(Broken::Cancelled));
    assert_eq!(there.send.write_one(&b"x"[..]).await, Err(Broken::Cancelled));
    assert_eq!(there.send.broken().await, Broken::Cancelled);
}

#[tokio::test]
async fn what_was_finished_is_read_after_its_writer_has_gone() {
    let (mut here, mut there, _) = pair(64);
    here.send.write_one(&b"all"[..]).await.unwrap();
    here.send.finish();
    drop(here.send);
    let mut chunks = Vec::new();
    while there.recv.chunks(&mut chunks).await.unwrap() {}
    assert_eq!(chunks.concat(), b"all");
}

#[tokio::test]
async fn a_lost_link_is_told_from_an_end_that_gave_up() {
    let (mut here, mut there, breaker) = pair(64);
    breaker.lose();
    assert_eq!(here.send.write_one(&b"x"[..]).await, Err(Broken::Lost));
    assert_eq!(there.recv.chunks(&mut Vec::new()).await, Err(Broken::Lost));
}
