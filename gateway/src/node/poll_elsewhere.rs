//! What requests over Engine.IO ask of sessions that other nodes have.

use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;

use crate::engine_io::{Answered, Nodes, Polled};
use crate::node::question::{Answer, Question};
use crate::node::{AskError, Node};

#[derive(Debug)]
struct OtherNodes(Weak<Node>);

impl Nodes for OtherNodes {
    fn ask(&self, node: &str, session: Box<str>, polled: Polled) -> BoxFuture<'static, Answered> {
        let (here, node) = (self.0.upgrade(), Box::<str>::from(node));
        Box::pin(async move {
            match here {
                Some(here) => here.ask_of_session(&node, session, polled).await,
                None => Answered::Unknown,
            }
        })
    }
}

impl Node {
    /// From now on requests can name sessions on other nodes.
    pub(super) fn pass_polls_on(self: &Arc<Self>) {
        self.engine_io.connect(Arc::new(OtherNodes(Arc::downgrade(self))));
    }

    async fn ask_of_session(&self, node: &str, session: Box<str>, polled: Polled) -> Answered {
        let waits = matches!(polled, Polled::Fetch { .. });
        let permit = waits.then(|| self.asking.fetching.try_acquire());
        if let Some(Err(_)) = permit {
            return Answered::Unknown;
        }
        match self.ask(node, Question::Poll { session, polled }).await {
            Ok(Answer::Packets(packets)) => Answered::Packets(packets),
            Ok(Answer::Handled) => Answered::Done,
            Ok(Answer::NoSuchSession) | Err(AskError::UnknownNode) => Answered::Over,
            Ok(_) => Answered::Unknown,
            Err(error) => {
                tracing::debug!(%error, "a request over Engine.IO could not be passed on");
                Answered::Unknown
            }
        }
    }
}
