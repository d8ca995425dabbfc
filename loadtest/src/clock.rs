//! The clock of a run: nanoseconds of CLOCK_MONOTONIC, which all threads and processes of a machine share, and an alarm that
//! is finer than a runtime's own timers.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Nanoseconds since some moment before the machine's boot ended. Only differences mean anything.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * NANOS_PER_SECOND + now.tv_nsec as u64
}

pub fn seconds(nanos: u64) -> f64 {
    nanos as f64 / NANOS_PER_SECOND as f64
}

/// Wakes its task at a moment, to some tens of microseconds. A runtime's timers have a resolution of milliseconds, which
/// would be part of every latency of an open-loop schedule.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
}

impl Alarm {
    /// Must be called inside a runtime with IO enabled.
    pub fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "the successor is unsafe for types that may swap their descriptor, which an OwnedFd does not"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer })
    }

    /// Returns at once for a moment that has passed. May be dropped and called again at any time.
    pub async fn wait_until(&self, at_ns: u64) -> io::Result<()> {
        while now_ns() < at_ns {
            let spec = Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: Timespec {
                    tv_sec: (at_ns / NANOS_PER_SECOND) as i64,
                    tv_nsec: (at_ns % NANOS_PER_SECOND) as _,
                },
            };
            timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &spec)?;
            let mut ready = self.timer.readable().await?;
            // Reading clears the expiry. A stale expiry of a dropped wait costs one more turn of the loop.
            let _ = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0; 8][..])?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_alarm_never_rings_early_and_survives_a_dropped_wait() {
        let alarm = Alarm::new().unwrap();
        let far = now_ns() + NANOS_PER_SECOND * 3_600;
        let soon = now_ns() + 3_000_000;
        tokio::select! {
            _ = alarm.wait_until(far) => panic!("an hour has not passed"),
            _ = tokio::task::yield_now() => {}
        }
        alarm.wait_until(soon).await.unwrap();
        assert!(now_ns() >= soon);
        alarm.wait_until(soon).await.unwrap();
    }
}
