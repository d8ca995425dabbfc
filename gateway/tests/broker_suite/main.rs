//! Runs the same tests on every implementation of brokers, presence, ledgers and sessions; then tests faults of each server.

#![allow(
    unreachable_pub,
    reason = "a test program has no users; `pub` says what its modules offer each other"
)]

#[path = "../support/redis.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod redis_server;

#[path = "../support/nats.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod nats_server;
#[path = "../support/redis_cluster.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod redis_cluster;

#[path = "../support/relay.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod relay;

mod cluster_costs;
mod cluster_faults;
mod cluster_moves;
mod delivery;
mod faults;
mod harness;
mod keys;
mod known_epochs;
mod leases;
mod ledger;
mod ledger_faults;
mod lives;
mod nats_costs;
mod nats_credentials;
mod nats_faults;
mod nats_kills;
mod nats_ledgers;
mod nats_maps;
mod nats_maps_faults;
mod nats_maps_kills;
mod nats_sessions;
mod presence;
mod presence_faults;
mod refusals;
mod servers;
mod sessions;
mod several_nodes;
mod shard_costs;
mod shard_faults;
mod streams;
mod tls;

/// Makes every function in the list a test of each implementation.
macro_rules! suite {
    ($($module:ident :: { $($test:ident),* $(,)? })*) => {
        mod memory {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$module::$test::<crate::harness::Memory>().await;
            })*)*
        }
        of_servers! { $($module :: { $($test,)* })* }
    };
}

/// Makes every function in the list a test of each implementation that several nodes can share.
macro_rules! of_servers {
    ($($module:ident :: { $($test:ident),* $(,)? })*) => {
        of_redis! { $($module :: { $($test,)* })* }
        mod nats {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$module::$test::<crate::harness::Nats>().await;
            })*)*
        }
    };
}

/// Makes every function in the list a test of each implementation over Redis.
macro_rules! of_redis {
    ($($module:ident :: { $($test:ident),* $(,)? })*) => {
        mod redis {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$module::$test::<crate::harness::Redis>().await;
            })*)*
        }
        mod shards {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$module::$test::<crate::harness::Shards>().await;
            })*)*
        }
        mod cluster {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$module::$test::<crate::harness::Cluster>().await;
            })*)*
        }
    };
}

suite! {
    streams::{
        offsets_count_from_one_in_an_epoch_of_the_channel,
        an_epoch_that_is_left_gives_way_to_another,
        a_page_of_history_is_what_the_filter_says,
        a_reader_with_enough_bytes_is_given_these_at_least_and_in_order,
        history_keeps_the_newest_up_to_its_size,
        history_ends_with_its_time_but_the_position_stays,
        an_unknown_channel_gets_an_epoch_that_holds,
        positions_come_in_the_order_asked,
        removed_history_does_not_take_offsets_back,
        a_key_is_good_for_one_publication,
        a_key_is_good_for_one_publication_without_history_too,
        a_key_may_be_used_again_after_its_time,
        a_version_that_is_not_newer_is_not_published,
        of_versions_that_come_at_once_the_newest_is_last,
    }
    delivery::{
        subscribers_hear_publications_in_order_with_their_positions,
        without_history_there_is_no_position,
        joins_and_leaves_are_heard_where_publications_are_and_are_kept_nowhere,
        only_subscribed_channels_are_heard,
        every_kind_of_publication_arrives_as_it_was_sent,
        what_is_published_at_once_is_delivered_in_the_order_of_its_offsets,
        what_is_published_without_waiting_keeps_the_order_of_the_calls,
        many_channels_are_subscribed_at_once,
        control_messages_come_back,
        a_node_is_told_by_its_name_and_nobody_by_a_name_that_nobody_has,
        a_canary_comes_back,
        announcements_hold_for_their_lease,
    }
    keys::{
        a_key_holds_what_was_set_last_and_everybody_hears_of_it,
        keys_are_read_in_pages_by_name_or_by_score,
        a_change_is_made_only_on_its_conditions,
        keys_expire_and_that_is_told,
        a_quiet_state_keeps_the_newest_and_tells_nobody_that_a_key_has_gone,
        a_channel_has_only_so_many_keys,
        a_cleared_channel_begins_anew,
        a_patch_can_be_made_of_what_the_key_held,
        a_key_that_gets_other_tags_is_told_as_gone_first,
    }
    presence::{
        who_is_added_is_present_until_removed,
        a_client_is_present_once_however_often_it_is_added,
        users_are_counted_once,
        a_node_that_retires_leaves_nobody_behind,
        infos_arrive_as_they_were,
    }
    ledger::{
        the_first_who_holds_and_the_last_who_lets_go_are_news,
        a_holder_that_ends_lets_go_of_what_nobody_else_holds,
        a_holder_whose_lease_is_over_holds_nothing_any_more_and_hears_of_it,
        each_reader_goes_on_where_it_stood,
        a_reader_that_is_far_behind_is_told_how_much_it_missed,
        it_is_what_the_table_says_whatever_happens,
    }
    sessions::{
        a_session_is_its_holders_and_what_is_older_is_not_written_over_what_is_newer,
        of_all_who_take_a_session_at_once_one_has_it,
        a_session_is_kept_until_its_time_is_over_and_prolonged_by_its_holder_alone,
        a_session_that_is_removed_is_gone_and_only_its_holder_removes_it,
        what_is_written_and_prolonged_at_once_ends_with_the_newest_and_its_holder,
    }
}

mod nodes {
    of_servers! {
        several_nodes::{
            what_one_node_publishes_all_hear_in_the_same_order,
            streams_and_keys_are_the_same_from_every_node,
            control_messages_reach_every_node_and_announcements_are_seen_by_all,
            presence_is_the_sum_of_all_nodes,
        }
        sessions::{
            a_session_is_the_same_from_every_node_and_outlives_the_one_that_wrote_it,
        }
        leases::{
            a_turn_is_one_nodes_until_it_is_given_back_and_who_follows_knows_how_far_it_got,
        }
    }
}
