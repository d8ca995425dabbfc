//! The API in OpenAPI 3.1, served at `GET /api/openapi.json`.
//!
//! Tests check requests and responses of every method against it.

mod inspect_schemas;
mod schemas;
mod socketio_schemas;

use std::sync::OnceLock;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method as HttpMethod, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};

use super::api_request::Method;

/// The path of the document. It needs no key, because the document is the same on every node.
pub(super) const PATH: &str = "/api/openapi.json";

pub(super) fn serve(method: &HttpMethod) -> Response<Full<Bytes>> {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let is_read = method == HttpMethod::GET || method == HttpMethod::HEAD;
    let body =
        if is_read { TEXT.get_or_init(|| document().to_string().into()).clone() } else { Bytes::new() };
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if !is_read {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for &method in Method::ALL {
        let (request, result) = (schemas::request(method), schemas::result(method));
        let answer = json!({ "oneOf": [object("result", result), reference("ErrorAnswer")] });
        paths.insert(
            format!("/api/{}", method.name()),
            post(method.name(), schemas::summary(method), &request, &answer),
        );
    }
    let batch = "Carries out several commands. The replies are in the order of the commands.";
    paths.insert("/api/batch".to_owned(), post("batch", batch, &schemas::batch(), &schemas::replies()));
    let reload = "Reloads the configuration of the node that receives the request: all changes, or none if there is an error.";
    let answer = json!({ "oneOf": [object("result", schemas::reloaded()), reference("ErrorAnswer")] });
    paths.insert("/api/reload".to_owned(), post("reload", reload, &json!({ "type": "object" }), &answer));
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate server API",
            "version": crate::VERSION,
            "description": "Commands of an application's backend to the gateway. A field that is null counts as missing. Unknown fields are ignored.",
        },
        "security": [{ "header": [] }, { "authorization": [] }, { "query": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "header": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
                "authorization": {
                    "type": "apiKey", "in": "header", "name": "Authorization",
                    "description": "`apikey KEY`",
                },
                "query": {
                    "type": "apiKey", "in": "query", "name": "api_key",
                    "description": "URLs end up in the logs of proxies: a header is better.",
                },
            },
            "schemas": schemas::shared(),
        },
    });
    document
}

fn post(name: &str, summary: &str, request: &Value, answer: &Value) -> Value {
    let error = |why: &str| {
        json!({
            "description": why,
            "content": { "application/json": { "schema": { "oneOf": [reference("ErrorAnswer"), reference("Error")] } } },
        })
    };
    json!({ "post": {
        "operationId": name,
        "summary": summary,
        "parameters": [{
            "name": "X-Centrifugo-Error-Mode", "in": "header", "required": false,
            "description": "With `transport`, the body of an error is the error alone, with a status that depends on the code: 404 for 102 and 104, 400 for 107 and 108, 416 for 112, 500 for 100.",
            "schema": { "type": "string" },
        }],
        "requestBody": { "required": true, "content": { "application/json": { "schema": request } } },
        "responses": {
            "200": {
                "description": "The command was carried out, or refused with an error.",
                "content": { "application/json": { "schema": answer } },
            },
            "400": error("The body cannot be read. In transport mode: the request is invalid."),
            "401": error("The API key is missing or wrong."),
            "404": error("In transport mode: the namespace or the method does not exist."),
            "408": error("The body did not arrive in time."),
            "413": error("The body is too long."),
            "415": error("The body is compressed."),
            "416": error("In transport mode: the requested position is of another epoch."),
            "500": error("In transport mode: the gateway could not carry out the command."),
            "503": error("The node serves too many requests or is stopping. Nothing was carried out."),
        },
    } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Returns the schema of an object with this one field.
fn object(field: &str, schema: Value) -> Value {
    json!({ "type": "object", "required": [field], "properties": { field: schema } })
}
