//! A holder and its receivers, as far as a relay sees them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use cellbus_channels::{
    Accepted, BoxFuture, Broken, Bytes, Conduit, ConduitHandler, ConduitOptions, ConduitRecv,
    Delivery, Failure, Outgoing, RequestError, Status,
};
use cellbus_harness::net::Net;
use cellbus_proto::{
    codec::Octets,
    transfer::{
        Answer, Digest, Fetch, Piece, PieceReader, Trailer, TransferId, chunk_head, trailer_bytes,
    },
};

const ID: [u8; 16] = [7; 16];
/// A transfer with the same bytes, and one with others, of which the holder says so.
pub const AGAIN: [u8; 16] = [8; 16];
pub const OTHER: [u8; 16] = [9; 16];

/// What a holder has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Who asked, and whether bytes were to follow.
    pub requests: Vec<(String, bool)>,
    /// How often bytes were sent.
    pub copies: usize,
    pub receipts: Vec<Bytes>,
    refused: Option<String>,
}

#[derive(Clone)]
pub struct Holder {
    pub bytes: Bytes,
    seen: Arc<Mutex<Seen>>,
}

impl Holder {
    pub async fn serve(net: &Net, cell: &str, len: usize) -> Self {
        let bytes = (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let holder = Self { bytes, seen: Arc::default() };
        net.cell(cell)
            .running
            .bus()
            .serve_conduits(holder.clone())
            .await
            .expect("nobody else serves");
        holder
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic in between")
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    pub fn refuses(&self, receiver: &str) {
        self.seen().refused = Some(receiver.to_owned());
    }

    async fn run(self, fetch: Fetch, wants_data: bool, mut conduit: Conduit) {
        let gone = async {
            if wants_data {
                self.seen().copies += 1;
                let from = usize::try_from(fetch.offset).expect("a small object");
                let mut chunks = VecDeque::new();
                for start in (from..self.bytes.len()).step_by(100_000) {
                    let chunk = self.bytes.slice(start..self.bytes.len().min(start + 100_000));
                    chunks.push_back(Bytes::copy_from_slice(&chunk_head(chunk.len())));
                    chunks.push_back(chunk);
                    conduit.send.write(&mut chunks).await?;
                }
                let size = self.bytes.len() as u64;
                let trailer = Trailer { size, digest: Digest::of(&self.bytes), generation: 1 };
                conduit.send.write_one(trailer_bytes(&trailer)).await?;
            }
            let mut receipt = Vec::new();
            while conduit.recv.chunks(&mut receipt).await? {}
            self.seen().receipts.push(receipt.concat().into());
            conduit.send.write_one(&[1][..]).await?;
            conduit.send.finish();
            Ok::<(), Broken>(())
        };
        // A receiver that has gone comes again.
        let _ = gone.await;
    }
}

impl ConduitHandler for Holder {
    fn accept(&self, delivery: Delivery, wants_data: bool) -> BoxFuture<Result<Accepted, Failure>> {
        let name = delivery.origin.name.to_string();
        let is_refused = self.seen().refused.as_ref() == Some(&name);
        let holder = self.clone();
        Box::pin(async move {
            if is_refused {
                return Err(Failure::Refused(Status::TopicDenied));
            }
            holder.seen().requests.push((name, wants_data));
            let fetch = Fetch::decode(&delivery.payload).expect("a fetch");
            let size = holder.bytes.len() as u64;
            let answer = Answer {
                id: fetch.id,
                generation: 1,
                size: Some(size),
                size_max: size,
                offset: fetch.offset,
                data: wants_data,
                digest: Some(match *fetch.id.as_bytes() {
                    OTHER => Digest::of(b"others"),
                    _ => holder.digest(),
                }),
            };
            let serve = move |conduit| holder.run(fetch, wants_data, conduit);
            Ok(Accepted::new(answer.encode(), serve))
        })
    }
}

/// What a receiver got.
pub struct Fetched {
    pub bytes: Bytes,
    pub settled: Option<u8>,
}

pub async fn open_fetch(net: &Net, from: &str, offset: u64) -> Result<Conduit, RequestError> {
    open(net, from, offset, ID, None).await
}

/// Asks for the transfer `id`, of which the receiver says that it has this digest.
pub async fn open(
    net: &Net,
    from: &str,
    offset: u64,
    id: [u8; 16],
    digest: Option<Digest>,
) -> Result<Conduit, RequestError> {
    let fetch = Fetch {
        id: TransferId::from_bytes(id),
        generation: 1,
        offset,
        nonce: Octets([1; 16]),
        have: false,
        digest,
    };
    let outgoing = Outgoing {
        payload: fetch.encode(),
        budget: Some(Duration::from_secs(10)),
        ..Outgoing::new("task/fetch".parse().expect("a topic"))
    };
    let options = ConduitOptions { share: Some(id), ..ConduitOptions::default() };
    let bus = net.cell(from).running.bus();
    let (reply, conduit) =
        bus.open_conduit("server".parse().expect("a name"), outgoing, options).await?;
    let answer = Answer::decode(&reply.payload).expect("an answer");
    assert_eq!((answer.generation, answer.offset), (1, offset));
    Ok(conduit)
}

/// Fetches the rest from `offset` on, and gives a receipt.
pub async fn fetch(net: &Net, from: &str, offset: u64) -> Fetched {
    let mut conduit = open_fetch(net, from, offset).await.expect("it is let in");
    let (bytes, end) = read_pieces(&mut conduit.recv).await;
    assert_eq!(end, Ok(()), "{from} has {} bytes", bytes.len());
    conduit.send.write_one(from.as_bytes().to_vec()).await.expect("the holder listens");
    conduit.send.finish();
    let mut rest = Vec::new();
    while conduit.recv.chunks(&mut rest).await == Ok(true) {}
    Fetched { bytes, settled: rest.concat().first().copied() }
}

/// Asks until it is let in. A reader that falls behind its spool at once may have the reset before the answer, which
/// tells it the same: come again.
pub async fn open_again(net: &Net, from: &str, offset: u64) -> Conduit {
    for _ in 0..100 {
        match open_fetch(net, from, offset).await {
            Ok(conduit) => return conduit,
            Err(refused) => assert_eq!(refused.status(), Status::PeerLost),
        }
        net.advance(Duration::from_millis(100)).await;
    }
    panic!("{from} is never let in");
}

/// Takes all that comes, and asks again for what is missing whenever it is cut off.
pub async fn fetch_on(net: &Net, from: &str, mut conduit: Conduit) -> Bytes {
    let mut all = Vec::new();
    loop {
        let (bytes, end) = read_pieces(&mut conduit.recv).await;
        all.extend_from_slice(&bytes);
        match end {
            Ok(()) => return all.into(),
            Err(broken) => assert_eq!(broken, Broken::Lost),
        }
        drop(conduit);
        conduit = open_again(net, from, all.len() as u64).await;
    }
}

/// All data up to the trailer.
pub async fn read_pieces(recv: &mut Box<dyn ConduitRecv>) -> (Bytes, Result<(), Broken>) {
    let (mut reader, mut data, mut chunks) = (PieceReader::new(true), Vec::new(), Vec::new());
    loop {
        match recv.chunks(&mut chunks).await {
            Ok(true) => {}
            Ok(false) => return (data.into(), Err(Broken::Cancelled)),
            Err(broken) => return (data.into(), Err(broken)),
        }
        for mut chunk in chunks.drain(..) {
            while let Some(piece) = reader.read(&mut chunk, u64::MAX).expect("what a holder sends")
            {
                match piece {
                    Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    Piece::Trailer(trailer) => {
                        assert_eq!(trailer.size, trailer.size.max(data.len() as u64));
                        return (data.into(), Ok(()));
                    }
                    Piece::Settlement(_) => panic!("before the trailer"),
                }
            }
        }
    }
}
