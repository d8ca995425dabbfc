//! Decides when the next publication is due: at a fixed rate, whether or not the gateway keeps up.

use std::str::FromStr;
use std::time::Duration;

/// At high rates, publications that become due within this time are sent together.
const TOGETHER: Duration = Duration::from_millis(5);

/// The rate of publications.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum PublishRate {
    PerSecond(f64),
    /// As fast as the gateway takes them.
    Unlimited,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a number followed by /s, /m or /h, such as 100/s, or max")]
pub struct BadRate;

impl FromStr for PublishRate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        if text == "max" {
            return Ok(Self::Unlimited);
        }
        let (number, seconds) = match text.split_once('/') {
            None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
            Some((number, "m")) => (number, 60.0),
            Some((number, "h")) => (number, 3_600.0),
            Some(_) => return Err(BadRate),
        };
        let number: f64 = number.parse().map_err(|_| BadRate)?;
        if number.is_finite() && number > 0.0 { Ok(Self::PerSecond(number / seconds)) } else { Err(BadRate) }
    }
}

/// Counts the publications that are due and those that were taken. The caller measures times from the start.
#[derive(Debug)]
pub(super) struct Pace {
    rate: PublishRate,
    taken: u64,
    /// The time in which there was nothing to publish. Nothing became due in it.
    idle: Duration,
    /// The longest a publication has been overdue when it was taken.
    pub(super) late_max: Duration,
}

impl Pace {
    pub(super) fn new(rate: PublishRate) -> Self {
        Self { rate, taken: 0, idle: Duration::ZERO, late_max: Duration::ZERO }
    }

    /// Returns how many publications are due now, or how long it is until enough are due for a request.
    pub(super) fn due(&self, elapsed: Duration) -> Result<usize, Duration> {
        let PublishRate::PerSecond(rate) = self.rate else { return Ok(usize::MAX) };
        let running = elapsed.saturating_sub(self.idle).as_secs_f64();
        // The first publication is due at once.
        let due = (running * rate) as u64 + 1;
        let worth = (rate * TOGETHER.as_secs_f64()).max(1.0) as u64;
        match due.saturating_sub(self.taken) {
            waiting if waiting >= worth => Ok(usize::try_from(waiting).unwrap_or(usize::MAX)),
            _ => {
                let at = (self.taken + worth - 1) as f64 / rate;
                Err(Duration::try_from_secs_f64(at - running)
                    .unwrap_or_default()
                    .max(Duration::from_micros(100)))
            }
        }
    }

    /// Counts publications that were taken.
    pub(super) fn take(&mut self, elapsed: Duration, count: usize) {
        if let PublishRate::PerSecond(rate) = self.rate {
            let at = Duration::try_from_secs_f64(self.taken as f64 / rate).unwrap_or(Duration::MAX);
            self.late_max = self.late_max.max(elapsed.saturating_sub(self.idle).saturating_sub(at));
        }
        self.taken += count as u64;
    }

    /// Records a time in which there was nothing to take.
    pub(super) fn idle(&mut self, waited: Duration) {
        self.idle += waited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn rates_are_read_by_unit() {
        assert_eq!("100".parse(), Ok(PublishRate::PerSecond(100.0)));
        assert_eq!("2.5/s".parse(), Ok(PublishRate::PerSecond(2.5)));
        assert_eq!("30/m".parse(), Ok(PublishRate::PerSecond(0.5)));
        assert_eq!("max".parse(), Ok(PublishRate::Unlimited));
        for bad in ["", "0", "-1", "x/s", "1/d", "inf", "NaN"] {
            assert_eq!(bad.parse::<PublishRate>(), Err(BadRate), "{bad}");
        }
    }

    #[test]
    fn a_slow_rate_takes_one_at_a_time() {
        let mut pace = Pace::new(PublishRate::PerSecond(10.0));
        assert_eq!(pace.due(ms(0)), Ok(1));
        pace.take(ms(0), 1);
        assert_eq!(pace.due(ms(40)), Err(ms(60)));
        assert_eq!(pace.due(ms(100)), Ok(1));
        pace.take(ms(100), 1);
        assert_eq!(pace.late_max, ms(0));
    }

    #[test]
    fn a_fast_rate_takes_several_together() {
        let mut pace = Pace::new(PublishRate::PerSecond(10_000.0));
        assert_eq!(pace.due(ms(0)), Err(Duration::from_micros(4_900)));
        assert_eq!(pace.due(ms(5)), Ok(51));
        pace.take(ms(5), 51);
        assert!(pace.due(ms(6)).is_err());
    }

    #[test]
    fn what_was_held_up_stays_due_and_counts_as_late() {
        let mut pace = Pace::new(PublishRate::PerSecond(10.0));
        pace.take(ms(0), 1);
        assert_eq!(pace.due(ms(1_000)), Ok(10));
        pace.take(ms(1_000), 10);
        assert_eq!(pace.late_max, ms(900));
    }

    #[test]
    fn time_without_input_brings_no_burst() {
        let mut pace = Pace::new(PublishRate::PerSecond(10.0));
        pace.take(ms(0), 1);
        pace.idle(ms(5_000));
        assert_eq!(pace.due(ms(5_050)), Err(ms(50)));
        assert_eq!(pace.due(ms(5_100)), Ok(1));
    }
}
