//! Tests feeds from PostgreSQL tables, where they differ from other kinds.

use serde_json::json;

use crate::feeds::Outside;
use crate::gateway::eventually;
use crate::postgres::PostgresServer;
use crate::reads_feeds::{DEAD, PUBLISHED, add_to, as_values, data, history, node, numbers};
use crate::redis_server::free_port;
use crate::tls::Certificate;

/// Each row takes a tenth of a second to read in the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_cannot_be_read_at_once_are_read_a_few_at_a_time() {
    let outside = Outside::table().await;
    let Outside::Table(server) = &outside else { panic!("it is a table") };
    // PostgreSQL reads by the index, so that it does not evaluate rows past the limit.
    let slow = "CREATE FUNCTION slowly(data jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE AS \
                $$ BEGIN PERFORM pg_sleep(0.1); RETURN data::text; END $$; \
                CREATE VIEW slow AS SELECT id, channel, slowly(data) AS data FROM outbox; \
                ALTER ROLE postgres SET enable_seqscan = off";
    server.session().await.batch_execute(slow).await.expect("a view");
    let numbers = numbers(24);
    add_to(&outside, &["stream:a"], &numbers).await;
    let node = node(&outside)
        .with("feeds.orders.postgres.table", "slow")
        .with("feeds.orders.postgres.dead_letters", "outbox_dead")
        .with("feeds.orders.postgres.timeout_ms", 1_000)
        .with("feeds.orders.records_max", 20)
        .with("feeds.orders.retry_max_ms", 100)
        .start()
        .await;
    node.metric_becomes(PUBLISHED, 24.0).await;
    assert!(node.metric("tidegate_feed_retries_total").await >= 1.0, "twenty are too many");
    assert_eq!(data(&node, "stream:a").await, as_values(&numbers));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_read_in_time_is_a_dead_letter_and_does_not_hold_up_the_rest() {
    let outside = Outside::table().await;
    let Outside::Table(server) = &outside else { panic!("it is a table") };
    // More than can be converted to text within the timeout, or to one JSON value at all.
    let vast = "INSERT INTO outbox (channel, data, tags) SELECT 'stream:a', vast, vast \
                FROM (SELECT to_jsonb(repeat('x', 140000000)) AS vast) AS made";
    server.session().await.batch_execute(vast).await.expect("a row");
    add_to(&outside, &["stream:a"], &numbers(3)).await;
    let node = node(&outside)
        .with("feeds.orders.postgres.timeout_ms", 300)
        .with("feeds.orders.records_max", 2)
        .with("feeds.orders.retry_max_ms", 100)
        .start()
        .await;
    node.metric_becomes(PUBLISHED, 3.0).await;
    node.metric_becomes(DEAD, 1.0).await;
    let letters = outside.dead_letters().await;
    assert!(letters[0].0.contains("record_bytes_max is"), "{}", letters[0].0);
    assert_eq!(letters[0].1["omitted"], "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_transaction_ends_late_is_not_missed() {
    let outside = Outside::table().await;
    let Outside::Table(server) = &outside else { panic!("it is a table") };
    let node = node(&outside).start().await;
    let mut late = server.session().await;
    let transaction = late.transaction().await.expect("a transaction");
    let insert = "INSERT INTO outbox (channel, data) VALUES ('stream:a', '\"late\"')";
    transaction.batch_execute(insert).await.expect("a row with the lower id");
    outside.add(&[("channel", "stream:a"), ("data", "\"early\"")]).await;
    node.metric_becomes(PUBLISHED, 1.0).await;
    transaction.commit().await.expect("the row");
    node.metric_becomes(PUBLISHED, 2.0).await;
    assert_eq!(data(&node, "stream:a").await, [json!("early"), json!("late")]);
    let left = server.session().await.query_one("SELECT count(*) FROM outbox", &[]).await.expect("a count");
    assert_eq!(left.get::<_, i64>(0), 0, "what is published is deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_columns_of_other_names_and_types_is_read_and_one_that_lacks_some_is_told() {
    let outside = Outside::table().await;
    let Outside::Table(server) = &outside else { panic!("it is a table") };
    let session = server.session().await;
    let tables = "CREATE SCHEMA app; \
        CREATE TABLE app.\"Out\" (key uuid PRIMARY KEY DEFAULT gen_random_uuid(), rooms text[], blob bytea); \
        CREATE TABLE app.\"Out_dead\" (id text, reason text, record jsonb, at timestamptz);";
    session.batch_execute(tables).await.expect("tables");
    let describe = || {
        node(&outside)
            .with("feeds.orders.postgres.table", "app.Out")
            .with("feeds.orders.fields.key", "k")
            .with("feeds.orders.fields.channels", "rooms")
            .with("feeds.orders.fields.b64data", "blob")
    };
    let of_another_id = || describe().with("feeds.orders.postgres.id", "key");
    let (without, lacking) = (describe().start().await, of_another_id().start().await);
    let no_key = "ALTER TABLE app.\"Out\" ADD COLUMN k text";
    session
        .batch_execute("INSERT INTO app.\"Out\" (rooms, blob) VALUES ('{stream:a,stream:b}', '\\x0001ff')")
        .await
        .expect("a row");
    for node in [&without, &lacking] {
        eventually("it tries", async || node.metric("tidegate_feed_retries_total").await >= 2.0).await;
        assert_eq!(node.metric("tidegate_feed_connected").await, 0.0);
    }
    session.batch_execute(no_key).await.expect("a column");
    lacking.metric_becomes(PUBLISHED, 1.0).await;
    for channel in ["stream:a", "stream:b"] {
        let found = history(&lacking, channel).await;
        assert_eq!((found.len(), found[0]["data"].as_str()), (1, Some("AAH/")), "{found:?}");
    }
    assert_eq!(without.metric("tidegate_feed_connected").await, 0.0, "there is no column id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_a_table_are_bounded() {
    let outside = Outside::table().await;
    let node = node(&outside).with("feeds.orders.postgres.dead_letters_max", 3).start().await;
    for at in 0..5 {
        outside.add(&[("channel", "nowhere:a"), ("data", &at.to_string())]).await;
        node.metric_becomes(DEAD, f64::from(at + 1)).await;
    }
    let kept: Vec<String> =
        outside.dead_letters().await.into_iter().map(|(_, kept)| kept["data"].clone()).collect();
    assert_eq!(kept, ["2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_the_certificate_of_a_database_is_checked() {
    let (right, wrong) = (Certificate::new(), Certificate::new());
    let port = free_port();
    let settings = [
        "ssl=on",
        "ssl_cert_file=$DIRECTORY/certificate.pem",
        "ssl_key_file=$DIRECTORY/key.pem",
        "listen_addresses=127.0.0.1",
        &format!("port={port}"),
    ];
    let files = [("certificate.pem", &*right.file("certificate.pem")), ("key.pem", &*right.file("key.pem"))];
    let server = PostgresServer::start_with(&settings, &files).await;
    let outside = Outside::table_of(server).await;
    let Outside::Table(server) = &outside else { panic!("it is a table") };
    let url = format!("postgres://postgres@localhost:{port}/postgres?sslmode=require");
    let describe = |certificate: &Certificate| {
        let ca = certificate.file("certificate.pem").display().to_string();
        node(&outside).with("feeds.orders.postgres.url", &url).with("feeds.orders.postgres.ca_file", ca)
    };
    let (trusting, doubting) = (describe(&right).start().await, describe(&wrong).start().await);
    outside.add(&[("channel", "stream:a"), ("data", "1")]).await;
    trusting.metric_becomes(PUBLISHED, 1.0).await;
    eventually("it tries", async || doubting.metric("tidegate_feed_retries_total").await >= 2.0).await;
    assert_eq!(doubting.metric("tidegate_feed_connected").await, 0.0);
    let spoken = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                  WHERE application_name LIKE '% feed orders'";
    let spoken = server.session().await.query_one(spoken, &[]).await.expect("sessions");
    assert_eq!(spoken.get::<_, Option<bool>>(0), Some(true));
}
