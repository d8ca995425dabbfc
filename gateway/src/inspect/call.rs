//! Calls methods of a server API.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::Value;

use crate::exchange::exchange;
use crate::secret::Secret;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0:?} is not a URL of a server API, such as http://127.0.0.1:8000/api")]
    Url(String),
    #[error("the trusted certificates of this system cannot be read: {0}")]
    Roots(std::io::Error),
    #[error("the API key has characters that a header cannot carry")]
    Key,
    #[error("{url}: {problem}")]
    Unreachable { url: Uri, problem: String },
    #[error("{url} did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Late { url: Uri },
    #[error("{url} answered {status}: {body}")]
    Status { url: Uri, status: StatusCode, body: String },
    #[error("the gateway refused the request: {message} ({code})")]
    Refused { code: u32, message: String },
    #[error("the answer of {0} cannot be read: {1}")]
    Answer(Uri, String),
}

pub(crate) struct ApiClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    key: Option<http::HeaderValue>,
}

#[derive(Deserialize)]
struct CallResponse {
    result: Option<Value>,
    error: Option<ApiErrorBody>,
}

#[derive(Deserialize)]
struct ApiErrorBody {
    code: u32,
    message: String,
}

impl ApiClient {
    pub(crate) fn new(url: &str, key: Option<&Secret>) -> Result<Self, CallError> {
        let parsed: Uri = url.parse().map_err(|_| CallError::Url(url.to_owned()))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.host().is_none() {
            return Err(CallError::Url(url.to_owned()));
        }
        let key = key
            .map(|key| http::HeaderValue::from_str(key.reveal()))
            .transpose()
            .map_err(|_| CallError::Key)?
            .map(|mut key| {
                key.set_sensitive(true);
                key
            });
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(CallError::Roots)?
            .https_or_http()
            .enable_http1()
            .build();
        let api = if parsed.path() == "/" { "/api" } else { "" };
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            url: format!("{}{api}", url.trim_end_matches('/')),
            key,
        })
    }

    /// Calls a method, and returns its result.
    pub(crate) async fn call(&self, method: &str, parameters: &Value) -> Result<Value, CallError> {
        let (url, answer) = self.ask(method, parameters).await?;
        match serde_json::from_slice(&answer) {
            Ok(CallResponse { error: Some(ApiErrorBody { code, message }), .. }) => {
                Err(CallError::Refused { code, message })
            }
            Ok(CallResponse { result: Some(result), .. }) => Ok(result),
            Ok(_) => Err(CallError::Answer(url, "it contains no result".to_owned())),
            Err(error) => Err(CallError::Answer(url, error.to_string())),
        }
    }

    /// Calls a method whose answer has no `result`, such as `batch`, and returns the whole answer.
    pub(crate) async fn call_whole(&self, method: &str, parameters: &Value) -> Result<Value, CallError> {
        let (url, answer) = self.ask(method, parameters).await?;
        serde_json::from_slice(&answer).map_err(|error| CallError::Answer(url, error.to_string()))
    }

    async fn ask(&self, method: &str, parameters: &Value) -> Result<(Uri, Bytes), CallError> {
        let url: Uri =
            format!("{}/{method}", self.url).parse().map_err(|_| CallError::Url(self.url.clone()))?;
        let mut request = Request::post(&url).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        let request = request
            .body(Full::new(parameters.to_string().into()))
            .map_err(|_| CallError::Url(self.url.clone()))?;
        let exchange = exchange(&self.client, request, ANSWER_BYTES_MAX);
        let (status, answer) = tokio::time::timeout(REQUEST_TIMEOUT, exchange)
            .await
            .map_err(|_| CallError::Late { url: url.clone() })?
            .map_err(|problem| CallError::Unreachable { url: url.clone(), problem })?;
        if status == StatusCode::OK {
            return Ok((url, answer));
        }
        if let Ok(CallResponse { error: Some(ApiErrorBody { code, message }), .. }) =
            serde_json::from_slice(&answer)
        {
            return Err(CallError::Refused { code, message });
        }
        let body = String::from_utf8_lossy(&answer[..answer.len().min(200)]).trim().to_owned();
        Err(CallError::Status { url, status, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_api_need_not_be_spelled_out() {
        for given in ["http://host:1", "http://host:1/", "http://host:1/api", "http://host:1/api/"] {
            assert_eq!(ApiClient::new(given, None).unwrap().url, "http://host:1/api", "{given}");
        }
        for none in ["", "host", "/api", "ftp://host/"] {
            assert!(matches!(ApiClient::new(none, None), Err(CallError::Url(_))), "{none}");
        }
    }
}
