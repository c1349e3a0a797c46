use std::fs;

use bytes::Bytes;

use super::*;

async fn all(content: &Content) -> Vec<u8> {
    let mut read = Vec::new();
    loop {
        let bytes = content.read(read.len() as u64).await.unwrap();
        if bytes.is_empty() {
            return read;
        }
        assert!(bytes.len() <= CHUNK);
        read.extend_from_slice(&bytes);
    }
}

#[tokio::test]
async fn bytes_are_shared_and_never_copied() {
    let bytes = Bytes::from(vec![1; 3 * CHUNK]);
    let content = Source::bytes(bytes.clone()).open().await.unwrap();
    let read = content.read(CHUNK as u64 + 5).await.unwrap();
    assert_eq!(read.as_ptr(), bytes[CHUNK + 5..].as_ptr());
    assert_eq!(all(&content).await, bytes);
}

#[tokio::test]
async fn an_object_is_its_parts_one_behind_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, [2; 10]).unwrap();
    let source = Source::object([
        ("none".to_owned(), Source::bytes(Bytes::new())),
        ("one".to_owned(), Source::bytes(vec![1; 3])),
        ("two".to_owned(), Source::file(&path)),
        ("last".to_owned(), Source::bytes(vec![3; 2])),
    ]);
    let content = source.open().await.unwrap();
    assert_eq!(content.size, Some(15));
    let lens: Vec<u64> = content.parts.iter().map(|part| part.len).collect();
    assert_eq!(lens, [0, 3, 10, 2]);
    assert_eq!(all(&content).await, [&[1; 3][..], &[2; 10], &[3; 2]].concat());
    content.check().await.unwrap();

    fs::write(&path, [4; 12]).unwrap();
    assert!(matches!(content.check().await, Err(SourceError::Changed)));
    let again = content.reopen().await.unwrap();
    let lens: Vec<u64> = again.parts.iter().map(|part| part.len).collect();
    assert_eq!((again.size, &lens[..]), (Some(17), &[0, 3, 12, 2][..]));
    assert_eq!(all(&again).await, [&[1; 3][..], &[4; 12], &[3; 2]].concat());
}

#[tokio::test]
async fn a_file_that_is_replaced_removed_or_changed_is_another_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let open = || Source::file(&path).open();
    fs::write(&path, "one").unwrap();
    let first = open().await.unwrap();
    assert_eq!(first.generation(), open().await.unwrap().generation());

    fs::write(directory.path().join("new"), "two").unwrap();
    fs::rename(directory.path().join("new"), &path).unwrap();
    assert!(matches!(first.check().await, Err(SourceError::Changed)));
    let second = open().await.unwrap();
    assert_ne!(first.generation(), second.generation());
    assert_eq!(all(&first).await, b"one", "what was opened can still be read");

    fs::remove_file(&path).unwrap();
    assert!(matches!(second.check().await, Err(SourceError::Changed)));
    assert!(matches!(open().await, Err(SourceError::Io { .. })));
}

#[tokio::test]
async fn what_is_no_file_is_no_source_and_nobody_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Source::file(directory.path()).open().await;
    assert!(matches!(refused, Err(SourceError::Kind(_))), "{refused:?}");
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let refused = Source::file(&fifo).open().await;
    assert!(matches!(refused, Err(SourceError::Kind(_))), "{refused:?}");
}

#[tokio::test]
async fn a_reader_is_no_part_of_an_object() {
    let directory = tempfile::tempdir().unwrap();
    let reader = Source::reader(tokio::io::empty(), 10, directory.path());
    let refused = Source::object([("part".to_owned(), reader)]).open().await;
    assert!(matches!(refused, Err(SourceError::Nested)), "{refused:?}");
}

#[tokio::test]
async fn no_byte_of_a_reader_is_lost_when_whoever_reads_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let sent: Vec<u8> = (0..200_000).map(|at| (at * 7 % 251) as u8).collect();
    let reader = Source::reader(std::io::Cursor::new(sent.clone()), 1 << 20, directory.path());
    let content = reader.open().await.unwrap();
    for polls in 1..6 {
        let mut reading = Box::pin(content.read(0));
        for _ in 0..polls {
            let polled = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(reading.as_mut().poll(cx).is_ready())
            });
            if polled.await {
                break;
            }
        }
    }
    assert_eq!(all(&content).await, sent);
}
