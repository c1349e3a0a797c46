//! Cells that reach each other through memory.

use std::{
    collections::BTreeMap,
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use cellbus_proto::{
    identity::CellKind,
    name::{ChannelTopic, Fqcn, Segment},
    status::Status,
    transcript::Signable,
    transfer::Digest,
};

use crate::{
    bus::Bus,
    conduit::{
        Conduit, ConduitHandler, ConduitOptions, decide,
        pair::{Breaker, pair},
    },
    error::{HandleError, PublishError, RequestError},
    filter::Filters,
    handler::{Delivery, Failure, Handler, Origin, Reply, Selector},
    transfer::{ServeOptions, Shelf, Transfers},
    transport::{BoxFuture, Outgoing, Transport},
};

/// Seconds since 1970, in every test.
const NOW: u64 = 1_800_000_000;

/// What all cells share.
#[derive(Default)]
pub(super) struct World {
    cells: Mutex<BTreeMap<Fqcn, Arc<Side>>>,
    breakers: Mutex<Vec<Breaker>>,
    /// Conduits that were asked for.
    pub(super) opened: AtomicUsize,
    /// Answers with no way for a conduit.
    pub(super) is_cut: std::sync::atomic::AtomicBool,
    pub(super) later_ms: AtomicU64,
    window: AtomicUsize,
    /// Every request that was sent.
    pub(super) requests: Mutex<Vec<Outgoing>>,
    /// What stands between the two ends of every conduit.
    pub(super) tap: Mutex<Option<Tap>>,
}

pub(super) type Tap = Box<dyn Fn(Conduit) -> Conduit + Send + Sync>;

#[derive(Default)]
struct Side {
    conduits: Mutex<Option<Arc<dyn ConduitHandler>>>,
    handlers: Mutex<BTreeMap<Selector, Arc<dyn Handler>>>,
    shelf: Shelf,
}

struct Memory {
    name: Fqcn,
    world: Arc<World>,
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { window: AtomicUsize::new(256 << 10), ..Self::default() })
    }

    /// The bus of a cell; the same cell for the same name, until it is restarted.
    pub(super) fn bus(self: &Arc<Self>, name: &str) -> Bus {
        let name: Fqcn = name.parse().unwrap();
        self.cells.lock().unwrap().entry(name.clone()).or_default();
        Bus::new(Arc::new(Memory { name, world: Arc::clone(self) }))
    }

    pub(super) fn transfers(self: &Arc<Self>, name: &str) -> Transfers {
        self.bus(name).transfers()
    }

    /// Forgets all that a cell had in memory.
    pub(super) fn restart(&self, name: &str) {
        self.cells.lock().unwrap().remove(name);
    }

    /// Loses every conduit that is open.
    pub(super) fn lose_all(&self) {
        self.breakers.lock().unwrap().drain(..).for_each(|breaker| breaker.lose());
    }

    pub(super) fn conduits(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    fn side(&self, name: &Fqcn) -> Option<Arc<Side>> {
        self.cells.lock().unwrap().get(name).cloned()
    }
}

pub(super) fn origin(name: &Fqcn) -> Origin {
    let (kind, org) = (CellKind::Client, "org".parse().unwrap());
    Origin { name: name.clone(), kind, org, job: None }
}

pub(super) fn target() -> ChannelTopic {
    "model/weights".parse().unwrap()
}

pub(super) fn names(names: &[&str]) -> Vec<Fqcn> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

pub(super) fn to(receivers: &[&str]) -> ServeOptions {
    ServeOptions::new(target(), names(receivers))
}

/// So many bytes, of which no two places look alike.
pub(super) fn whole(len: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn returned(by: &Fqcn, status: Status, detail: Bytes) -> RequestError {
    RequestError::Returned { by: by.clone(), status, detail }
}

fn signature(name: &Fqcn, signable: &[u8]) -> Bytes {
    let signed = [name.as_str().as_bytes(), signable].concat();
    Bytes::copy_from_slice(Digest::of(&signed).as_bytes())
}

impl Transport for Memory {
    fn name(&self) -> Fqcn {
        self.name.clone()
    }

    fn request(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<Reply, RequestError>> {
        let (from, world) = (self.name.clone(), Arc::clone(&self.world));
        world.requests.lock().unwrap().push(outgoing.clone());
        Box::pin(async move {
            let no_route = || returned(&from, Status::NoRoute, Bytes::new());
            let side = world.side(&to).ok_or_else(no_route)?;
            let exact = Selector::Exact(outgoing.target.clone());
            let handler = side.handlers.lock().unwrap().get(&exact).cloned();
            let handler = handler.ok_or_else(|| returned(&to, Status::NoHandler, Bytes::new()))?;
            let mut delivery = Delivery::new(origin(&from), outgoing.target, outgoing.payload);
            delivery.content_type = outgoing.content_type;
            handler.handle(delivery).await.map_err(|failure| match failure {
                Failure::Refused(status) | Failure::Unknown(status) => {
                    returned(&to, status, Bytes::new())
                }
                Failure::Failed(detail) => returned(&to, Status::HandlerFailed, detail),
            })
        })
    }

    fn publish(&self, _to: Fqcn, _outgoing: Outgoing) -> BoxFuture<Result<(), PublishError>> {
        Box::pin(ready(Err(PublishError::Closed)))
    }

    fn register(
        &self,
        selector: Selector,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        let side = self.world.side(&self.name).unwrap();
        side.handlers.lock().unwrap().insert(selector, handler);
        Box::pin(ready(Ok(())))
    }

    fn closed(&self) -> BoxFuture<()> {
        Box::pin(std::future::pending())
    }

    fn open_conduit(
        &self,
        to: Fqcn,
        outgoing: Outgoing,
        _options: ConduitOptions,
    ) -> BoxFuture<Result<(Reply, Conduit), RequestError>> {
        let (from, world) = (self.name.clone(), Arc::clone(&self.world));
        world.opened.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if world.is_cut.load(Ordering::SeqCst) {
                return Err(returned(&from, Status::NoRoute, Bytes::new()));
            }
            let side =
                world.side(&to).ok_or_else(|| returned(&from, Status::NoRoute, Bytes::new()))?;
            let handler = side.conduits.lock().unwrap().clone();
            let handler = handler.ok_or_else(|| returned(&to, Status::NoHandler, Bytes::new()))?;
            let delivery = Delivery::new(origin(&from), outgoing.target, outgoing.payload);
            let accepted = decide(&*handler, &Filters::default(), delivery, true).await;
            let accepted = accepted.map_err(|(status, detail)| returned(&to, status, detail))?;
            let (here, there, breaker) = pair(world.window.load(Ordering::SeqCst));
            world.breakers.lock().unwrap().push(breaker);
            tokio::spawn((accepted.serve)(there));
            let here = match &*world.tap.lock().unwrap() {
                Some(tap) => tap(here),
                None => here,
            };
            Ok((accepted.reply, here))
        })
    }

    fn serve_conduits(
        &self,
        handler: Arc<dyn ConduitHandler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        *self.world.side(&self.name).unwrap().conduits.lock().unwrap() = Some(handler);
        Box::pin(ready(Ok(())))
    }

    fn is_complete(&self) -> bool {
        true
    }

    fn project(&self) -> Option<Segment> {
        Some("study".parse().unwrap())
    }

    fn unix_ms(&self) -> u64 {
        NOW * 1000 + self.world.later_ms.load(Ordering::SeqCst)
    }

    fn shelf(&self) -> Shelf {
        self.world.side(&self.name).map(|side| side.shelf.clone()).unwrap_or_default()
    }

    fn sign(&self, signable: Signable) -> BoxFuture<Result<Bytes, Status>> {
        Box::pin(ready(Ok(signature(&self.name, &signable))))
    }

    fn verify(
        &self,
        signer: Fqcn,
        signable: Signable,
        given: Bytes,
    ) -> BoxFuture<Result<(), RequestError>> {
        let is_good = signature(&signer, &signable) == given;
        let bad = returned(&self.name, Status::BadSignature, Bytes::new());
        Box::pin(ready(is_good.then_some(()).ok_or(bad)))
    }
}
