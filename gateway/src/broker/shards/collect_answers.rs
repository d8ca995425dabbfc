//! Requests to every server at once, where the answers of some are enough.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::broker::BrokerError;

/// Returns the answers of all servers, or those that arrive within `patience` after the first. Fails if no server succeeded.
pub(crate) async fn gather<T>(
    requests: impl IntoIterator<Item = impl Future<Output = Result<T, BrokerError>>>,
    patience: Duration,
) -> Result<Vec<T>, BrokerError> {
    let mut requests: FuturesUnordered<_> = requests.into_iter().collect();
    let (mut given, mut failed) = (Vec::new(), None);
    let mut deadline = None;
    while let Some(answer) = next(&mut requests, deadline).await {
        match answer {
            Ok(answer) => {
                given.push(answer);
                deadline.get_or_insert_with(|| tokio::time::Instant::now() + patience);
            }
            // An unknown outcome is the worse error to report: the request may have been carried out.
            Err(error) if failed.as_ref().is_none_or(|failed: &BrokerError| !failed.is_outcome_unknown()) => {
                failed = Some(error);
            }
            Err(_) => {}
        }
    }
    match failed {
        Some(error) if given.is_empty() => Err(error),
        _ => Ok(given),
    }
}

/// Sends over one way, and over the next as well if nobody receives the message there, if it fails, or if there is no
/// answer within `patience`. Returns the number of receivers.
pub(in crate::broker) async fn one_after_another(
    mut ways: impl Iterator<Item = impl Future<Output = Result<u32, BrokerError>>>,
    patience: Duration,
) -> Result<u32, BrokerError> {
    let mut requests = FuturesUnordered::new();
    let (mut nobody, mut failed) = (false, None::<BrokerError>);
    loop {
        let next = ways.next();
        let is_last = next.is_none();
        requests.extend(next);
        let answer = if is_last {
            requests.next().await
        } else {
            match tokio::time::timeout(patience, requests.next()).await {
                Ok(answer) => answer,
                // The server hangs: try the next one as well.
                Err(_) => continue,
            }
        };
        match answer {
            Some(Ok(0)) => nobody = true,
            Some(Ok(received)) => return Ok(received),
            // An unknown outcome is the worse error to report: the request may have been carried out.
            Some(Err(error)) if failed.as_ref().is_none_or(|failed| !failed.is_outcome_unknown()) => {
                failed = Some(error);
            }
            None if is_last => break,
            Some(Err(_)) | None => {}
        }
    }
    match failed {
        // A caller that learns that nobody received the message may send it again, so an unknown outcome is an error.
        Some(error) if error.is_outcome_unknown() || !nobody => Err(error),
        _ => Ok(0),
    }
}

/// Returns the next answer, or `None` once all have answered or the deadline has passed.
async fn next<T, F: Future<Output = T>>(
    requests: &mut FuturesUnordered<F>,
    deadline: Option<tokio::time::Instant>,
) -> Option<T> {
    match deadline {
        None => requests.next().await,
        Some(deadline) => tokio::time::timeout_at(deadline, requests.next()).await.ok().flatten(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, pending, ready};

    use super::*;

    type Answer = BoxFuture<'static, Result<u32, BrokerError>>;

    fn gives(answer: Result<u32, BrokerError>) -> Answer {
        ready(answer).boxed()
    }

    fn unreachable() -> Result<u32, BrokerError> {
        Err(BrokerError::Unreachable("gone".into()))
    }

    #[tokio::test]
    async fn one_that_hangs_or_fails_does_not_matter_if_another_answers() {
        let patience = Duration::from_millis(1);
        let requests = [gives(Ok(1)), pending().boxed(), gives(unreachable()), gives(Ok(2))];
        let mut given = gather(requests, patience).await.unwrap();
        given.sort_unstable();
        assert_eq!(given, [1, 2]);
    }

    #[tokio::test]
    async fn if_none_answers_the_error_says_whether_it_may_have_been_done() {
        let unanswered = || gives(Err(BrokerError::unanswered(Duration::ZERO)));
        for requests in [[gives(unreachable()), unanswered()], [unanswered(), gives(unreachable())]] {
            let error = gather(requests, Duration::ZERO).await.unwrap_err();
            assert!(error.is_outcome_unknown(), "{error}");
        }
    }
}
