//! What a collector is told of messages between real cells.

use std::{collections::BTreeMap, time::Duration};

use cellbus_cells::{config, node::Node};
use cellbus_channels::{Bus, ChannelTopic, Fqcn, Reply, TraceContext, from_fn};
use cellbus_otel::{MessageSpans, SpanIds};
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing_subscriber::layer::SubscriberExt as _;

const TRACE: [u8; 16] = [0xa1; 16];
const SENDER: [u8; 8] = [0xb2; 8];
const TOPOLOGY: &str = r#"
[project]
name = "traced"
dev = true

[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:0"

[[cell]]
name = "site-1"
kind = "client"
parent = "server"

[[cell]]
name = "relay"
kind = "relay"
parent = "server"
listen = "127.0.0.1:0"

[[cell]]
name = "far"
kind = "client"
parent = "relay"

[[allow]]
from = "*"
to = "*"
channel = "task"
topics = ["slow", "last"]
"#;
const PATIENCE: Duration = Duration::from_secs(30);

/// A project in which cells run for as long as `during` does.
async fn in_a_project<const N: usize, F: Future>(
    names: [&str; N],
    during: impl FnOnce([Bus; N]) -> F,
) {
    let dir = tempfile::tempdir().expect("a directory");
    let topology = config::read("traced.toml", TOPOLOGY).expect("it is valid").topology;
    let mut node = Node::prepare(topology, dir.path().join("state")).expect("it can be prepared");
    let cells = names.map(|name| node.start(name).expect("it starts"));
    for cell in &cells {
        tokio::time::timeout(PATIENCE, cell.ready()).await.expect("it registers");
    }
    during(cells.each_ref().map(|cell| cell.running().bus())).await;
    for cell in cells.into_iter().rev() {
        assert!(cell.running().drain(PATIENCE).await);
    }
    node.finish().await;
}

fn target(text: &str) -> ChannelTopic {
    text.parse().expect("a target")
}

fn context() -> TraceContext {
    let context = [&[0][..], &TRACE, &SENDER].concat();
    TraceContext(context.try_into().expect("25 bytes"))
}

/// What a collector is told while `work` is done.
fn exported(work: impl Future<Output = ()>) -> Vec<SpanData> {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_id_generator(SpanIds::default());
    let provider = provider.with_simple_exporter(exporter.clone()).build();
    let layer = MessageSpans::new(&provider).filtered();
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    actix_rt::System::new().block_on(work);
    exporter.get_finished_spans().expect("they are in memory")
}

fn said(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|field| field.key.as_str() == key);
    found.map(|field| field.value.to_string())
}

/// A site sends its server three requests, the first of them without a context.
async fn send_three([server, site]: [Bus; 2]) {
    let handler = from_fn(|delivery| async move {
        if delivery.payload == "slow" {
            // Ready at the second look, so that it has a task of its own.
            tokio::task::yield_now().await;
        }
        Ok(Reply::from(delivery.payload))
    });
    server.handle(target("task/slow"), handler).await.expect("it is free");
    let request =
        |payload: &'static str| site.request(server.name(), target("task/slow")).payload(payload);
    request("untraced").send().await.expect("it is answered");
    request("at once").trace(context()).send().await.expect("it is answered");
    request("slow").trace(context()).send().await.expect("it is answered");
}

#[test]
fn the_work_on_a_message_is_a_span_of_the_trace_that_it_carries() {
    let spans = exported(in_a_project(["server", "site-1"], send_three));
    assert_eq!(spans.len(), 2, "one for each message with a context: {spans:?}");
    for span in &spans {
        assert_eq!(span.span_context.trace_id(), TraceId::from_bytes(TRACE));
        assert_eq!(span.parent_span_id, SpanId::from_bytes(SENDER));
        assert_ne!(span.span_context.span_id(), SpanId::from_bytes(SENDER));
        assert_eq!((span.name.as_ref(), &span.span_kind), ("handle", &SpanKind::Server));
        assert_eq!(said(span, "cellbus.cell").as_deref(), Some("server"));
        assert_eq!(said(span, "cellbus.origin").as_deref(), Some("site-1"));
        assert_eq!(said(span, "cellbus.topic").as_deref(), Some("slow"));
        assert!(!format!("{span:?}").contains("at once"), "never the payload");
    }
}

/// A site asks its server, whose handler asks a cell behind a relay: as soon as it is called, after it has waited, from
/// a task of its own, and once in another trace.
async fn send_on([server, _relay, site, far]: [Bus; 4]) {
    let last = from_fn(|delivery| async move { Ok(Reply::from(delivery.payload)) });
    far.handle(target("task/last"), last).await.expect("it is free");
    let (bus, to): (Bus, Fqcn) = (server.clone(), far.name());
    let handler = from_fn(move |delivery| {
        let (bus, to) = (bus.clone(), to.clone());
        async move {
            let ask = || bus.request(to.clone(), target("task/last"));
            ask().send().await.expect("it is answered");
            tokio::task::yield_now().await;
            ask().send().await.expect("it is answered");
            if let Some(trace) = delivery.trace {
                let apart = tokio::spawn(ask().trace(trace).send());
                apart.await.expect("it does not panic").expect("it is answered");
                let other = ask().trace(TraceContext([0xc3; 25]));
                other.send().await.expect("it is answered");
            }
            Ok(Reply::from(delivery.payload))
        }
    });
    server.handle(target("task/slow"), handler).await.expect("it is free");
    let ask = || site.request(server.name(), target("task/slow"));
    ask().trace(context()).send().await.expect("it is answered");
    ask().send().await.expect("it is answered");
}

#[test]
fn what_a_handler_sends_hangs_below_its_own_span_also_through_a_relay() {
    let spans = exported(in_a_project(["server", "relay", "site-1", "far"], send_on));
    let mut of_topic: BTreeMap<String, Vec<&SpanData>> = BTreeMap::new();
    for span in &spans {
        of_topic.entry(said(span, "cellbus.topic").expect("it has one")).or_default().push(span);
    }
    let [asked] = of_topic["slow"].as_slice() else { panic!("one has a trace: {spans:?}") };
    assert_eq!(asked.parent_span_id, SpanId::from_bytes(SENDER));
    let last = &of_topic["last"];
    assert_eq!(last.len(), 4, "what belongs to no trace has no span: {last:?}");
    let own = SpanId::from_bytes([0xc3; 8]);
    let (other, below): (Vec<&SpanData>, Vec<&SpanData>) =
        last.iter().copied().partition(|span| span.parent_span_id == own);
    assert_eq!((other.len(), below.len()), (1, 3), "{last:?}");
    for span in below {
        assert_eq!(span.span_context.trace_id(), TraceId::from_bytes(TRACE));
        assert_eq!(span.parent_span_id, asked.span_context.span_id());
        assert_eq!(said(span, "cellbus.cell").as_deref(), Some("relay.far"));
        assert_eq!(said(span, "cellbus.origin").as_deref(), Some("server"));
    }
    assert_eq!(other[0].span_context.trace_id(), TraceId::from_bytes([0xc3; 16]));
}
