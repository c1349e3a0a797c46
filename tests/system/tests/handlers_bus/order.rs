//! Order, and how many at once.

use std::time::Duration;

use cellbus_channels::{Class, HandlerOptions, Reply, Selector, Status, from_fn};

use super::{both, bus, request, serve, works};

#[test]
fn g_11_messages_of_one_cell_and_channel_are_handled_one_at_a_time_in_order() {
    both(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::default()).await;
        let sent = ["a 30", "b 0", "c 10", "d 0"].map(|text| {
            actix_rt::spawn(request(&net, "site-1", "server", "task/slow", text).send())
        });
        for one in sent {
            one.await.unwrap().unwrap();
        }
        let wanted = ["+a 30", "-a 30", "+b 0", "-b 0", "+c 10", "-c 10", "+d 0", "-d 0"];
        assert_eq!(diary.read(), wanted);
        net.finish().await;
    });
}

#[test]
fn g_11_where_more_are_allowed_only_the_start_is_in_order() {
    both(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::concurrent(2)).await;
        let sent = ["a 50", "b 10", "c 10"].map(|text| {
            actix_rt::spawn(request(&net, "site-1", "server", "task/slow", text).send())
        });
        for one in sent {
            one.await.unwrap().unwrap();
        }
        assert_eq!(diary.read(), ["+a 50", "+b 10", "-b 10", "+c 10", "-c 10", "-a 50"]);
        net.finish().await;
    });
}

#[test]
fn g_22_cells_and_channels_do_not_wait_for_each_other() {
    both(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::default()).await;
        let notes = works(&net, "server", "notes/slow", HandlerOptions::default()).await;
        let first =
            actix_rt::spawn(request(&net, "site-1", "server", "task/slow", "a 2000").send());
        net.advance(Duration::from_millis(500)).await;
        let begun = tokio::time::Instant::now();
        request(&net, "site-2", "server", "task/slow", "b 0").send().await.unwrap();
        request(&net, "site-1", "server", "notes/slow", "c 0").send().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!((diary.read().len(), notes.read().len()), (3, 2));
        first.await.unwrap().unwrap();
        net.finish().await;
    });
}

#[test]
fn what_waits_longer_than_its_budget_is_not_executed() {
    both(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::default()).await;
        let first =
            actix_rt::spawn(request(&net, "site-1", "server", "task/slow", "a 3000").send());
        net.advance(Duration::from_millis(500)).await;
        let late = request(&net, "site-1", "server", "task/slow", "b 0");
        let late = late.budget(Duration::from_secs(1)).send().await.unwrap_err();
        assert_eq!((late.status(), late.class()), (Status::Deadline, Class::Unknown));
        first.await.unwrap().unwrap();
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(diary.read(), ["+a 3000", "-a 3000"], "the second never ran");
        net.finish().await;
    });
}

#[test]
fn the_most_specific_handler_is_called_and_no_other() {
    both(|net| async move {
        let server = bus(&net, "server");
        let says = |text: &'static str| {
            from_fn(move |_| async move { Ok(Reply::from(text.as_bytes().to_vec())) })
        };
        server.handle(Selector::All, says("all")).await.unwrap();
        server.handle(Selector::Channel("task".parse().unwrap()), says("channel")).await.unwrap();
        serve(&net, "server", "task/ping", HandlerOptions::default(), |_| async {
            Err(Status::Draining.into())
        })
        .await;
        let ask = async |target| request(&net, "site-1", "server", target, "x").send().await;
        assert_eq!(ask("task/slow").await.unwrap().payload, "channel");
        assert_eq!(ask("notes/slow").await.unwrap().payload, "all");
        let refused = ask("task/ping").await.unwrap_err();
        assert_eq!(refused.status(), Status::Draining, "the exact one, and its refusal stands");
        net.finish().await;
    });
}

#[test]
fn f_41_what_waits_for_its_turn_is_finished_before_the_cell_leaves() {
    both(|mut net| async move {
        let diary = works(&net, "site-1", "task/slow", HandlerOptions::default()).await;
        let sent = ["a 300", "b 300", "c 300"].map(|text| {
            actix_rt::spawn(request(&net, "server", "relay.site-1", "task/slow", text).send())
        });
        net.advance(Duration::from_millis(100)).await;
        net.drain("site-1").await;
        for one in sent {
            one.await.unwrap().unwrap();
        }
        assert_eq!(diary.read().len(), 6);
        net.finish().await;
    });
}
