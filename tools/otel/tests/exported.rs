//! What a collector is told of messages between real cells.

use std::time::Duration;

use cellbus_cells::{config, node::Node};
use cellbus_channels::{ChannelTopic, Reply, TraceContext, from_fn};
use cellbus_otel::MessageSpans;
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
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

[[allow]]
from = "site-1"
to = "server"
channel = "task"
topics = ["slow"]
"#;
const PATIENCE: Duration = Duration::from_secs(30);

/// A site sends its server three requests, the first of them without a context.
async fn send_three() {
    let dir = tempfile::tempdir().expect("a directory");
    let topology = config::read("traced.toml", TOPOLOGY).expect("it is valid").topology;
    let mut node = Node::prepare(topology, dir.path().join("state")).expect("it can be prepared");
    let mut start = |cell| node.start(cell).expect("it starts");
    let (server, site) = (start("server"), start("site-1"));
    tokio::time::timeout(PATIENCE, site.ready()).await.expect("it registers");
    let handler = from_fn(|delivery| async move {
        if delivery.payload == "slow" {
            // Ready at the second look, so that it has a task of its own.
            tokio::task::yield_now().await;
        }
        Ok(Reply::from(delivery.payload))
    });
    let target: ChannelTopic = "task/slow".parse().expect("a target");
    server.running().bus().handle(target.clone(), handler).await.expect("it is free");
    let bus = site.running().bus();
    let request =
        |payload: &'static str| bus.request(server.name().clone(), target.clone()).payload(payload);
    let context = [&[0][..], &TRACE, &SENDER].concat();
    let context = TraceContext(context.try_into().expect("25 bytes"));
    request("untraced").send().await.expect("it is answered");
    request("at once").trace(context).send().await.expect("it is answered");
    request("slow").trace(context).send().await.expect("it is answered");
    for cell in [site, server] {
        assert!(cell.running().drain(PATIENCE).await);
    }
    node.finish().await;
}

#[test]
fn the_work_on_a_message_is_a_span_of_the_trace_that_it_carries() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = MessageSpans::new(&provider).filtered();
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    actix_rt::System::new().block_on(send_three());
    let spans = exporter.get_finished_spans().unwrap();
    assert_eq!(spans.len(), 2, "one for each message with a context: {spans:?}");
    for span in &spans {
        assert_eq!(span.span_context.trace_id(), TraceId::from_bytes(TRACE));
        assert_eq!(span.parent_span_id, SpanId::from_bytes(SENDER));
        assert_ne!(span.span_context.span_id(), SpanId::from_bytes(SENDER));
        assert_eq!((span.name.as_ref(), &span.span_kind), ("handle", &SpanKind::Server));
        let said = |key: &str| {
            let found = span.attributes.iter().find(|field| field.key.as_str() == key);
            found.map(|field| field.value.to_string())
        };
        assert_eq!(said("cellbus.cell").as_deref(), Some("server"));
        assert_eq!(said("cellbus.origin").as_deref(), Some("site-1"));
        assert_eq!(said("cellbus.topic").as_deref(), Some("slow"));
        assert!(!format!("{span:?}").contains("at once"), "never the payload");
    }
}
