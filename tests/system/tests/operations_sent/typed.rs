//! Endpoints whose request and reply are types.

use cellbus_channels::{CONTENT_TYPE_MSGPACK, CallError, Endpoint, Failure, Origin, Status};

use super::{bus, name, over_both, target};

const ADD: Endpoint<(u32, u32), u32> = Endpoint::new("task", "count");

#[test]
fn a_typed_call_is_answered_with_a_value_or_says_why_not() {
    over_both(async |net| {
        let add = |(a, b): (u32, u32), origin: Origin| async move {
            assert_eq!(origin.name, name("relay.site-1"));
            a.checked_add(b).ok_or_else(|| Failure::failed("too large"))
        };
        bus(&net, "site-3").serve(&ADD, add).await.unwrap();
        let site = bus(&net, "site-1");
        assert_eq!(site.call(&ADD, name("site-3"), &(2, 3)).await.unwrap(), 5);
        let failed = site.call(&ADD, name("site-3"), &(u32::MAX, 1)).await.unwrap_err();
        assert_eq!(failed.status(), Status::HandlerFailed);
        let nobody = site.call(&ADD, name("server"), &(2, 3)).await.unwrap_err();
        assert!(matches!(nobody, CallError::Request(_)) && nobody.status() == Status::NoHandler);
        net.finish().await;
    });
}

#[test]
fn what_is_no_request_of_an_endpoint_is_refused_before_its_function() {
    over_both(async |net| {
        let never = |_: (u32, u32), _| async { panic!("it was called") };
        let never = move |request, origin| async move {
            let answer: Result<u32, Failure> = never(request, origin).await;
            answer
        };
        bus(&net, "server").serve(&ADD, never).await.unwrap();
        let site = bus(&net, "site-1");
        let good = [0x92, 2, 3];
        for (payload, content_type) in [
            (&good[..], "application/json"),
            (&good[..2], CONTENT_TYPE_MSGPACK),
            (&[0xa1, b'x'][..], CONTENT_TYPE_MSGPACK),
        ] {
            let request = site.request(name("server"), target("task/count"));
            let request = request.payload(payload.to_vec()).content_type(content_type);
            let refused = request.send().await.unwrap_err();
            assert_eq!(refused.status(), Status::FilterError, "{payload:?} {content_type}");
        }
        net.finish().await;
    });
}

#[test]
fn a_reply_that_is_not_what_the_endpoint_promises_is_an_error() {
    over_both(async |net| {
        net.cell("server").echoes("task/count").await;
        let other = bus(&net, "site-1").call(&ADD, name("server"), &(2, 3)).await.unwrap_err();
        assert!(matches!(other, CallError::ContentType(None)), "{other}");
        net.finish().await;
    });
}
