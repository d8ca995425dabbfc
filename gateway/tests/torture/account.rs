//! The publications that one subscriber has received, and the checks of what it was promised.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Client, received};
use crate::gateway::PATIENCE;
use crate::ledger::Ledger;

/// The pause before a subscriber tries again where the node cannot serve it.
const AGAIN: Duration = Duration::from_millis(50);

/// A subscriber's record over all its connections.
#[derive(Debug)]
pub struct Account {
    pub channel: String,
    pub name: String,
    ledger: Arc<Ledger>,
    stands: Option<Stands>,
    pub received: u64,
    pub recoveries: u64,
    /// How often it was told that publications may be missing.
    pub told: u64,
    pub heard_the_last: bool,
}

#[derive(Clone, Debug)]
struct Stands {
    epoch: String,
    offset: u64,
    /// Since when it has followed this epoch.
    since: Instant,
}

impl Account {
    pub fn new(ledger: &Arc<Ledger>, channel: &str, name: String) -> Self {
        Self {
            channel: channel.to_owned(),
            name,
            ledger: ledger.clone(),
            stands: None,
            received: 0,
            recoveries: 0,
            told: 0,
            heard_the_last: false,
        }
    }

    /// Subscribes from its position, again and again while the node cannot serve it yet.
    pub async fn subscribe(&mut self, client: &mut Client) {
        let start = Instant::now();
        loop {
            let mut parameters = json!({ "channel": self.channel, "recoverable": true });
            if let Some(stands) = &self.stands {
                parameters["recover"] = json!(true);
                parameters["offset"] = json!(stands.offset);
                parameters["epoch"] = json!(stands.epoch);
            }
            let asked = Instant::now();
            let id = client.ask("subscribe", parameters).await;
            let reply = client.reply(id).await;
            let Some(code) = reply["error"]["code"].as_u64() else {
                return self.begin(asked, &reply["subscribe"]);
            };
            assert!(code == 100 && start.elapsed() < PATIENCE, "{}: {reply}", self.name);
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn begin(&mut self, asked: Instant, subscribed: &Value) {
        let epoch = subscribed["epoch"].as_str().unwrap_or_default().to_owned();
        if subscribed["recovered"] == true {
            self.recoveries += 1;
            let stood = self.stands.clone().expect("it asked from somewhere");
            assert_eq!(stood.epoch, epoch, "{}: recovered in another epoch", self.name);
            for publication in subscribed["publications"].as_array().into_iter().flatten() {
                self.take(publication["offset"].as_u64().unwrap_or(0), &publication["data"]);
            }
            return;
        }
        if let Some(stood) = &self.stands {
            let needless = !self.ledger.may_have_lost(stood.since);
            assert!(!needless, "{} was refused what history must have: {stood:?}, {subscribed}", self.name);
            self.told += 1;
        }
        let offset = subscribed["offset"].as_u64().unwrap_or(0);
        self.stands = Some(Stands { epoch, offset, since: asked });
    }

    fn take(&mut self, offset: u64, data: &Value) {
        let stands = self.stands.as_mut().expect("it has subscribed");
        assert_eq!(
            offset,
            stands.offset + 1,
            "{}: not the next after {} of {}, and it was not told: {data}",
            self.name,
            stands.offset,
            stands.epoch
        );
        stands.offset = offset;
        self.received += 1;
        self.heard_the_last |= data == "the last";
        self.ledger.note(&self.channel, &stands.epoch, offset, data);
    }

    /// Handles a push to the subscriber.
    pub async fn hear(&mut self, client: &mut Client, push: &Value) {
        if push["push"]["unsubscribe"]["code"] == 2500 {
            let since = self.stands.as_ref().map(|stands| stands.since);
            let needless = since.is_some_and(|since| !self.ledger.may_have_lost(since));
            assert!(!needless, "{} was told of a loss that never was: {:?}", self.name, self.stands);
            return self.subscribe(client).await;
        }
        let publication = received(push).unwrap_or_else(|| panic!("{}: no publication: {push}", self.name));
        self.take(publication.offset, &publication.data);
    }
}
