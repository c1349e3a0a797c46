//! 
use cellbus_attacks::*;
#[test]
fn dbg() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        x.token = None;
        let m = x.request("server", "app/near");
        x.send(m).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let r = target.inspect("server").await;
        panic!("{:?} {:?} {:?}", r.counters, r.links.iter().map(|l| (l.queued_bytes, l.peer.clone())).collect::<Vec<_>>(), x.unasked());
    });
}
