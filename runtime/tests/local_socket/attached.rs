//! Descriptors that job code passes: the right ones, the wrong ones, and those that nobody asked for.

use std::{
    fs::File,
    io::{self, IoSlice, Read},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering,
};

use cellbus_channels::{Delivery, Reply, Status, from_fn, local::memfd};
use cellbus_proto::local::{Body, Limits, ToCell, ToJob};
use cellbus_runtime::local_socket::{Ended, Options};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::cell_and_job::{
    FakeCell, RawJob, bytes_of, delivery, name, raw_request, serve, settle, target,
};

/// Sends `bytes`, and with the first of them `files`.
fn send_with(job: &RawJob, bytes: &[u8], files: &[&File]) {
    let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(&job.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent.unwrap(), bytes.len());
}

fn attached(id: u64, size: u64) -> ToCell {
    let ToCell::Request { to, channel, topic, .. } = raw_request(id, b"") else {
        unreachable!("it is a request")
    };
    let body = Body { attached: Some(size), ..Body::default() };
    ToCell::Request { id, to, channel, topic, budget_ms: None, body, options: None }
}

#[tokio::test]
async fn up_to_a_mebibyte_that_is_attached_travels_in_the_message() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    let file = memfd::write(&vec![7; 1 << 20]).unwrap();
    send_with(&job, &bytes_of(&attached(1, 1 << 20)), &[&file]);
    let Some(ToJob::Reply { id: 1, body }) = job.receive().await else { panic!("no reply") };
    assert_eq!(body.payload, vec![7; 1 << 20]);
    assert_eq!(cell.sent()[0].payload, vec![7; 1 << 20]);
}

#[tokio::test]
async fn the_rust_client_attaches_what_is_large_and_reads_what_is_attached() {
    let cell = FakeCell::echoing();
    // Replies of the cell are attached from the first byte beyond 100,000.
    let limits = Limits { payload_max: 100_000, ..Limits::default() };
    let served = serve(&cell, Options::default().limits(limits).unwrap());
    let bus = served.connect().await;
    let echo = from_fn(|delivery: Delivery| async { Ok(Reply::from(delivery.payload)) });
    bus.handle(target("task/train"), echo).await.unwrap();
    for len in [0, 99_999, 100_000, 100_001, 1 << 20] {
        let payload = vec![3; len];
        let request = bus.request(name("server"), target("task/fetch")).payload(payload.clone());
        assert_eq!(request.send().await.unwrap().payload, payload, "{len}");
        let reply = cell.deliver(delivery("task/train", payload.clone())).await.unwrap();
        assert_eq!(reply.payload, payload, "{len}");
    }
}

#[tokio::test]
async fn s_36_a_descriptor_that_nobody_asked_for_is_closed() {
    for count in [1, 3, 16] {
        let (cell, alive) = FakeCell::silent();
        let served = serve(&cell, Options::default());
        let mut job = served.welcomed().await;
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = File::from(OwnedFd::from(writer));
        send_with(&job, &bytes_of(&raw_request(1, b"x")), &vec![&writer; count]);
        drop(writer);
        let status = Some(Status::BadFrame);
        assert_eq!(job.receive().await, Some(ToJob::Bye { status }), "{count}");
        assert_eq!(served.ended.await.unwrap(), Ended::Violation(Status::BadFrame));
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "{count}: nobody has the other end");
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn s_36_what_is_attached_must_be_what_it_is_announced_as() {
    let unsealed = memfd::create().unwrap();
    unsealed.set_len(5).unwrap();
    let on_disk = tempfile::tempfile().unwrap();
    on_disk.set_len(5).unwrap();
    let files: [(&str, Option<File>); 4] = [
        ("nothing", None),
        ("not sealed", Some(unsealed)),
        ("a file", Some(on_disk)),
        ("another size", Some(memfd::write(b"four").unwrap())),
    ];
    for (case, file) in files {
        let cell = FakeCell::echoing();
        let served = serve(&cell, Options::default());
        let mut job = served.welcomed().await;
        let frame = bytes_of(&attached(1, 5));
        match &file {
            Some(file) => send_with(&job, &frame, &[file]),
            None => job.send_bytes(&frame).await,
        }
        let status = Some(Status::BadFrame);
        assert_eq!(job.receive().await, Some(ToJob::Bye { status }), "{case}");
        assert_eq!(cell.requested(), 0, "{case}");
    }
}

#[tokio::test]
async fn s_37_job_code_that_attaches_without_end_is_refused_and_holds_no_descriptors() {
    let (cell, alive) = FakeCell::silent();
    let limits = Limits { attachment_max: 1 << 20, attached_max: 4 << 20, ..Limits::default() };
    let served = serve(&cell, Options::default().limits(limits).unwrap());
    let mut job = served.welcomed().await;
    let file = memfd::write(&vec![7; 1 << 20]).unwrap();
    for id in 1..=200 {
        send_with(&job, &bytes_of(&attached(id, 1 << 20)), &[&file]);
        if id > 4 {
            let answer = job.receive().await;
            let refused = matches!(&answer, Some(ToJob::Return { status: Status::Overloaded, .. }));
            assert!(refused, "{answer:?} for {id}");
        }
    }
    // They are read on threads of their own.
    while cell.requested() < 4 {
        settle().await;
    }
    assert_eq!((cell.requested(), alive.load(Ordering::SeqCst)), (4, 4));
    send_with(&job, &bytes_of(&attached(201, (1 << 20) + 1)), &[&file]);
    let status = Some(Status::TooLarge);
    assert_eq!(job.receive().await, Some(ToJob::Bye { status }));
}
