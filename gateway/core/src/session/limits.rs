//! Rate limits of a client: three token buckets in 24 bytes.

use shared::moment::Moment;

use super::settings::SessionSettings;

/// A token bucket stored as one number: when it will be full again (the generic cell rate algorithm), in nanoseconds
/// since the origin of [`Moment`]. It needs no timer to refill.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes `amount` from the bucket, which holds `burst` and regains `rate` in each `period_ms`. Returns whether the
    /// bucket held that much. A rate of 0 is no limit.
    fn take(&mut self, now: Moment, amount: u64, rate: u32, burst: u32, period_ms: u64) -> bool {
        if rate == 0 {
            return true;
        }
        let now = now.0.saturating_mul(NANOS_PER_MILLI);
        let time_of = |amount: u64| {
            let nanos = u128::from(amount) * u128::from(period_ms);
            let nanos = nanos.saturating_mul(u128::from(NANOS_PER_MILLI));
            u64::try_from(nanos / u128::from(rate)).unwrap_or(u64::MAX)
        };
        let full_at = self.full_at.max(now).saturating_add(time_of(amount));
        let fits = full_at - now <= time_of(u64::from(burst));
        if fits {
            self.full_at = full_at;
        }
        fits
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SessionLimits {
    messages: Bucket,
    bytes: Bucket,
    errors: Bucket,
}

/// The rate limit of events for other subscribers, kept apart because few clients send any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EventLimit(Bucket);

impl EventLimit {
    pub(super) fn allow(&mut self, now: Moment, settings: &SessionSettings) -> bool {
        let rate = settings.client_events_per_second;
        self.0.take(now, 1, rate, rate, SECOND_MS)
    }
}

impl SessionLimits {
    /// Returns whether the client may send one more message of this many bytes. Called before the message is decoded,
    /// so that decoding is limited too.
    pub(super) fn allow_message(&mut self, now: Moment, settings: &SessionSettings, bytes: usize) -> bool {
        self.allow_commands(now, settings, 1)
            && self.bytes.take(now, bytes as u64, settings.bytes_per_second, settings.bytes_burst, SECOND_MS)
    }

    pub(super) fn allow_commands(
        &mut self,
        now: Moment,
        settings: &SessionSettings,
        commands: usize,
    ) -> bool {
        let (rate, burst) = (settings.messages_per_second, settings.messages_burst);
        self.messages.take(now, commands as u64, rate, burst, SECOND_MS)
    }

    pub(super) fn allow_error(&mut self, now: Moment, settings: &SessionSettings) -> bool {
        self.errors.take(now, 1, settings.errors_max, settings.errors_max, settings.errors_window_ms)
    }
}

const SECOND_MS: u64 = 1_000;
const NANOS_PER_MILLI: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_its_rate_after_that() {
        let mut bucket = Bucket::default();
        let mut take = |ms| bucket.take(Moment(ms), 1, 10, 3, SECOND_MS);
        assert!(take(5) && take(5) && take(5));
        assert!(!take(5));
        assert!(!take(104), "a tenth of a second has not passed");
        assert!(take(105));
        assert!(!take(105));
        assert!(take(10_000) && take(10_000) && take(10_000), "it is full again, no fuller");
        assert!(!take(10_000));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let mut bucket = Bucket::default();
        assert!((0..1_000).all(|_| bucket.take(Moment::ZERO, u64::MAX, 0, 0, SECOND_MS)));
    }

    #[test]
    fn the_greatest_numbers_are_refused_without_a_panic() {
        let mut bucket = Bucket::default();
        assert!(!bucket.take(Moment(0), u64::MAX, 1, 1, u64::MAX / 2_000_000));
        assert!(bucket.take(Moment(u64::MAX), 1, u32::MAX, u32::MAX, SECOND_MS));
    }
}
