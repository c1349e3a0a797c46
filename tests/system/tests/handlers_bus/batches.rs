//! Many small messages in one.

use cellbus_channels::{Failure, HandlerOptions, Status};

use super::{Diary, both, bus, serve, text};

#[test]
fn every_message_of_a_batch_is_handled_on_its_own_and_in_order() {
    both(|net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        serve(&net, "server", "task/count", HandlerOptions::default(), move |delivery| {
            let (diary, item) = (noted.clone(), text(&delivery.payload));
            async move {
                if item.ends_with('3') {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                diary.note(item.clone());
                match item.as_str() {
                    "item 5" => Err(Failure::failed("five")),
                    "item 7" => Err(Status::Draining.into()),
                    _ => Ok(format!("{item} done").into_bytes().into()),
                }
            }
        })
        .await;
        let to = "server".parse().unwrap();
        let queue = bus(&net, "site-1").queue(to, "task/count".parse().unwrap()).open();
        let mut pushed = Vec::new();
        for number in 0..20 {
            pushed.push(queue.enqueue(format!("item {number}")).await.unwrap());
        }
        for (number, outcome) in pushed.into_iter().enumerate() {
            match (number, outcome.await) {
                (5, Err(error)) => assert_eq!(error.status(), Status::HandlerFailed),
                (7, Err(error)) => assert_eq!(error.status(), Status::Draining),
                (number, outcome) => assert_eq!(outcome.unwrap(), format!("item {number} done")),
            }
        }
        queue.close().await;
        let wanted: Vec<String> = (0..20).map(|number| format!("item {number}")).collect();
        assert_eq!(diary.read(), wanted);
        assert!(net.inspect().await["server"].counters.delivered < 15, "few messages, many items");
        net.finish().await;
    });
}
