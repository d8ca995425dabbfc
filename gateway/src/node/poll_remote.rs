//! Passes requests of Engine.IO clients on to sessions that other nodes hold.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rustc_hash::FxHashMap;
use tokio::sync::Mutex;

use crate::engine_io::{Nodes, RemotePollReply, RemotePollRequest};
use crate::node::control::NodeInfo;
use crate::node::node_message::{NodeRequest, NodeResponse};
use crate::node::{AskError, Node};

/// For how long the addresses last read are reused.
const ADDRESSES_AGE_MAX: Duration = Duration::from_secs(2);

/// The addresses at which other nodes accept WebSockets, as last read.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<Option<PeerAddresses>>);

#[derive(Debug)]
struct PeerAddresses {
    at: Instant,
    /// By node id.
    addresses: FxHashMap<Box<str>, Box<str>>,
}

#[derive(Debug)]
struct OtherNodes(Weak<Node>);

impl Nodes for OtherNodes {
    fn address(&self, node: &str) -> BoxFuture<'static, Option<Box<str>>> {
        let (here, node) = (self.0.upgrade(), Box::<str>::from(node));
        Box::pin(async move { here?.address_of(&node).await })
    }

    fn ask(
        &self,
        node: &str,
        session: Box<str>,
        polled: RemotePollRequest,
    ) -> BoxFuture<'static, RemotePollReply> {
        let (here, node) = (self.0.upgrade(), Box::<str>::from(node));
        Box::pin(async move {
            match here {
                Some(here) => here.ask_of_session(&node, session, polled).await,
                None => RemotePollReply::Unknown,
            }
        })
    }
}

impl Node {
    /// Lets requests name sessions on other nodes, from now on.
    pub(super) fn pass_polls_on(self: &Arc<Self>) {
        self.engine_io.connect(Arc::new(OtherNodes(Arc::downgrade(self))));
    }

    /// Returns the address at which the node with this id accepts connections of other nodes, if it does.
    pub(crate) async fn address_of(&self, node: &str) -> Option<Box<str>> {
        if *node == *self.id.0 {
            return None;
        }
        // The lock is held while reading, so that callers arriving meanwhile share the answer.
        let mut known = self.addresses.0.lock().await;
        if let Some(PeerAddresses { at, addresses }) = &*known
            && at.elapsed() < ADDRESSES_AGE_MAX
        {
            return addresses.get(node).cloned();
        }
        match self.nodes().await {
            Ok(nodes) => {
                let of = |node: NodeInfo| Some((node.uid, node.takes_in_at?));
                let addresses: FxHashMap<_, _> = nodes.into_iter().filter_map(of).collect();
                let address = addresses.get(node).cloned();
                *known = Some(PeerAddresses { at: Instant::now(), addresses });
                address
            }
            Err(error) => {
                tracing::debug!(%error, "the address at which a node accepts WebSockets is not known");
                None
            }
        }
    }

    async fn ask_of_session(
        &self,
        node: &str,
        session: Box<str>,
        polled: RemotePollRequest,
    ) -> RemotePollReply {
        let waits = matches!(polled, RemotePollRequest::Fetch { .. });
        let permit = waits.then(|| self.asking.fetching.try_acquire());
        if let Some(Err(_)) = permit {
            return RemotePollReply::Unknown;
        }
        match self.ask(node, NodeRequest::Poll { session, polled }).await {
            Ok(NodeResponse::Packets(packets)) => RemotePollReply::Packets(packets),
            Ok(NodeResponse::PacketsPart(part)) => RemotePollReply::Part(part),
            Ok(NodeResponse::Handled) => RemotePollReply::Done,
            Ok(NodeResponse::NoSuchSession) | Err(AskError::UnknownNode) => RemotePollReply::Over,
            Ok(_) => RemotePollReply::Unknown,
            Err(error) => {
                tracing::debug!(%error, "a request over Engine.IO could not be passed on");
                RemotePollReply::Unknown
            }
        }
    }
}
