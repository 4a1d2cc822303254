//! How many handshakes go on at the same time, in all and with one address.
//!
//! Who is over a bound is let go at once, and not waited for: whoever can open connections could
//! keep all others out otherwise.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Most handshakes in all.
const MAX_HANDSHAKES: usize = 64;
/// Most handshakes with one address. Several agents may be behind one.
const MAX_OF_ONE: usize = 8;

/// Handshakes that have not ended. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A handshake, until it is dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    all: Handshakes,
    ip: IpAddr,
}

impl Handshakes {
    /// Counts one more; `None` where there are too many.
    pub(super) fn begin(&self, addr: SocketAddr) -> Option<Handshake> {
        let ip = addr.ip().to_canonical();
        let mut going_on = self.0.lock();
        let of_one = going_on.get(&ip).copied().unwrap_or(0);
        if of_one >= MAX_OF_ONE || going_on.values().sum::<usize>() >= MAX_HANDSHAKES {
            return None;
        }
        going_on.insert(ip, of_one + 1);
        let all = self.clone();
        Some(Handshake { all, ip })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut going_on = self.all.0.lock();
        if let Some(count) = going_on.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                going_on.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_handshakes() {
        let handshakes = Handshakes::default();
        let addr = |host: u8, port| SocketAddr::from(([10, 0, 0, host], port));
        let mut first: Vec<_> = (0..8).map(|port| handshakes.begin(addr(1, port))).collect();
        assert!(first.iter().all(Option::is_some));
        assert!(handshakes.begin(addr(1, 9)).is_none());
        let mapped = SocketAddr::from((std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped(), 9));
        assert!(handshakes.begin(mapped).is_none(), "the same address");
        let _others: Vec<_> = (0..56)
            .map(|number| handshakes.begin(addr(2 + number / 8, 1)).unwrap())
            .collect();
        assert!(handshakes.begin(addr(9, 1)).is_none(), "too many in all");
        first.pop();
        let _last = handshakes.begin(addr(9, 1)).unwrap();
        first.clear();
        assert!(handshakes.begin(addr(1, 9)).is_some());
    }
}
