//! Byes of others, by others, through others.

use bytes::Bytes;
use cellbus_attacks::{Closed, Outcome, RawPeer, attack};
use cellbus_proto::{
    envelope::{Kind, Lane},
    status::Status,
    well_known::BYE,
};

#[test]
fn atk_001_a_bye_for_another_cell_is_refused_without_an_answer() {
    attack(async |target, guard| {
        guard.expect("message refused");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut bye = x.request("server", "task/fetch");
        bye.header.target = BYE.into();
        bye.header.origin = x.address_of("site-2");
        bye.header.lane = Lane::Control;
        bye.header.token = None;
        bye.payload = Bytes::new();
        x.send(bye).await;
        x.settle(Lane::Control).await;
        target.assert_refused(&before, &[("server", Status::OriginMismatch, 1)]).await;
        assert_eq!(x.unasked_messages(), [], "an answer would go to the victim");
    });
}
