//! Decides which of several Sentinels to believe: those that know of the latest failover, and among them the majority.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::super::redis_address::RedisAddress;

/// How long a promotion that only a silent Sentinel foretold is believed. Sentinels greet each other every two seconds,
/// so by then the others have heard of the failover, or there is none.
const FORETOLD_FOR: Duration = Duration::from_secs(5);

/// What a Sentinel last reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SentinelView {
    /// The Sentinel has been asked and may still answer.
    Awaited,
    Names(ReportedMaster),
    /// The Sentinel knows no master of this name.
    Unknown,
    /// The Sentinel does not answer, for this reason. The master is the one it named before.
    Silent(Arc<str>, Option<ReportedMaster>),
}

/// The master, as one Sentinel reports it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ReportedMaster {
    pub(super) host: String,
    pub(super) port: u16,
    /// The epoch of the failover that made it the master. It grows with each failover, for which a majority of all
    /// Sentinels is needed.
    pub(super) epoch: u64,
    /// The number of other Sentinels that this Sentinel knows.
    pub(super) others: usize,
    /// The master that the Sentinel itself named, if this report comes from the replica that it told to become the master.
    pub(super) instead_of: Option<Box<ReportedMaster>>,
}

/// The conclusion from all views together.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum MasterVerdict<'a> {
    /// It is too early to decide.
    Awaited,
    /// This is the master. `trouble` says why no Sentinel names a master at present, if none does.
    Master { named: &'a ReportedMaster, trouble: Option<String> },
    /// No Sentinel names a master, for these reasons.
    Nobody(String),
}

impl SentinelView {
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Names(_) | Self::Unknown)
    }

    /// Returns the view of this Sentinel after it has been silent for this time.
    pub(super) fn silenced(&self, why: Arc<str>, silence: Duration) -> Self {
        let last = match self {
            Self::Names(named) => Some(named),
            Self::Silent(_, last) => last.as_ref(),
            Self::Awaited | Self::Unknown => None,
        };
        Self::Silent(why, last.map(|named| named.after(silence)))
    }
}

impl ReportedMaster {
    pub(super) fn address(&self, tls: bool) -> RedisAddress {
        RedisAddress::Tcp { host: self.host.clone(), port: self.port, tls }
    }

    /// Returns what still counts of this report after its Sentinel has been silent for this time: a failover that was
    /// only foretold may have been given up.
    fn after(&self, silence: Duration) -> Self {
        match &self.instead_of {
            Some(last) if silence >= FORETOLD_FOR => (**last).clone(),
            _ => self.clone(),
        }
    }

    fn is_at(&self, address: &RedisAddress) -> bool {
        matches!(address, RedisAddress::Tcp { host, port, .. } if *host == self.host && *port == self.port)
    }
}

/// Combines the views of all Sentinels, each with its Sentinel's address. `followed` is the master known until now.
pub(super) fn decide<'a>(
    name: &str,
    views: &'a [(String, SentinelView)],
    followed: Option<&RedisAddress>,
) -> MasterVerdict<'a> {
    let answers = views.iter().filter(|(_, view)| view.is_answer()).count();
    let names = || {
        views
            .iter()
            .filter_map(|(_, view)| if let SentinelView::Names(named) = view { Some(named) } else { None })
    };
    let known = names().map(|named| named.others + 1).max().unwrap_or(0).max(views.len());
    // The Sentinel that led the last failover may be gone, while one that missed it is back. A majority of Sentinels
    // cannot have missed it.
    let lasting = views.iter().filter_map(|(_, view)| match view {
        SentinelView::Silent(_, Some(last)) if answers * 2 <= known => Some(last),
        _ => None,
    });
    let named: Vec<&ReportedMaster> = names().chain(lasting).collect();
    let Some(epoch) = named.iter().map(|named| named.epoch).max() else {
        let is_awaited = views.iter().any(|(_, view)| *view == SentinelView::Awaited);
        return if is_awaited { MasterVerdict::Awaited } else { MasterVerdict::Nobody(reasons(name, views)) };
    };
    // The first Sentinel to answer may be outdated: as long as no master is followed there is time to wait for others.
    if followed.is_none()
        && answers * 2 <= views.len()
        && views.iter().any(|(_, view)| *view == SentinelView::Awaited)
    {
        return MasterVerdict::Awaited;
    }
    let latest: Vec<&ReportedMaster> = named.into_iter().filter(|named| named.epoch == epoch).collect();
    let stays = followed.and_then(|followed| latest.iter().find(|named| named.is_at(followed)));
    let mut votes: HashMap<(&str, u16), usize> = HashMap::new();
    for named in &latest {
        *votes.entry((&named.host, named.port)).or_default() += 1;
    }
    let most = votes.values().max();
    let named = stays
        .or_else(|| latest.iter().find(|named| votes.get(&(&*named.host, named.port)) == most))
        .or(latest.first());
    match named {
        Some(named) => {
            let trouble = (names().next().is_none()).then(|| reasons(name, views));
            MasterVerdict::Master { named, trouble }
        }
        None => MasterVerdict::Nobody(reasons(name, views)),
    }
}

/// Describes why no Sentinel names a master.
fn reasons(name: &str, views: &[(String, SentinelView)]) -> String {
    let knows_not = views.iter().any(|(_, view)| *view == SentinelView::Unknown);
    let mut text = if knows_not {
        format!("no Sentinel that answers knows a master {name:?} (redis.sentinel_master)")
    } else {
        "no Sentinel answers".to_owned()
    };
    let mut separator = ": ";
    for (at, view) in views {
        if let SentinelView::Silent(why, _) = view {
            let separator = std::mem::replace(&mut separator, "; ");
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}{at}: {why}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(port: u16, epoch: u64) -> SentinelView {
        SentinelView::Names(named(port, epoch))
    }

    fn named(port: u16, epoch: u64) -> ReportedMaster {
        ReportedMaster { host: "10.0.0.1".to_owned(), port, epoch, others: 2, instead_of: None }
    }

    fn silent(before: &SentinelView) -> SentinelView {
        before.silenced("refused".into(), Duration::ZERO)
    }

    fn at(port: u16) -> RedisAddress {
        RedisAddress::Tcp { host: "10.0.0.1".to_owned(), port, tls: false }
    }

    /// Returns the chosen port, given the Sentinels' views and the port that is followed: 0 if the master is still awaited,
    /// or `None` if no Sentinel names one.
    fn decided(views: &[SentinelView], followed: u16) -> Option<u16> {
        let views: Vec<(String, SentinelView)> =
            views.iter().enumerate().map(|(number, view)| (format!("s{number}:1"), view.clone())).collect();
        let followed = (followed != 0).then(|| at(followed));
        match decide("main", &views, followed.as_ref()) {
            MasterVerdict::Awaited => Some(0),
            MasterVerdict::Master { named, .. } => Some(named.port),
            MasterVerdict::Nobody(_) => None,
        }
    }

    #[test]
    fn who_has_heard_of_the_latest_election_is_believed_however_many_have_not() {
        assert_eq!(decided(&[names(1, 3), names(1, 3), names(2, 4)], 1), Some(2));
        assert_eq!(decided(&[names(2, 4), names(1, 3), names(1, 3)], 2), Some(2), "one is cut off and back");
        assert_eq!(decided(&[names(1, 3), names(2, 4), SentinelView::Unknown], 0), Some(2));
    }

    #[test]
    fn of_one_election_the_followed_master_stays_and_else_most_decide() {
        let equal = [names(1, 0), names(2, 0), names(2, 0)];
        assert_eq!(decided(&equal, 1), Some(1));
        assert_eq!(decided(&equal, 0), Some(2));
        assert_eq!(decided(&equal, 7), Some(2));
        assert_eq!(decided(&equal[..2], 0), Some(1), "the first, for want of more");
    }

    #[test]
    fn the_first_to_answer_does_not_decide_alone_while_others_may_answer_still() {
        let (awaited, silent) = (SentinelView::Awaited, silent(&SentinelView::Awaited));
        assert_eq!(decided(&[awaited.clone(), names(1, 3), awaited.clone()], 0), Some(0));
        assert_eq!(decided(&[awaited.clone(), names(1, 3), names(1, 3)], 0), Some(1));
        assert_eq!(decided(&[silent.clone(), names(1, 3), awaited.clone()], 0), Some(0));
        assert_eq!(decided(&[silent.clone(), names(1, 3), silent.clone()], 0), Some(1));
        assert_eq!(decided(&[awaited.clone(), silent.clone(), SentinelView::Unknown], 0), Some(0));
        assert_eq!(decided(&[silent.clone(), silent, SentinelView::Unknown], 0), None);
        assert_eq!(
            decided(&[names(2, 4), awaited.clone(), awaited], 1),
            Some(2),
            "one is followed: no time is lost"
        );
    }

    #[test]
    fn what_one_said_before_it_fell_silent_holds_until_most_say_otherwise() {
        let last = silent(&names(2, 4));
        assert_eq!(decided(&[last.clone(), names(1, 3), silent(&names(1, 3))], 2), Some(2));
        assert_eq!(decided(&[last.clone(), names(1, 0), names(1, 0)], 2), Some(1), "they were set up anew");
        let alone = [last.clone(), names(1, 3)];
        assert_eq!(decided(&alone, 2), Some(2), "there is a third, which is not in the configuration");
        assert_eq!(decided(&[last.clone(), last.clone(), last], 2), Some(2));
    }

    #[test]
    fn an_election_that_a_silent_sentinel_did_not_see_to_its_end_is_not_believed_for_long() {
        let foretold =
            SentinelView::Names(ReportedMaster { instead_of: Some(Box::new(named(1, 3))), ..named(2, 4) });
        let others = [names(1, 3), silent(&names(1, 3))];
        let after = |silence: Duration, view: &SentinelView| {
            let views = [view.silenced("refused".into(), silence), others[0].clone(), others[1].clone()];
            decided(&views, 2)
        };
        assert_eq!(after(Duration::ZERO, &foretold), Some(2));
        let silenced = foretold.silenced("refused".into(), Duration::ZERO);
        assert_eq!(after(FORETOLD_FOR / 2, &silenced), Some(2), "others may be about to say so");
        assert_eq!(after(FORETOLD_FOR, &silenced), Some(1), "they do not");
        let said = names(2, 4).silenced("refused".into(), Duration::ZERO);
        assert_eq!(after(FORETOLD_FOR, &said), Some(2), "what it has said itself has happened");
    }

    #[test]
    fn what_is_missing_is_told_in_words_for_each() {
        let views = |views: &[SentinelView]| -> Vec<(String, SentinelView)> {
            views.iter().map(|view| ("s:1".to_owned(), view.clone())).collect()
        };
        let told = |list: &[SentinelView], followed: Option<&RedisAddress>| match decide(
            "main",
            &views(list),
            followed,
        ) {
            MasterVerdict::Nobody(why) => why,
            MasterVerdict::Master { trouble, .. } => trouble.unwrap_or_default(),
            MasterVerdict::Awaited => "awaited".to_owned(),
        };
        let mute = silent(&SentinelView::Awaited);
        assert_eq!(
            told(&[mute.clone(), mute.clone()], None),
            "no Sentinel answers: s:1: refused; s:1: refused"
        );
        let unknown = told(&[mute, SentinelView::Unknown], None);
        assert!(
            unknown.contains("knows a master \"main\"") && unknown.ends_with("s:1: refused"),
            "{unknown}"
        );
        let gone = silent(&names(1, 3));
        assert!(told(&[gone.clone(), gone.clone()], Some(&at(1))).starts_with("no Sentinel answers"));
        assert_eq!(told(&[gone, names(1, 3)], Some(&at(1))), "");
    }
}
