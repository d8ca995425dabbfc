//! The files of the console's page.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::Full;

use crate::http::pages;

/// The path, the content type and the content of each file.
const FILES: [(&str, &str, &[u8]); 9] = [
    ("/", pages::HTML, include_bytes!("../../console/index.html")),
    ("/console.css", "text/css; charset=utf-8", include_bytes!("../../console/console.css")),
    ("/console.js", pages::JAVASCRIPT, include_bytes!("../../console/console.js")),
    ("/ask.js", pages::JAVASCRIPT, include_bytes!("../../console/ask.js")),
    ("/figures.js", pages::JAVASCRIPT, include_bytes!("../../console/figures.js")),
    ("/morph.js", pages::JAVASCRIPT, include_bytes!("../../console/morph.js")),
    ("/plot.js", pages::JAVASCRIPT, include_bytes!("../../console/plot.js")),
    ("/show.js", pages::JAVASCRIPT, include_bytes!("../../console/show.js")),
    ("/favicon.svg", "image/svg+xml", include_bytes!("../../demo/favicon.svg")),
];

/// Returns the file at this path, if there is one.
pub(super) fn find(path: &str) -> Option<Response<Full<Bytes>>> {
    let (_, kind, content) = FILES.iter().find(|(file, ..)| *file == path)?;
    Some(pages::serve(kind, content))
}

pub(super) fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(value.to_string().into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_name_no_file_that_is_not_there() {
        for (path, _, content) in FILES {
            let text = std::str::from_utf8(content).unwrap();
            let is_file =
                |word: &&str| word.ends_with(".js") || word.ends_with(".css") || word.ends_with(".svg");
            for named in text.split(['"', '\'']).filter(is_file) {
                let named = named.strip_prefix('.').unwrap_or(named);
                assert!(find(named).is_some(), "{path} names {named}");
            }
        }
        assert!(find("/index.html").is_none());
    }
}
