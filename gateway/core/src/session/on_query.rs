//! The commands that only read: history, presence and presence_stats.

use shared::channel::Channel;
use shared::command::{History, Since};
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::ClientInfo;
use shared::reply::Answer;

use super::Session;
use super::session_state::PendingEffect;
use crate::effect::Effect;
use crate::history::{HistoryFilter, HistoryPage};
use crate::reply_bytes::{client_bytes, fitting};

impl Session {
    pub(super) fn on_history(&mut self, now: Moment, id: u32, request: History) {
        let Some(channel) = self.channel(now, id, &request.channel) else { return };
        let context = self.context.clone();
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse_about(now, &channel, id, ErrorCode::UnknownChannel);
        };
        let retention = options.retention();
        if !retention.keeps_history() || options.keeps_keys() {
            return self.refuse_about(now, &channel, id, ErrorCode::NotAvailable);
        }
        // A client that may not see all of the channel's publications may not read its history either.
        let is_narrowed = self.audience(options, &channel, Box::default(), true).is_some();
        if is_narrowed || !self.may_read_history(options, &channel) {
            return self.refuse_about(now, &channel, id, ErrorCode::PermissionDenied);
        }
        let since = request.since.as_ref().map(|since| since.offset);
        if request.reverse && since == Some(0) {
            // There is nothing before the beginning of the stream.
            return self.refuse_about(now, &channel, id, ErrorCode::BadRequest);
        }
        let limit_max = context.settings.history_limit_max;
        let limit = u32::try_from(request.limit).map_or(limit_max, |limit| limit.min(limit_max));
        let enough_bytes = Some(context.settings.reply_bytes_max);
        let filter = HistoryFilter { since, limit, reverse: request.reverse, enough_bytes };
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::History { since: request.since });
        self.effects.push_back(Effect::History { ticket, channel, filter, retention });
    }

    pub(super) fn on_history_read(
        &mut self,
        now: Moment,
        id: u32,
        since: Option<Since>,
        result: Result<HistoryPage, ErrorCode>,
    ) {
        let mut bytes = 0;
        let answer = result.and_then(|HistoryPage { mut publications, top }| {
            let same_stream =
                since.is_none_or(|since| since.epoch.is_empty() || *since.epoch == *top.epoch.as_str());
            if same_stream {
                // The client asks for the rest from where this page ends.
                let room = self.context.settings.reply_bytes_max as usize;
                let count;
                (count, bytes) = fitting(&publications, room);
                publications.truncate(count);
                publications.retain(|publication| self.is_meant(publication));
                Ok(Answer::History { publications, top })
            } else {
                Err(ErrorCode::UnrecoverablePosition)
            }
        });
        self.conclude(now, id, answer);
        self.sent(bytes);
    }

    pub(super) fn on_presence_read(
        &mut self,
        now: Moment,
        id: u32,
        result: Result<Vec<ClientInfo>, ErrorCode>,
    ) {
        let bytes = result.iter().flatten().map(client_bytes).sum();
        let answer = match result {
            Ok(_) if bytes > self.context.settings.presence_bytes_max as usize => {
                return self.refuse(now, id, ErrorCode::LimitExceeded);
            }
            result => result.map(|clients| Answer::Presence { clients }),
        };
        self.conclude(now, id, answer);
        self.sent(bytes);
    }

    pub(super) fn on_presence(&mut self, now: Moment, id: u32, channel: &str) {
        let Some(channel) = self.presence_channel(now, id, channel) else { return };
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Presence);
        self.effects.push_back(Effect::Presence { ticket, channel });
    }

    pub(super) fn on_presence_stats(&mut self, now: Moment, id: u32, channel: &str) {
        let Some(channel) = self.presence_channel(now, id, channel) else { return };
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::PresenceStats);
        self.effects.push_back(Effect::PresenceStats { ticket, channel });
    }

    /// Returns the channel if the client may read its presence. `None` means that the command has been answered.
    fn presence_channel(&mut self, now: Moment, id: u32, channel: &str) -> Option<Channel> {
        let channel = self.channel(now, id, channel)?;
        let refused = match self.context.rules.options(&channel) {
            None => ErrorCode::UnknownChannel,
            Some(options) if !options.presence => ErrorCode::NotAvailable,
            Some(options) if self.may_read_presence(options, &channel) => return Some(channel),
            Some(_) => ErrorCode::PermissionDenied,
        };
        self.refuse_about(now, &channel, id, refused);
        None
    }
}
