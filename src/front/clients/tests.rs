//! Who gives up a place.

use super::*;

fn clients(max_connections: usize, max_per_address: usize) -> Clients {
    let settings = ClientSettings { max_connections, max_per_address, ..ClientSettings::default() };
    let listen = ListenSettings { clients: settings, ..ListenSettings::default() };
    Clients::new(&listen, Metrics::default())
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn is_evicted(client: &Client) -> bool {
    client.is_evicted.load(Ordering::Acquire)
}

#[test]
fn the_oldest_of_the_idle_gives_way() {
    let clients = clients(3, 3);
    let [first, second, third] = [1, 2, 3].map(|last| clients.admit(address(last)).unwrap());
    // Asked, and idle again: younger than the others.
    drop(first.begin());
    let busy = second.begin().unwrap();
    let fourth = clients.admit(address(4)).unwrap();
    assert!(is_evicted(&third) && !is_evicted(&first) && !is_evicted(&second));
    drop(clients.admit(address(5)).unwrap());
    assert!(is_evicted(&first) && !is_evicted(&fourth));
    let also = fourth.begin().unwrap();
    drop(busy);
    second.leave();
    fourth.leave();
    drop(also);
    let places = lock(&clients.0.places);
    assert_eq!(places.len(), 1);
}

#[test]
fn an_address_takes_no_place_of_another() {
    let clients = clients(10, 2);
    let quiet = clients.admit(address(1)).unwrap();
    let own: Vec<_> = (0..5).map(|_| clients.admit(address(2)).unwrap()).collect();
    assert!(!is_evicted(&quiet));
    assert_eq!(own.iter().filter(|client| is_evicted(client)).count(), 3);
    let _busy: Vec<_> = own[3..].iter().map(|client| client.begin().unwrap()).collect();
    assert!(clients.admit(address(2)).is_none() && clients.admit(address(3)).is_some());
    // One that was evicted and goes is not counted twice.
    own[0].leave();
    assert_eq!(lock(&clients.0.places).count(&Kind::of_address(address(2))), 2);
    // The networks of IPv6 count, not the addresses.
    let v6 = |text: &str| Kind::of_address(text.parse().unwrap());
    assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:1"));
    assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
}

#[test]
fn thousands_of_newcomers_take_their_turns() {
    let clients = clients(1000, 1000);
    let all: Vec<_> = (0..5000).map(|_| clients.admit(address(1)).unwrap()).collect();
    let (old, young) = all.split_at(4000);
    assert!(old.iter().all(|client| is_evicted(client)) && !young.iter().any(|client| is_evicted(client)));
}
