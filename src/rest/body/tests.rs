//! Who is cut off when the room for long answers is used up.

use std::future::poll_fn;

use bytes::Bytes;

use super::budget::{Bounds, Budget, Giver, Share, Taker};
use crate::tenant::TenantId;

fn shares(most: usize) -> (Share, Share) {
    let budget = Budget::with(Bounds { all: most, per_tenant: most, kept: 0, little: 0 });
    let [one, other] = [(); 2].map(|()| budget.of(&TenantId::random().unwrap()));
    (one, other)
}

/// An answer of which so many bytes were read, each by itself, and none was taken.
async fn held(share: &Share, pieces: usize) -> (Giver, Taker) {
    let (mut giver, taker) = Giver::new(share, 100);
    let mut room = giver.whole(pieces).await;
    for _ in 0..pieces {
        let own = room.split(1);
        giver.give(Bytes::from_static(b"x"), own);
    }
    (giver, taker)
}

async fn take(taker: &Taker) -> Option<Bytes> {
    poll_fn(|cx| taker.poll_take(cx)).await
}

#[tokio::test]
async fn the_tenant_that_holds_most_gives_way_to_another() {
    let (one, other) = shares(8);
    let ((_a, small), (_b, large)) = (held(&one, 3).await, held(&one, 4).await);
    let (mut giver, taker) = held(&other, 1).await;
    let room = giver.room(1).await.expect("room");
    giver.give(Bytes::from_static(b"y"), room);
    assert!(take(&large).await.is_none(), "cut off");
    assert!(take(&small).await.is_some());
    assert_eq!([take(&taker).await.unwrap(), take(&taker).await.unwrap()], ["x", "y"]);
}

#[tokio::test]
async fn a_tenant_that_holds_less_gives_nothing_up() {
    let (one, other) = shares(8);
    let ((mut giver, _a), (_b, taker)) = (held(&one, 6).await, held(&other, 2).await);
    assert!(giver.room(1).await.is_none(), "its own is cut off, after a while");
    drop(giver);
    assert!(take(&taker).await.is_some());
}

#[tokio::test]
async fn a_long_one_takes_the_place_of_one_as_long_that_nobody_takes() {
    let (one, _) = shares(8);
    let ((_a, first), (_b, second)) = (held(&one, 5).await, held(&one, 3).await);
    let (_c, third) = held(&one, 5).await;
    assert!(take(&first).await.is_none());
    assert!(take(&second).await.is_some() && take(&third).await.is_some());
}

#[tokio::test]
async fn who_looked_in_vain_finds_a_stalled_one_later() {
    let (one, _) = shares(8);
    let (_a, taker) = held(&one, 8).await;
    assert!(one.room(1).is_none(), "its client has not been waited for long enough");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert!(one.room(1).is_some());
    assert!(take(&taker).await.is_none(), "cut off");
}

#[tokio::test]
async fn room_comes_back() {
    let (one, _) = shares(2);
    for ended in ["taken", "left", "given up"] {
        let (giver, taker) = held(&one, 2).await;
        match ended {
            "taken" => assert!(take(&taker).await.is_some() && take(&taker).await.is_some()),
            "left" => drop(taker),
            _ => {
                drop(giver);
                assert!(take(&taker).await.is_none(), "what is not whole is cut off");
            }
        }
    }
    // What is longer than all the room there is has it all.
    drop(held(&one, 5).await);
    drop(held(&one, 2).await);
}

#[tokio::test]
async fn a_tenant_has_its_part_and_leaves_the_rest() {
    let bounds = Bounds { all: 100, per_tenant: 60, kept: 20, little: 5 };
    let budget = Budget::with(bounds);
    let [one, other, quiet] = [(); 3].map(|()| budget.of(&TenantId::random().unwrap()));
    let first = one.room(60).expect("its part");
    assert!(one.room(1).is_none() && one.is_used_up());
    assert!(other.room(21).is_none(), "what is kept is for others");
    let second = other.room(20).expect("what is left");
    let third = quiet.room(5).expect("little");
    assert!(quiet.room(1).is_none());
    drop((first, second));
    // Bytes have their room for as long as anybody has them.
    let bytes = third.of(Bytes::from_static(b"xyzzy"));
    let part = bytes.slice(1..2);
    drop(bytes);
    assert!(quiet.room(56).is_none());
    drop(part);
    assert!(quiet.room(56).is_some());
}
