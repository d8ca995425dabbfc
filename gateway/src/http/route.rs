//! Which handler answers which path.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};

use crate::http::{Refused, Router, pages};
use crate::listener::{Admitted, Peer};
use crate::telemetry::labels::Handshake;

const CENTRIFUGE_PATH: &str = "/connection/websocket";
const RAW_PREFIX: &str = "/raw/";
const API_PREFIX: &str = "/api/";
const API_PATH: &str = "/api";

impl Router {
    /// Answers one request. Nothing goes wrong that is not an answer.
    pub(crate) async fn handle(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(self.route(peer, request).await.unwrap_or_else(|refused| {
            self.metrics.handshake(refused.result);
            tracing::debug!(status = refused.status.as_u16(), why = refused.why, "a request was refused");
            refused.into_response()
        }))
    }

    async fn route(&self, peer: &Peer, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refused> {
        let url = request.uri();
        if url.path_and_query().is_some_and(|url| url.as_str().len() > self.url_bytes_max) {
            let why = format!("the path and query are longer than {} bytes", self.url_bytes_max);
            return Err(Refused::new(Handshake::Request, StatusCode::URI_TOO_LONG, why));
        }
        let path = url.path();
        if path == CENTRIFUGE_PATH {
            let admitted = self.let_in(peer, &request)?;
            return self.open_centrifuge(request, admitted);
        }
        if let Some(channel) = path.strip_prefix(RAW_PREFIX) {
            let channel = channel.to_owned();
            let admitted = self.let_in(peer, &request)?;
            return self.open_raw(&channel, request, admitted);
        }
        if path.starts_with(API_PREFIX) || path == API_PATH {
            return Ok(self.api.serve(request).await);
        }
        if self.pages
            && let Some(page) = pages::find(path)
        {
            return Ok(page);
        }
        Err(Refused::new(Handshake::Path, StatusCode::NOT_FOUND, "nothing is here"))
    }

    /// Every check that a client must pass before the handshake itself is looked at.
    fn let_in(&self, peer: &Peer, request: &Request<Incoming>) -> Result<Admitted, Refused> {
        self.check_origin(request)?;
        let address = self.proxies.client_ip(peer.address, request.headers());
        self.admission.admit_client(address, &peer.place).map_err(|refusal| {
            let mut refused =
                Refused::new(refusal.handshake(), StatusCode::TOO_MANY_REQUESTS, refusal.to_string());
            refused.header = Some((header::RETRY_AFTER, HeaderValue::from(refusal.retry_after_seconds())));
            refused
        })
    }

    fn check_origin(&self, request: &Request<Incoming>) -> Result<(), Refused> {
        let text =
            |name| request.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("null"));
        if self.origins.allows(text(header::ORIGIN), text(header::HOST)) {
            return Ok(());
        }
        let why = "pages of this origin may not connect; see http.allowed_origins";
        Err(Refused::new(Handshake::Origin, StatusCode::FORBIDDEN, why))
    }
}

impl Refused {
    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.why + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.extend(self.header);
        response
    }
}

/// The first value of a query parameter, decoded.
pub(super) fn query(request: &Request<Incoming>, name: &str) -> Option<String> {
    let pairs = request.uri().query()?.split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
    Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
}
