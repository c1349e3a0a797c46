//! Cells that open and serve conduits.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use cellbus_channels::{
    Accepted, BoxFuture, Broken, Bytes, Conduit, ConduitHandler, ConduitOptions, ConduitRecv,
    Delivery, Failure, Outgoing, Reply, RequestError, Status,
};
use cellbus_harness::net::{Net, TestCell};

/// What a cell does with conduits.
#[derive(Clone, Debug)]
pub enum Serving {
    /// Gives back what it reads.
    Echo,
    /// Gives these bytes, and ends.
    Give(Bytes),
    /// Gives these bytes for as long as somebody takes them.
    Flood(Bytes),
    /// Does nothing until both directions have broken.
    Hold,
    /// Lets go right behind its answer.
    LetGoAtOnce,
    /// Lets go when something has come.
    LetGo,
    /// Refuses.
    Refuse(Status),
    /// Panics.
    Panic,
    /// Never answers.
    Never,
}

/// What came to a cell.
#[derive(Debug, Default)]
pub struct Heard {
    pub requests: Vec<String>,
    pub ends: Vec<Broken>,
}

struct Server(Serving, Arc<Mutex<Heard>>);

impl ConduitHandler for Server {
    fn accept(&self, delivery: Delivery, wants_data: bool) -> BoxFuture<Result<Accepted, Failure>> {
        assert!(wants_data);
        let (serving, heard) = (self.0.clone(), Arc::clone(&self.1));
        assert!(!matches!(serving, Serving::Panic), "asked to panic");
        let origin = &delivery.origin;
        heard.lock().expect("no panic in between").requests.push(format!(
            "{} {} {} {}",
            origin.name,
            origin.kind.as_str(),
            origin.org,
            delivery.target
        ));
        Box::pin(async move {
            if let Serving::Refuse(status) = serving {
                return Err(Failure::Refused(status));
            }
            if matches!(serving, Serving::Never) {
                std::future::pending::<()>().await;
            }
            Ok(Accepted::new(delivery.payload, move |conduit| run(serving, conduit, heard)))
        })
    }
}

async fn run(serving: Serving, mut conduit: Conduit, heard: Arc<Mutex<Heard>>) {
    match serving {
        Serving::Echo => {
            let (mut read, mut chunks) = (Vec::new(), VecDeque::new());
            while conduit.recv.chunks(&mut read).await == Ok(true) {
                chunks.extend(read.drain(..));
                if conduit.send.write(&mut chunks).await.is_err() {
                    return;
                }
            }
            conduit.send.finish();
        }
        Serving::Give(bytes) => {
            conduit.send.write_one(bytes).await.expect("it is read");
            conduit.send.finish();
        }
        Serving::Flood(bytes) => {
            let end = conduit.send.write_one(bytes).await;
            heard.lock().expect("no panic in between").ends.extend(end.err());
        }
        Serving::Hold => {
            let end = conduit.send.broken().await;
            heard.lock().expect("no panic in between").ends.push(end);
            let (_, end) = read_all(&mut conduit.recv).await;
            heard.lock().expect("no panic in between").ends.extend(end.err());
        }
        Serving::LetGo => {
            let first = conduit.recv.chunks(&mut Vec::new()).await;
            assert_eq!(first, Ok(true));
        }
        Serving::LetGoAtOnce | Serving::Refuse(_) | Serving::Panic | Serving::Never => {}
    }
}

/// Has a cell serve conduits, and says what comes to it.
pub async fn serve(net: &Net, cell: &str, serving: Serving) -> Arc<Mutex<Heard>> {
    let heard = Arc::<Mutex<Heard>>::default();
    let server = Server(serving, Arc::clone(&heard));
    net.cell(cell).running.bus().serve_conduits(server).await.expect("nobody else serves");
    heard
}

/// An open conduit.
#[derive(Debug)]
pub struct Opened {
    pub reply: Reply,
    pub conduit: Conduit,
}

pub async fn open(net: &Net, from: &str, to: &str) -> Result<Opened, RequestError> {
    open_with(net, from, to, "task/fetch", |_| {}).await
}

pub async fn open_with(
    net: &Net,
    from: &str,
    to: &str,
    target: &str,
    with: impl FnOnce(&mut ConduitOptions),
) -> Result<Opened, RequestError> {
    open_at(net.cell(from), to, target, with).await
}

pub async fn open_at(
    cell: &TestCell,
    to: &str,
    target: &str,
    with: impl FnOnce(&mut ConduitOptions),
) -> Result<Opened, RequestError> {
    let mut options = ConduitOptions::default();
    with(&mut options);
    let outgoing = Outgoing {
        payload: Bytes::from_static(b"as asked"),
        budget: Some(Duration::from_secs(10)),
        ..Outgoing::new(target.parse().expect("a channel and topic"))
    };
    let opened =
        cell.running.bus().open_conduit(to.parse().expect("a cell name"), outgoing, options).await;
    opened.map(|(reply, conduit)| Opened { reply, conduit })
}

/// All that comes, and how it ends.
pub async fn read_all(recv: &mut Box<dyn ConduitRecv>) -> (Bytes, Result<(), Broken>) {
    let mut chunks = Vec::new();
    let end = loop {
        match recv.chunks(&mut chunks).await {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(broken) => break Err(broken),
        }
    };
    (chunks.concat().into(), end)
}

/// So many bytes, of which no two places look alike.
pub fn whole(len: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
