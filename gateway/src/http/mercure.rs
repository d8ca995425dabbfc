//! `/.well-known/mercure`: updates of topics, read as an event stream and published with a form.

use std::sync::Arc;

use gateway_core::hub::Layout;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use shared::protocol::mercure::MercureRequest;

use crate::admission::Peer;
use crate::api::update::{Hub, UpdateError};
use crate::http::head::ConnectHead;
use crate::http::respond::{RefusalResponse, StreamOpening, headers_of_stream};
use crate::http::{Body, HttpRefusal, HttpRouter, TakeOver, cors, whole};
use crate::telemetry::labels::Handshake;

pub(crate) const PATH: &str = "/.well-known/mercure";

pub(super) const METHODS: &str = "GET, POST, OPTIONS";

const LIST_METHODS: &str = "GET, OPTIONS";

/// The link by which the hub announces itself to publishers.
const LINK: &str = "</.well-known/mercure>; rel=\"mercure\"";

const FORM: &str = "application/x-www-form-urlencoded";

impl HttpRouter {
    pub(super) async fn serve_updates(
        self: &Arc<Self>,
        peer: &Peer,
        take_over: &TakeOver,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, HttpRefusal> {
        let Some(hub) = self.hub.clone() else {
            return Err(HttpRefusal::new(
                Handshake::Path,
                StatusCode::NOT_FOUND,
                "there is nothing at this path",
            ));
        };
        if request.uri().path() != PATH {
            return self.list_subscriptions(peer, request, &hub).await;
        }
        match *request.method() {
            Method::POST => self.publish_update(peer, request, &hub).await,
            _ => self.follow_topics(peer, take_over, request, &hub).await,
        }
    }

    /// Opens a client that follows the topics in its URL.
    async fn follow_topics(
        self: &Arc<Self>,
        peer: &Peer,
        take_over: &TakeOver,
        request: Request<Incoming>,
        hub: &Arc<Hub>,
    ) -> Result<Response<Body>, HttpRefusal> {
        let opening = {
            let head = ConnectHead::of(&request);
            self.check_request(&head, METHODS)?;
            let cors = cors::headers(&head);
            let malformed = |why: String| HttpRefusal::malformed(why, &cors);
            let request = MercureRequest::read(head.query.unwrap_or_default(), head.header("last-event-id"))
                .map_err(|unreadable| malformed(unreadable.to_string()))?;
            let bearer = head.bearer().map_err(|why| malformed(why.to_owned()))?;
            let token = bearer.or(request.token()).or_else(|| head.cookie(hub.cookie())).unwrap_or_default();
            let token = token.to_owned();
            let admitted = self.admit(peer, &head)?;
            let mut headers = headers_of_stream(Layout::Events, cors.clone());
            headers.insert(header::LINK, HeaderValue::from_static(LINK));
            StreamOpening {
                layout: Layout::Events,
                headers,
                waits: Some(RefusalResponse::with(cors)),
                watcher: hub.watch(request.topics()),
                first: None,
                connect: Some(Box::new(request.connect(&token, |topic| hub.channel_of(topic)))),
                protocol: self.encodings.mercure(),
                graphql: None,
                admitted,
                origin: self.origin(&head, self.address_of(peer, &head)),
            }
        };
        self.open_stream(take_over, opening, request.version()).await
    }

    /// Lists subscriptions. The requester counts as a client while it is answered.
    async fn list_subscriptions(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
        hub: &Hub,
    ) -> Result<Response<Body>, HttpRefusal> {
        let head = ConnectHead::of(&request);
        self.check_request(&head, LIST_METHODS)?;
        let cors = cors::headers(&head);
        let malformed = |why: &str| HttpRefusal::malformed(why, &cors);
        let bearer = head.bearer().map_err(malformed)?.map(str::to_owned);
        let token = bearer
            .or_else(|| head.form_query("authorization"))
            .or_else(|| head.cookie(hub.cookie()).map(str::to_owned));
        let _admitted = self.admit(peer, &head)?;
        let path = head.path.to_owned();
        drop(head);
        match hub.subscriptions(token.as_deref(), &path).await {
            Err(why) => Err(refused(&why).with(cors::lines(cors))),
            Ok(None) => {
                let refused =
                    HttpRefusal::new(Handshake::Path, StatusCode::NOT_FOUND, "there is no such subscription");
                Err(refused.with(cors::lines(cors)))
            }
            Ok(Some(document)) => {
                let mut response = Response::new(whole(document));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/ld+json"));
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
                headers.insert(header::LINK, HeaderValue::from_static(LINK));
                headers.extend(cors);
                Ok(response)
            }
        }
    }

    /// Publishes an update. The publisher counts as a client while it is served.
    async fn publish_update(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
        hub: &Hub,
    ) -> Result<Response<Body>, HttpRefusal> {
        let (cors, _admitted, token, origin) = {
            let head = ConnectHead::of(&request);
            self.check_request(&head, METHODS)?;
            let cors = cors::headers(&head);
            let refused = |status, why: &str| {
                let refused = HttpRefusal::new(Handshake::Request, status, why);
                Err(refused.with(cors::lines(cors.clone())))
            };
            let bearer = match head.bearer() {
                Ok(bearer) => bearer,
                Err(why) => return refused(StatusCode::BAD_REQUEST, why),
            };
            let of_cookie = if bearer.is_none() { head.cookie(hub.cookie()) } else { None };
            if of_cookie.is_some() && head.header("origin").is_none() {
                // Browsers send cookies on behalf of any page, and name the page in `Origin`.
                return refused(
                    StatusCode::FORBIDDEN,
                    "a request with a token in a cookie must have an Origin header",
                );
            }
            if !head.header("content-type").is_some_and(is_form) {
                let why = "the body of an update must be application/x-www-form-urlencoded";
                return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
            }
            let token = bearer.or(of_cookie).map(str::to_owned);
            let admitted = self.admit(peer, &head)?;
            let origin = self.origin(&head, self.address_of(peer, &head)).unwrap_or_default();
            (cors, admitted, token, origin)
        };
        let form = match self.read_body(request.into_body()).await {
            Ok(form) => form,
            Err(refused) => return Err(refused.with(cors::lines(cors))),
        };
        let id = match hub.publish(token.as_deref(), &form, &origin).await {
            Ok(id) => id,
            Err(why) => return Err(refused(&why).with(cors::lines(cors))),
        };
        let mut response = Response::new(whole(id));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.extend(cors);
        Ok(response)
    }
}

fn is_form(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(FORM.as_bytes())
}

fn refused(why: &UpdateError) -> HttpRefusal {
    let status = match why {
        UpdateError::Invalid(_) | UpdateError::Topic(..) | UpdateError::Data(_) => StatusCode::BAD_REQUEST,
        UpdateError::NoToken | UpdateError::Token(_) => StatusCode::UNAUTHORIZED,
        UpdateError::Forbidden(_) | UpdateError::Unlisted | UpdateError::Denied(_) => StatusCode::FORBIDDEN,
        UpdateError::Busy | UpdateError::Failed => StatusCode::SERVICE_UNAVAILABLE,
    };
    let challenge = (status == StatusCode::UNAUTHORIZED)
        .then(|| (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    HttpRefusal::new(Handshake::Request, status, why.to_string()).with(challenge)
}
