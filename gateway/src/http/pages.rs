//! The demo's ticker page and its files, embedded in the program.

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderName, HeaderValue};
use http_body_util::Full;

/// The path, content type and content of each file.
const FILES: [(&str, &str, &[u8]); 6] = [
    ("/", HTML, include_bytes!("../../demo/index.html")),
    ("/ticker.css", "text/css; charset=utf-8", include_bytes!("../../demo/ticker.css")),
    ("/ticker.js", JAVASCRIPT, include_bytes!("../../demo/ticker.js")),
    ("/ticker-client.js", JAVASCRIPT, include_bytes!("../../demo/ticker-client.js")),
    ("/sparkline.js", JAVASCRIPT, include_bytes!("../../demo/sparkline.js")),
    ("/favicon.svg", "image/svg+xml", include_bytes!("../../demo/favicon.svg")),
];

pub(crate) const HTML: &str = "text/html; charset=utf-8";
pub(crate) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Sent with every file. The page may load only these files and connect only to this node, and no other page may embed it.
/// Browsers revalidate each time, so that a new release is seen at once.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-cache"),
];

/// Returns the file at this path, if there is one. The path is the request's, without the query.
pub fn find(path: &str) -> Option<Response<Full<Bytes>>> {
    let (_, kind, content) = FILES.iter().find(|(file, ..)| *file == path)?;
    Some(serve(kind, content))
}

/// Returns a file of a page, restricted to this node.
pub(crate) fn serve(kind: &'static str, content: &'static [u8]) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(content)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn every_file_is_served_as_what_it_is_and_locked_to_this_node() {
        for (path, kind, content) in FILES {
            let response = find(path).unwrap();
            assert_eq!(response.headers()[header::CONTENT_TYPE], kind, "{path}");
            assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
            let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), content, "{path}");
        }
    }

    #[test]
    fn nothing_else_is_found() {
        for path in ["", "/index.html", "/prices.csv", "/../ticker.js", "//", "/ticker.js/", "/Ticker.js"] {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn the_files_name_no_file_that_is_not_there() {
        for (path, _, content) in FILES {
            let text = std::str::from_utf8(content).unwrap();
            for named in
                text.split(['"', '\'']).filter(|word| word.ends_with(".js") || word.ends_with(".css"))
            {
                let named = named.strip_prefix('.').unwrap_or(named);
                assert!(find(named).is_some(), "{path} names {named}");
            }
        }
    }
}
