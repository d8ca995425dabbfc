//! The modes of Redis, which say how many servers there are and how the one in use is found, and the settings of each mode.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cluster::slots::SLOTS;
use super::redis_address::{self, RedisAddress};
use super::redis_config::{RedisConfig, RedisUrl};
use crate::secret::Secret;
use crate::setting::Faults;

/// The most addresses: more are a mistake.
const ADDRESSES_MAX: usize = 32;

/// Characters that Sentinel accepts in the name of a master, beside letters and digits.
const NAME_CHARACTERS: &[u8] = b".-_";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisMode {
    #[default]
    Single,
    Sentinel,
    Shards,
    Cluster,
}

impl RedisMode {
    fn word(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Sentinel => "sentinel",
            Self::Shards => "shards",
            Self::Cluster => "cluster",
        }
    }
}

/// Reports settings that do not fit the mode, and those that the mode lacks.
pub(super) fn check(config: &RedisConfig, faults: &mut Faults) {
    match config.mode {
        RedisMode::Single => {
            let parsed = redis_address::parse(&config.url);
            let is_tls = match &parsed {
                Err(error) => {
                    faults.add("url", error.to_string());
                    None
                }
                Ok((address, login)) => {
                    let has_login = login.username().is_some() || login.password().is_some();
                    if has_login && config.password_file.is_some() {
                        faults.add(
                            "password_file",
                            "must not be set together with a user or a password in url",
                        );
                    }
                    Some(matches!(address, RedisAddress::Tcp { tls: true, .. }))
                }
            };
            if is_tls == Some(false) {
                files_without_tls(config, "url must begin with rediss://", faults);
            }
            only_in_other_modes(config, faults);
        }
        RedisMode::Sentinel => {
            no_url(config, faults);
            addresses(config, "each Sentinel", faults);
            login("", &config.user, &config.password, config.password_file.as_ref(), faults);
            sentinel(config, faults);
            if !config.tls && !config.sentinel_tls {
                files_without_tls(config, "tls or sentinel_tls must be true", faults);
            }
        }
        RedisMode::Shards | RedisMode::Cluster => {
            no_url(config, faults);
            addresses(config, "each server", faults);
            login("", &config.user, &config.password, config.password_file.as_ref(), faults);
            if !config.tls {
                files_without_tls(config, "tls must be true", faults);
            }
        }
    }
    if config.mode == RedisMode::Cluster {
        if config.database != 0 {
            faults.add("database", "must be 0: a cluster has no other databases");
        }
        let partitions = u64::from(config.cluster_partitions);
        faults.outside("cluster_partitions", partitions, 1..=u64::from(SLOTS));
    } else if config.cluster_partitions != RedisConfig::default().cluster_partitions {
        faults.add("cluster_partitions", "is only for mode = \"cluster\"");
    }
    if config.mode != RedisMode::Sentinel {
        for key in of_sentinels(config) {
            faults.add(key, "is only for mode = \"sentinel\"");
        }
    }
}

fn files_without_tls(config: &RedisConfig, needed: &str, faults: &mut Faults) {
    for (key, file) in [
        ("ca_file", &config.ca_file),
        ("client_cert_file", &config.client_cert_file),
        ("client_key_file", &config.client_key_file),
    ] {
        if file.is_some() {
            faults.add(key, format!("has no effect without TLS: {needed}"));
        }
    }
}

/// In mode `single` the URL says all of this, except for a password that is in a file.
fn only_in_other_modes(config: &RedisConfig, faults: &mut Faults) {
    if !config.addresses.is_empty() {
        faults.add("addresses", "is not for mode = \"single\": set url");
    }
    for (key, is_set) in [
        ("user", !config.user.is_empty() && config.password_file.is_none()),
        ("password", !config.password.is_empty()),
        ("database", config.database != 0),
        ("tls", config.tls),
    ] {
        if is_set {
            faults.add(key, "is not for mode = \"single\": set it in url");
        }
    }
}

/// Other modes do not use the URL.
fn no_url(config: &RedisConfig, faults: &mut Faults) {
    if config.url != RedisConfig::default().url {
        let problem = format!(
            "is only for mode = \"single\": with \"{}\", set addresses, and user, password, database and tls where \
             necessary",
            config.mode.word()
        );
        faults.add("url", problem);
    }
}

fn addresses(config: &RedisConfig, whose: &str, faults: &mut Faults) {
    if config.addresses.is_empty() {
        faults.add("addresses", format!("must list host:port of {whose}"));
    }
    if config.addresses.len() > ADDRESSES_MAX {
        faults.add("addresses", format!("must have at most {ADDRESSES_MAX} entries"));
    }
    for (number, text) in config.addresses.iter().enumerate() {
        let key = format!("addresses.{number}");
        match redis_address::host_and_port(text) {
            Err(problem) => faults.add(key, problem),
            Ok(_) if config.addresses[..number].iter().any(|other| other.eq_ignore_ascii_case(text)) => {
                faults.add(key, "is listed twice")
            }
            Ok(_) => {}
        }
    }
}

fn login(prefix: &str, user: &str, password: &Secret, file: Option<&PathBuf>, faults: &mut Faults) {
    if !password.is_empty() && file.is_some() {
        faults
            .add(format!("{prefix}password_file"), format!("must not be set together with {prefix}password"));
    }
    if !user.is_empty() && password.is_empty() && file.is_none() {
        faults.add(format!("{prefix}user"), format!("needs {prefix}password or {prefix}password_file"));
    }
}

fn sentinel(config: &RedisConfig, faults: &mut Faults) {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || NAME_CHARACTERS.contains(&byte);
    if config.sentinel_master.is_empty() {
        faults.add(
            "sentinel_master",
            "must be set to the NAME in the line `sentinel monitor NAME …` of the Sentinels' configuration",
        );
    } else if !config.sentinel_master.bytes().all(is_name) {
        faults.add("sentinel_master", "must consist of letters, digits and .-_, as Sentinel requires");
    }
    let file = config.sentinel_password_file.as_ref();
    login("sentinel_", &config.sentinel_user, &config.sentinel_password, file, faults);
}

/// Returns the keys of all settings for Sentinel that are set.
fn of_sentinels(config: &RedisConfig) -> impl Iterator<Item = &'static str> {
    let keys = [
        ("sentinel_master", !config.sentinel_master.is_empty()),
        ("sentinel_user", !config.sentinel_user.is_empty()),
        ("sentinel_password", !config.sentinel_password.is_empty()),
        ("sentinel_password_file", config.sentinel_password_file.is_some()),
        ("sentinel_tls", config.sentinel_tls),
    ];
    keys.into_iter().filter_map(|(key, is_set)| is_set.then_some(key))
}

impl RedisConfig {
    /// Returns the same timeouts and TTLs for another URL. Settings about the location of this Redis are left out.
    pub(crate) fn at(&self, url: RedisUrl) -> Self {
        let Self { prefix, timeout_ms, ping_ms, reconnect_max_ms, position_ttl_s, presence_ttl_s, .. } =
            self.clone();
        Self {
            url,
            prefix,
            timeout_ms,
            ping_ms,
            reconnect_max_ms,
            position_ttl_s,
            presence_ttl_s,
            ..Self::default()
        }
    }

    /// Returns, with `mode = "shards"`, the name of each server and the settings that lead to it alone. Names are in
    /// lower case, because hosts are the same however they are spelt.
    pub(crate) fn shards(&self) -> Vec<(Arc<str>, Self)> {
        let alone = |address: &String| {
            let name = address.to_ascii_lowercase();
            (name.as_str().into(), Self { addresses: vec![name], ..self.clone() })
        };
        self.addresses.iter().map(alone).collect()
    }

    /// Returns, with `mode = "cluster"`, the settings that lead to one of its nodes alone.
    pub(super) fn of_member(&self, host: &str, port: u16) -> Self {
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self { addresses: vec![address], ..self.clone() }
    }

    /// Returns every file that holds a password, with the key of its setting.
    pub(crate) fn password_files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let files = [
            ("password_file", &self.password_file),
            ("sentinel_password_file", &self.sentinel_password_file),
        ];
        files.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(toml: &str) -> Vec<String> {
        let mut faults = Faults::default();
        check(&toml::from_str(toml).unwrap(), &mut faults);
        faults.into_inner().into_iter().map(|(key, problem)| format!("{key}: {problem}")).collect()
    }

    fn keys(toml: &str) -> Vec<String> {
        faulty(toml).iter().map(|fault| fault.split(": ").next().unwrap_or_default().to_owned()).collect()
    }

    const SENTINEL: &str =
        "mode = \"sentinel\"\naddresses = [\"one:26379\", \"[::1]:26380\"]\nsentinel_master = \"main-1\"\n";

    #[test]
    fn what_a_mode_needs_is_enough() {
        assert_eq!(keys(""), [""; 0]);
        assert_eq!(keys(SENTINEL), [""; 0]);
        let all = "user = \"gate\"\npassword = \"secret\"\ndatabase = 3\ntls = true\nca_file = \"/ca.pem\"\n\
                   sentinel_user = \"watcher\"\nsentinel_password_file = \"/secret\"\nsentinel_tls = true";
        assert_eq!(keys(&format!("{SENTINEL}{all}")), [""; 0]);
        let other = format!("{SENTINEL}sentinel_tls = true\nca_file = \"/ca.pem\"");
        assert_eq!(keys(&other), [""; 0], "the Sentinels alone have TLS");
    }

    #[test]
    fn shards_need_their_addresses_and_each_is_a_configuration_of_its_own() {
        let text = "mode = \"shards\"\naddresses = [\"Redis-1:6379\", \"redis-2:6379\"]\nuser = \"a\"\n\
                    password = \"b\"\ndatabase = 2\ntls = true\nca_file = \"/ca.pem\"\n";
        assert_eq!(keys(text), [""; 0]);
        assert_eq!(keys("mode = \"shards\""), ["addresses"]);
        assert_eq!(
            keys("mode = \"shards\"\naddresses = [\"a:1\", \"A:1\", \"a\"]"),
            ["addresses.1", "addresses.2"]
        );
        let other = "url = \"redis://host\"\nsentinel_master = \"m\"\n";
        assert_eq!(keys(&format!("{other}{text}")), ["url", "sentinel_master"]);
        let without_tls = "mode = \"shards\"\naddresses = [\"a:1\"]\nca_file = \"/ca.pem\"";
        assert_eq!(keys(without_tls), ["ca_file"]);
        let config: RedisConfig = toml::from_str(text).unwrap();
        let shards = config.shards();
        let names: Vec<&str> = shards.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["redis-1:6379", "redis-2:6379"]);
        let alone = RedisConfig { addresses: vec!["redis-2:6379".to_owned()], ..config.clone() };
        assert_eq!(shards[1].1, alone);
    }

    #[test]
    fn a_cluster_needs_nodes_to_ask_and_has_one_database() {
        let text = "mode = \"cluster\"\naddresses = [\"r1:6379\", \"r2:6379\"]\nuser = \"a\"\npassword = \"b\"\n\
                    tls = true\nca_file = \"/ca.pem\"\ncluster_partitions = 16384\n";
        assert_eq!(keys(text), [""; 0]);
        assert_eq!(keys("mode = \"cluster\""), ["addresses"]);
        let bad = "mode = \"cluster\"\naddresses = [\"r1\"]\ndatabase = 1\ncluster_partitions = 0\nurl = \"redis://h\"\n\
                   sentinel_tls = true";
        assert_eq!(keys(bad), ["url", "addresses.0", "database", "cluster_partitions", "sentinel_tls"]);
        assert_eq!(keys("cluster_partitions = 7"), ["cluster_partitions"]);
        let config: RedisConfig = toml::from_str(text).unwrap();
        assert_eq!(config.of_member("::1", 7).addresses, ["[::1]:7"]);
        assert_eq!(config.of_member("r9", 7), RedisConfig { addresses: vec!["r9:7".to_owned()], ..config });
    }

    #[test]
    fn what_is_for_another_mode_is_a_mistake() {
        let all = "addresses = [\"a:1\"]\nuser = \"a\"\npassword = \"b\"\ndatabase = 1\ntls = true\n\
                   sentinel_master = \"m\"\nsentinel_user = \"a\"\nsentinel_password = \"b\"\n\
                   sentinel_password_file = \"/c\"\nsentinel_tls = true";
        assert_eq!(
            keys(all),
            [
                "addresses",
                "user",
                "password",
                "database",
                "tls",
                "sentinel_master",
                "sentinel_user",
                "sentinel_password",
                "sentinel_password_file",
                "sentinel_tls"
            ]
        );
        assert_eq!(keys(&format!("{SENTINEL}url = \"redis://:secret@host\"")), ["url"]);
        assert_eq!(keys(&format!("{SENTINEL}ca_file = \"/ca.pem\"")), ["ca_file"]);
    }

    #[test]
    fn the_password_of_one_server_may_be_in_a_file_and_then_the_url_has_none() {
        assert_eq!(keys("password_file = \"/c\""), [""; 0]);
        assert_eq!(keys("url = \"rediss://host:6380/2\"\nuser = \"gate\"\npassword_file = \"/c\""), [""; 0]);
        for url in ["redis://:secret@host", "redis://gate:secret@host", "redis://host?password=secret"] {
            let told = faulty(&format!("url = \"{url}\"\npassword_file = \"/c\""));
            assert!(
                matches!(&told[..], [one] if one.starts_with("password_file: ") && !one.contains("secret")),
                "{told:?}"
            );
        }
    }

    #[test]
    fn what_lacks_or_cannot_be_is_a_mistake_and_no_secret_is_repeated() {
        assert_eq!(keys("mode = \"sentinel\""), ["addresses", "sentinel_master"]);
        let bad = "mode = \"sentinel\"\nsentinel_master = \"two words\"\nuser = \"a\"\nsentinel_user = \"a\"\n\
                   addresses = [\"one\", \"redis://:s3cret@one:1\", \"one:2\", \"one:2\", \"one:0\", \":2\"]";
        assert_eq!(
            keys(bad),
            [
                "addresses.0",
                "addresses.1",
                "addresses.3",
                "addresses.4",
                "addresses.5",
                "user",
                "sentinel_master",
                "sentinel_user"
            ]
        );
        assert!(!faulty(bad).concat().contains("s3cret"));
        let both = "password = \"s3cret\"\npassword_file = \"/a\"\nsentinel_password = \"s3cret\"\n\
                    sentinel_password_file = \"/a\"";
        let told = faulty(&format!("{SENTINEL}{both}"));
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|fault| fault.contains("_file: must not") && !fault.contains("s3cret")));
    }

    #[test]
    fn another_place_has_nothing_of_this_one_but_its_patience() {
        let mut config: RedisConfig = toml::from_str(SENTINEL).unwrap();
        config.timeout_ms = 7;
        let other = config.at(RedisUrl::new("redis://other"));
        let expected =
            RedisConfig { url: RedisUrl::new("redis://other"), timeout_ms: 7, ..RedisConfig::default() };
        assert_eq!(other, expected);
    }
}
