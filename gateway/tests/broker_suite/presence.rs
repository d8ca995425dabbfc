//! Tests presence.

use bytes::Bytes;
use gateway_core::effect::PresenceStats;
use shared::channel::Channel;
use shared::id::{ClientId, UserId};
use shared::publication::ClientInfo;

use crate::harness::{Backend, Node, channel, eventually};

pub fn info(client: u128, user: &str) -> ClientInfo {
    let client = ClientId::from_random(client);
    ClientInfo { client, user: UserId::new(user), conn_info: None, chan_info: None }
}

impl Node {
    pub async fn enter(&self, channel: &Channel, info: &ClientInfo) {
        self.presence.add(channel.clone(), info.clone()).wait().await.expect("added");
    }

    pub async fn leave(&self, channel: &Channel, info: &ClientInfo) {
        self.presence.remove(channel.clone(), info.client);
    }

    pub async fn present(&self, channel: &Channel) -> Vec<ClientInfo> {
        self.presence.clients(channel.clone()).await.expect("clients").into_values().collect()
    }

    pub async fn counts(&self, channel: &Channel) -> (u32, u32) {
        let PresenceStats { clients, users } = self.presence.stats(channel.clone()).await.expect("stats");
        (clients, users)
    }
}

pub async fn who_is_added_is_present_until_removed<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let (a, b) = (channel("a"), channel("}b"));
    let (ann, bob) = (info(1, "ann"), info(2, "bob"));
    assert_eq!((node.present(&a).await, node.counts(&a).await), (vec![], (0, 0)));
    node.enter(&a, &ann).await;
    node.enter(&a, &bob).await;
    node.enter(&b, &ann).await;
    assert_eq!(
        node.present(&a).await,
        if ann.client < bob.client { [ann.clone(), bob.clone()] } else { [bob.clone(), ann.clone()] }
    );
    assert_eq!(node.present(&b).await, std::slice::from_ref(&ann));
    node.leave(&a, &ann).await;
    node.leave(&b, &ann).await;
    node.leave(&b, &bob).await;
    eventually("ann is gone", async || node.present(&a).await == [bob.clone()]).await;
    eventually("nobody is left", async || node.present(&b).await.is_empty()).await;
    assert_eq!((node.counts(&a).await, node.counts(&b).await), ((1, 1), (0, 0)));
}

pub async fn a_client_is_present_once_however_often_it_is_added<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.enter(&a, &info(1, "ann")).await;
    node.enter(&a, &info(1, "ann")).await;
    assert_eq!(node.counts(&a).await, (1, 1));
    let renamed = ClientInfo { conn_info: Some(Bytes::from_static(b"{}")), ..info(1, "anna") };
    node.enter(&a, &renamed).await;
    assert_eq!((node.counts(&a).await, node.present(&a).await), ((1, 1), vec![renamed.clone()]));
    node.leave(&a, &renamed).await;
    eventually("nobody is left", async || node.counts(&a).await == (0, 0)).await;
}

pub async fn users_are_counted_once<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let infos: Vec<_> = (0..3000).map(|number| info(number, &format!("user-{}", number % 700))).collect();
    futures_util::future::join_all(infos.iter().map(|info| node.enter(&a, info))).await;
    assert_eq!(node.counts(&a).await, (3000, 700));
    assert_eq!(node.present(&a).await.len(), 3000);
    for info in &infos[..2300] {
        node.leave(&a, info).await;
    }
    eventually("each user has one client", async || node.counts(&a).await == (700, 700)).await;
    for info in &infos[2300..] {
        node.leave(&a, info).await;
    }
    eventually("nobody is left", async || node.counts(&a).await == (0, 0)).await;
}

pub async fn a_node_that_retires_leaves_nobody_behind<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.enter(&a, &info(1, "ann")).await;
    node.presence.retire().await.expect("retired");
    eventually("nobody is left", async || node.counts(&a).await == (0, 0)).await;
    assert_eq!(node.present(&a).await, []);
}

pub async fn infos_arrive_as_they_were<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let full = ClientInfo {
        client: ClientId::from_random(u128::MAX),
        user: UserId::new("ü\u{0}\r\n"),
        conn_info: Some(Bytes::from_static(b"{\"name\":\"Ann\"}")),
        chan_info: Some(Bytes::from_static(b"[1,2]")),
    };
    let anonymous = info(7, "");
    node.enter(&a, &full).await;
    node.enter(&a, &anonymous).await;
    let present = node.presence.clients(a.clone()).await.expect("clients");
    assert_eq!(present.get(&full.client), Some(&full));
    assert_eq!(present.get(&anonymous.client), Some(&anonymous));
    assert_eq!(node.counts(&a).await, (2, 2));
}
