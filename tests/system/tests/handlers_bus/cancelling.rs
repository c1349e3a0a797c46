//! Requests that nobody waits for any longer.

use std::time::Duration;

use cellbus_channels::{HandlerOptions, Reply};

use super::{Diary, both, request, serve, works};

/// Notes that it was dropped.
struct Dropped(Diary);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.note("dropped");
    }
}

async fn endless(net: &cellbus_harness::net::Net) -> Diary {
    let diary = Diary::default();
    let noted = diary.clone();
    serve(net, "server", "task/slow", HandlerOptions::default(), move |_| {
        let dropped = Dropped(noted.clone());
        noted.note("begun");
        async move {
            let _dropped = dropped;
            std::future::pending::<()>().await;
            Ok(Reply::default())
        }
    })
    .await;
    diary
}

#[test]
fn giving_up_drops_the_handler_and_the_next_one_starts() {
    both(|net| async move {
        let diary = endless(&net).await;
        let sent = request(&net, "site-1", "server", "task/slow", "x").send();
        let gave_up = tokio::time::timeout(Duration::from_secs(1), sent).await;
        assert!(gave_up.is_err());
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(diary.read(), ["begun", "dropped"]);
        assert_eq!(net.inspect().await["server"].handling, 0);
        net.finish().await;
    });
}

#[test]
fn giving_up_on_what_waits_means_that_it_is_not_executed() {
    both(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::default()).await;
        let first =
            actix_rt::spawn(request(&net, "site-1", "server", "task/slow", "a 3000").send());
        net.advance(Duration::from_millis(200)).await;
        let second = request(&net, "site-1", "server", "task/slow", "b 0").send();
        assert!(tokio::time::timeout(Duration::from_secs(1), second).await.is_err());
        net.advance(Duration::from_millis(500)).await;
        assert_eq!(net.inspect().await["server"].handling, 1, "nothing waits");
        first.await.unwrap().unwrap();
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(diary.read(), ["+a 3000", "-a 3000"]);
        net.finish().await;
    });
}

#[test]
fn a_handler_that_asks_is_told_and_has_a_second_to_clean_up() {
    both(|net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        serve(&net, "server", "task/slow", HandlerOptions::default(), move |delivery| {
            let diary = noted.clone();
            async move {
                let dropped = Dropped(diary.clone());
                delivery.cancelled().await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                diary.note("cleaned up");
                std::future::pending::<()>().await;
                drop(dropped);
                Ok(Reply::default())
            }
        })
        .await;
        let sent = request(&net, "site-1", "server", "task/slow", "x").send();
        assert!(tokio::time::timeout(Duration::from_secs(1), sent).await.is_err());
        net.advance(Duration::from_millis(700)).await;
        assert_eq!(diary.read(), ["cleaned up"]);
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(diary.read(), ["cleaned up", "dropped"]);
        net.finish().await;
    });
}

#[test]
fn a_cell_cancels_nothing_of_another() {
    both(|net| async move {
        let diary = endless(&net).await;
        let waiting = actix_rt::spawn(
            request(&net, "site-1", "server", "task/slow", "x")
                .budget(Duration::from_secs(4))
                .send(),
        );
        net.advance(Duration::from_millis(500)).await;
        // Another cell's sequence numbers are as good as any: it names all that the first one can have used.
        let cancel = cellbus_proto::codec::body::encode(&cellbus_proto::codec::body::Cancel {
            requests: (0..1000).collect(),
        });
        let target = cellbus_proto::well_known::CANCEL.into();
        let hostile = super::bus(&net, "site-2").request("server".parse().unwrap(), target);
        // Whether it is let out at all is the gate's business; here it must have no effect.
        let _ = hostile.payload(cancel).publish().await;
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(diary.read(), ["begun"]);
        assert!(waiting.await.unwrap().is_err(), "its own budget ends it");
        net.advance(Duration::from_secs(1)).await;
        net.finish().await;
    });
}
