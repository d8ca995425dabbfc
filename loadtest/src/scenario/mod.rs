//! A run: connections, publications, measurements, and how it is told to end.

mod steady;
mod storm;

use tokio::sync::watch;

pub use steady::run;

/// Tells every stage of a run that it must end, and why.
#[derive(Clone, Debug)]
pub struct Cut(watch::Receiver<Option<&'static str>>);

impl Cut {
    pub fn new() -> (watch::Sender<Option<&'static str>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    pub fn reason(&self) -> Option<&'static str> {
        *self.0.borrow()
    }

    /// Does some work, unless the run is cut short before or meanwhile.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut receiver = self.0.clone();
        let cut = async move {
            if receiver.wait_for(Option::is_some).await.is_err() {
                // Nobody can cut it short any more.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = cut => None,
            result = work => Some(result),
        }
    }
}
