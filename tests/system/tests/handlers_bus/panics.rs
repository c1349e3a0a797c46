//! Handlers that panic.

use std::time::Duration;

use cellbus_channels::{Class, HandlerOptions, Reply, Status};
use cellbus_harness::{guard::LogGuard, net::open_policy};

use super::{both_watched, request, serve, text, works};

#[test]
fn g_40_a_handler_that_panics_ends_its_own_messages_and_after_five_is_given_nothing_until_a_reload()
{
    let log = LogGuard::start();
    log.expect("a handler panicked");
    log.expect("panicked too often");
    log.expect_panic("asked to panic");
    both_watched(|mut net| async move {
        let diary = works(&net, "server", "notes/ping", HandlerOptions::default()).await;
        serve(&net, "server", "task/slow", HandlerOptions::default(), |delivery| async move {
            tokio::task::yield_now().await;
            assert!(!text(&delivery.payload).starts_with("panic"), "asked to panic");
            Ok(Reply::from(delivery.payload))
        })
        .await;
        let before = net.inspect().await["server"].incarnation.clone();
        let asked: Vec<_> = (0..8)
            .map(
                |number| {
                    if number % 2 == 0 { format!("panic {number}") } else { number.to_string() }
                },
            )
            .map(|text| (text.clone(), request(&net, "site-1", "server", "task/slow", &text)))
            .map(|(text, asked)| (text, actix_rt::spawn(asked.send())))
            .collect();
        for (text, outcome) in asked {
            match outcome.await.expect("the panic stays where it is") {
                Ok(reply) => assert_eq!(reply.payload, text, "one that did not panic"),
                Err(error) => {
                    assert!(text.starts_with("panic"), "{text}: {error}");
                    let told = (error.status(), error.class(), error.by().map(ToString::to_string));
                    let by = Some("server".to_owned());
                    assert_eq!(told, (Status::HandlerPanic, Class::Unknown, by));
                }
            }
        }
        let message = request(&net, "site-1", "server", "task/slow", "panic, the fifth");
        message.publish().await.expect("it is accepted");
        net.advance(Duration::from_secs(1)).await;
        let well = || request(&net, "site-1", "server", "task/slow", "well").send();
        let refused = well().await.expect_err("nothing is given to it");
        assert_eq!((refused.status(), refused.class()), (Status::NoHandler, Class::Refused));
        let other = request(&net, "site-3", "server", "notes/ping", "other 0").send().await;
        assert_eq!(other.expect("other channels see nothing of it").payload, "other 0");
        assert_eq!(diary.read(), ["+other 0", "-other 0"]);
        net.advance(Duration::from_secs(1)).await;
        let report = &net.inspect().await["server"];
        assert_eq!((report.handling, &report.incarnation), (0, &before), "the same start goes on");
        net.set_policy(open_policy());
        net.advance(Duration::from_secs(1)).await;
        let reply = request(&net, "site-1", "server", "task/slow", "well").send().await;
        assert_eq!(reply.expect("the rules were loaded again").payload, "well");
        net.finish().await;
    });
}
