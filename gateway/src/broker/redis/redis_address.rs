//! Parses `redis.url`. Every part of it is honoured, or refused with an error that does not repeat it.

use std::path::Path;

use percent_encoding::percent_decode_str;
use redis::{ProtocolVersion, RedisConnectionInfo};

use super::redis_config::RedisUrl;
use super::redis_dial::DialError;

const PORT: u16 = 6379;

/// Where Redis is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum RedisAddress {
    Tcp { host: String, port: u16, tls: bool },
    Unix(Box<Path>),
}

impl std::fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// User, password and database of a connection.
#[derive(Debug, Default)]
struct RedisLogin {
    user: Option<String>,
    password: Option<String>,
    database: Option<i64>,
}

impl RedisLogin {
    /// Takes one `name=value` of the query.
    fn take(&mut self, name: &str, value: &str) -> Result<(), DialError> {
        let twice = |what: &str| refused(format!("{what} is given twice"));
        match name {
            "db" => match self.database.replace(database(value)?) {
                None => Ok(()),
                Some(_) => Err(twice("the database")),
            },
            "user" | "username" => match self.user.replace(decoded(value)?) {
                None => Ok(()),
                Some(_) => Err(twice("the user")),
            },
            "pass" | "password" => match self.password.replace(decoded(value)?) {
                None => Ok(()),
                Some(_) => Err(twice("the password")),
            },
            "protocol" if matches!(value, "3" | "resp3") => Ok(()),
            "protocol" => Err(refused("only protocol=resp3 is supported")),
            // The error does not repeat the name: it may be a misplaced secret.
            _ => Err(refused("only db, user and password are allowed as parameters")),
        }
    }
}

fn refused(why: impl Into<String>) -> DialError {
    DialError::Url(why.into())
}

/// Parses the URL into an address and a login.
pub(super) fn parse(url: &RedisUrl) -> Result<(RedisAddress, RedisConnectionInfo), DialError> {
    let text = url.reveal();
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(refused("expected redis://, rediss:// or unix://, then a host"));
    };
    if rest.contains('#') {
        return Err(refused("a # is not allowed; in a password write %23"));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut login = RedisLogin::default();
    let address = match scheme {
        "redis" | "rediss" => tcp(rest, scheme == "rediss", &mut login)?,
        "unix" | "redis+unix" => unix(rest)?,
        _ => return Err(refused("expected redis://, rediss:// or unix://")),
    };
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        login.take(name, value)?;
    }
    if login.user.is_some() && login.password.is_none() {
        return Err(refused(
            "the user has no password; a password without a user is written redis://:password@host",
        ));
    }
    let mut info = RedisConnectionInfo::default()
        .set_db(login.database.unwrap_or(0))
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name();
    if let Some(user) = login.user {
        info = info.set_username(user);
    }
    if let Some(password) = login.password {
        info = info.set_password(password);
    }
    Ok((address, info))
}

/// Parses `[[user]:password@]host[:port][/database]`.
fn tcp(rest: &str, tls: bool, login: &mut RedisLogin) -> Result<RedisAddress, DialError> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let place = match authority.rsplit_once('@') {
        Some((who, place)) => {
            let (user, password) = who.split_once(':').unwrap_or((who, ""));
            let given = |text: &str| (!text.is_empty()).then(|| decoded(text)).transpose();
            (login.user, login.password) = (given(user)?, given(password)?);
            place
        }
        None => authority,
    };
    if path.contains('@') {
        return Err(refused("in a password / ? and # must be written %2F, %3F and %23"));
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.is_empty() {
        login.database = Some(database(path)?);
    }
    let (host, port) = divided(place).map_err(refused)?;
    Ok(RedisAddress::Tcp { host: decoded(host)?, port: port.unwrap_or(PORT), tls })
}

/// Parses `host:port`, both of which are required. The error repeats nothing of the text, which may hold a misplaced secret.
pub(super) fn host_and_port(text: &str) -> Result<(String, u16), &'static str> {
    if text.contains("://") || text.contains('/') {
        return Err("must be host:port, without a scheme or a path");
    }
    if text.contains('@') {
        return Err("must be host:port, without a user or a password: they have settings of their own");
    }
    match divided(text)? {
        (host, Some(_)) if host.contains(':') && !text.starts_with('[') => {
            Err("must have the IPv6 address in brackets, as in [::1]:26379")
        }
        (host, Some(port)) => Ok((host.to_owned(), port)),
        (_, None) => Err("must be host:port, and has no port"),
    }
}

/// Splits `host[:port]` into host and port. Addresses with colons stand in brackets.
fn divided(place: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match place.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or("the host is invalid")?)),
        None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port
        .map(|port| {
            let number = port.parse().ok().filter(|port| *port != 0);
            number.ok_or("the port is not a number from 1 to 65535")
        })
        .transpose()?;
    let odd =
        |character: char| character.is_whitespace() || character.is_control() || ",@[]".contains(character);
    if host.contains(',') {
        return Err("only one host is supported");
    }
    if host.is_empty() || host.contains(odd) {
        return Err("the host is missing or invalid");
    }
    Ok((host, port))
}

fn unix(path: &str) -> Result<RedisAddress, DialError> {
    let path = decoded(path)?;
    if path.is_empty() {
        return Err(refused("the path is missing"));
    }
    Ok(RedisAddress::Unix(Path::new(&path).into()))
}

fn database(text: &str) -> Result<i64, DialError> {
    let number = text.parse::<u32>().ok().map(i64::from);
    number.ok_or_else(|| refused("the database is not a number"))
}

fn decoded(text: &str) -> Result<String, DialError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(String::from).map_err(|_| refused("a % escape is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> (RedisAddress, RedisConnectionInfo) {
        parse(&RedisUrl::new(url)).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn urls_name_host_port_database_user_and_tls() {
        let (address, login) = read("rediss://me:p%40ss@example.org:7000/3");
        assert!(
            matches!(address, RedisAddress::Tcp { ref host, port: 7000, tls: true } if host == "example.org"),
            "{address:?}"
        );
        assert_eq!((login.username(), login.password(), login.db()), (Some("me"), Some("p@ss"), 3));
        assert_eq!(login.protocol(), ProtocolVersion::RESP3);

        let (address, login) = read("redis://[::1]");
        assert!(matches!(address, RedisAddress::Tcp { ref host, port: 6379, tls: false } if host == "::1"));
        assert_eq!((login.username(), login.password(), login.db()), (None, None, 0));
        assert_eq!(read("redis://[::1]:7/").0.to_string(), "[::1]:7");
        let (address, _) = read("unix:///run/redis.sock");
        assert!(matches!(address, RedisAddress::Unix(ref path) if **path == *Path::new("/run/redis.sock")));
    }

    #[test]
    fn what_is_behind_the_question_mark_counts_like_the_rest() {
        for url in [
            "redis://host?db=3&user=me&password=p%26ss",
            "redis://host/3?username=me&pass=p%26ss",
            "redis://me:p%26ss@host/?db=3&protocol=resp3",
            "unix:///run/redis.sock?db=3&user=me&pass=p%26ss",
        ] {
            let (_, login) = read(url);
            assert_eq!(
                (login.username(), login.password(), login.db()),
                (Some("me"), Some("p&ss"), 3),
                "{url}"
            );
        }
        assert_eq!(read("redis://:secret@host").1.password(), Some("secret"));
        assert_eq!(read("redis://a:b:c@host").1.password(), Some("b:c"), "only the first colon divides");
        assert_eq!(read("redis://a:b@c@host").1.password(), Some("b@c"), "only the last @ divides");
    }

    #[test]
    fn a_host_and_a_port_are_read_as_people_write_them() {
        for (text, host, port) in [
            ("one.example:26379", "one.example", 26_379),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("[::1]:7", "::1", 7),
        ] {
            assert_eq!(host_and_port(text), Ok((host.to_owned(), port)));
        }
        for bad in [
            "",
            "one",
            "[::1]",
            "one:0",
            "one:65536",
            ":1",
            "a b:1",
            "me:s3cret@one:1",
            "redis://one:1",
            "one:1/2",
            "::1:7",
        ] {
            let told = host_and_port(bad).expect_err(bad);
            assert!(!told.contains("s3cret"), "{told}");
        }
    }

    #[test]
    fn what_is_not_honoured_is_refused_and_no_secret_is_repeated() {
        for (url, why) in [
            ("", "expected redis://"),
            ("host:6379", "expected redis://"),
            ("http://host", "expected redis://"),
            ("redis://", "host is missing"),
            ("redis://:7", "host is missing"),
            ("redis://a b", "host is missing"),
            ("redis://host:0", "port"),
            ("redis://host:s3cret", "port"),
            ("redis://user:s3cret/more@host", "%2F"),
            ("redis://one:1,two:2", "one host"),
            ("redis://host/name", "not a number"),
            ("redis://host/-1", "not a number"),
            ("redis://host/3/4", "not a number"),
            ("redis://host?db=x", "not a number"),
            ("redis://host?timeout=3", "only db, user and password"),
            ("redis://host?s3cret", "only db, user and password"),
            ("redis://host/1?db=1", "twice"),
            ("redis://:s3cret@host?password=s3cret", "twice"),
            ("redis://me@host", "no password"),
            ("redis://host?user=me", "no password"),
            ("redis://host?protocol=resp2", "resp3"),
            ("rediss://host#insecure", "#"),
            ("redis://:%ff@host", "UTF-8"),
            ("unix://", "path is missing"),
        ] {
            let error = parse(&RedisUrl::new(url)).map(drop).expect_err(url).to_string();
            assert!(error.contains(why) && !error.contains("s3cret"), "{url}: {error}");
        }
    }
}
