//! How many may stand at a join door at once, and how often each may come.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Connections that a door has at most.
pub const CONNECTIONS_MAX: usize = 32;
/// Those of one address.
pub const CONNECTIONS_PER_ADDRESS: u32 = 8;
/// Addresses that are remembered.
pub const ADDRESSES_MAX: usize = 1024;
/// What each connection of an address costs; it may have a minute's worth at once.
const EACH: Duration = Duration::from_secs(1);
const AT_ONCE: Duration = Duration::from_secs(60);

/// Who stands at a door, by address.
#[derive(Debug, Default)]
pub struct Callers {
    by_address: BTreeMap<IpAddr, Caller>,
    open: usize,
}

#[derive(Debug)]
struct Caller {
    open: u32,
    /// When everything it has had is paid for.
    even: Instant,
}

/// Why a caller is sent away before anything is heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// The door has as many connections as it may.
    #[error("too many connections")]
    Connections,
    /// Its address has as many as it may.
    #[error("too many connections of one address")]
    OfAddress,
    /// Its address comes too often.
    #[error("too many requests of one address")]
    TooOften,
    /// Too many addresses have come lately.
    #[error("too many addresses")]
    Addresses,
}

/// One holder of an IPv6 network has all of its addresses.
fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(network).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Callers {
    /// Lets a caller in, whose address has been shown to be its own.
    ///
    /// # Errors
    /// [`Crowded`]; nothing is remembered of it then that was not before.
    pub fn enter(&mut self, address: IpAddr, now: Instant) -> Result<(), Crowded> {
        let address = holder(address);
        if self.open >= CONNECTIONS_MAX {
            return Err(Crowded::Connections);
        }
        if self.by_address.len() >= ADDRESSES_MAX && !self.by_address.contains_key(&address) {
            self.by_address.retain(|_, caller| caller.open > 0 || caller.even > now);
            if self.by_address.len() >= ADDRESSES_MAX {
                return Err(Crowded::Addresses);
            }
        }
        let caller = self.by_address.entry(address).or_insert(Caller { open: 0, even: now });
        if caller.open >= CONNECTIONS_PER_ADDRESS {
            return Err(Crowded::OfAddress);
        }
        let even = caller.even.max(now) + EACH;
        if even > now + AT_ONCE {
            return Err(Crowded::TooOften);
        }
        caller.even = even;
        caller.open += 1;
        self.open += 1;
        Ok(())
    }

    /// A caller that was let in has gone.
    pub fn leave(&mut self, address: IpAddr) {
        if let Some(caller) = self.by_address.get_mut(&holder(address)) {
            caller.open = caller.open.saturating_sub(1);
            self.open = self.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn v4(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    #[test]
    fn v_22_one_address_has_a_minutes_worth_at_once_and_then_one_each_second() {
        let (mut callers, now) = (Callers::default(), at(0));
        for _ in 0..60 {
            callers.enter(v4(1), now).unwrap();
            callers.leave(v4(1));
        }
        assert_eq!(callers.enter(v4(1), now), Err(Crowded::TooOften));
        callers.enter(v4(2), now).unwrap();
        let later = now + Duration::from_secs(1);
        callers.enter(v4(1), later).unwrap();
        assert_eq!(callers.enter(v4(1), later), Err(Crowded::TooOften));
    }

    #[test]
    fn v_22_connections_are_bounded_of_each_address_and_of_all() {
        let (mut callers, now) = (Callers::default(), at(0));
        for _ in 0..CONNECTIONS_PER_ADDRESS {
            callers.enter(v4(1), now).unwrap();
        }
        assert_eq!(callers.enter(v4(1), now), Err(Crowded::OfAddress));
        for other in 2..=25 {
            callers.enter(v4(other), now).unwrap();
        }
        assert_eq!(callers.enter(v4(99), now), Err(Crowded::Connections));
        callers.leave(v4(1));
        callers.enter(v4(99), now).unwrap();
    }

    #[test]
    fn v_22_what_is_remembered_of_addresses_is_bounded_and_forgotten() {
        let (mut callers, now) = (Callers::default(), at(0));
        for number in 0..ADDRESSES_MAX as u32 {
            callers.enter(v4(number), now).unwrap();
            callers.leave(v4(number));
        }
        assert_eq!(callers.enter(v4(5000), now), Err(Crowded::Addresses));
        assert_eq!(callers.by_address.len(), ADDRESSES_MAX);
        callers.enter(v4(0), now).unwrap();
        callers.enter(v4(5000), now + Duration::from_secs(2)).unwrap();
        assert!(callers.by_address.len() < 4, "{}", callers.by_address.len());
    }

    #[test]
    fn v_22_the_addresses_of_one_network_are_one_and_a_mapped_address_is_itself() {
        let (mut callers, now) = (Callers::default(), at(0));
        for host in 0..CONNECTIONS_PER_ADDRESS {
            let address = format!("2001:db8::{:x}", host + 1).parse().unwrap();
            callers.enter(address, now).unwrap();
        }
        let more = "2001:db8::ffff:1".parse().unwrap();
        assert_eq!(callers.enter(more, now), Err(Crowded::OfAddress));
        callers.enter("2001:db8:0:1::1".parse().unwrap(), now).unwrap();
        callers.enter("::ffff:10.0.0.1".parse().unwrap(), now).unwrap();
        assert!(callers.by_address.contains_key(&v4(1)));
    }
}
