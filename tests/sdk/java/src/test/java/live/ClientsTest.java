package live;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.centrifugal.centrifuge.ClientInfo;
import io.github.centrifugal.centrifuge.ConnectedEvent;
import io.github.centrifugal.centrifuge.ConnectingEvent;
import io.github.centrifugal.centrifuge.ConnectionTokenEvent;
import io.github.centrifugal.centrifuge.ConnectionTokenGetter;
import io.github.centrifugal.centrifuge.DisconnectedEvent;
import io.github.centrifugal.centrifuge.HistoryOptions;
import io.github.centrifugal.centrifuge.JoinEvent;
import io.github.centrifugal.centrifuge.LeaveEvent;
import io.github.centrifugal.centrifuge.MessageEvent;
import io.github.centrifugal.centrifuge.Options;
import io.github.centrifugal.centrifuge.PresenceResult;
import io.github.centrifugal.centrifuge.PresenceStatsResult;
import io.github.centrifugal.centrifuge.PublicationEvent;
import io.github.centrifugal.centrifuge.ServerPublicationEvent;
import io.github.centrifugal.centrifuge.ServerSubscribedEvent;
import io.github.centrifugal.centrifuge.ServerUnsubscribedEvent;
import io.github.centrifugal.centrifuge.StreamPosition;
import io.github.centrifugal.centrifuge.SubscribedEvent;
import io.github.centrifugal.centrifuge.SubscriptionOptions;
import io.github.centrifugal.centrifuge.TokenCallback;
import io.github.centrifugal.centrifuge.UnsubscribedEvent;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Tests the library's clients, which use Protobuf, on one node. */
class ClientsTest extends Live {
    private static final String CONFIG = """
            [auth]
            hmac_secret = "%s"
            [namespaces.news]
            history_size = 10
            history_ttl_s = 300
            force_recovery = true
            presence = true
            join_leave = true
            force_push_join_leave = true
            allow_subscribe = true
            allow_publish = true
            allow_history = true
            allow_presence = true
            [namespaces.private]
            """.formatted(Token.SECRET);

    private static Gateway gateway;

    @BeforeAll
    static void start() throws Exception {
        gateway = new Gateway(CONFIG);
    }

    @AfterAll
    static void stop() throws Exception {
        gateway.close();
    }

    @Test
    void whatOneClientPublishesAnotherGets() throws Exception {
        var channel = fresh("news:");
        var ann = connected(gateway, "ann");
        var reading = subscribe(ann, channel);
        reading.events().next(SubscribedEvent.class);
        var bob = connected(gateway, "bob");
        var writing = subscribe(bob, channel);
        writing.events().next(SubscribedEvent.class);

        var json = bytes("{\"text\":\"hello\"}");
        publish(writing.made(), json);
        var first = reading.events().next(PublicationEvent.class);
        assertArrayEquals(json, first.getData());
        assertEquals(1, first.getOffset());
        assertEquals("bob", first.getInfo().getUser());

        // Payloads over Protobuf need not be JSON. Clients with JSON receive them in base64.
        var binary = new byte[] {0, (byte) 0xff, (byte) 0xfe, 10};
        publish(writing.made(), binary);
        assertArrayEquals(binary, reading.events().next(PublicationEvent.class).getData());
        var page = gateway.api("history", Map.of("channel", channel, "limit", 2)).getAsJsonArray("publications");
        assertEquals("hello", page.get(0).getAsJsonObject().getAsJsonObject("data").get("text").getAsString());
        var inJson = page.get(1).getAsJsonObject().get("data").getAsString();
        assertArrayEquals(binary, Base64.getDecoder().decode(inJson));
    }

    @Test
    void whatTheApiPublishesComesInOrderWithItsTags() throws Exception {
        var channel = fresh("news:");
        var reading = subscribe(connected(gateway, "ann"), channel);
        reading.events().next(SubscribedEvent.class);
        gateway.publish(channel, 1, 100);
        for (int number = 1; number <= 100; number++) {
            var publication = reading.events().next(PublicationEvent.class);
            assertEquals(String.valueOf(number), text(publication.getData()));
            assertEquals(number, publication.getOffset());
        }
        gateway.api("publish", Map.of("channel", channel, "data", 101, "tags", Map.of("kind", "last")));
        assertEquals(Map.of("kind", "last"), reading.events().next(PublicationEvent.class).getTags());
    }

    @Test
    void aClientThatComesBackGetsWhatItMissed() throws Exception {
        var channel = fresh("news:");
        var ann = connected(gateway, "ann");
        var reading = subscribe(ann, channel);
        var first = reading.events().next(SubscribedEvent.class);
        assertTrue(first.getRecoverable() && first.getPositioned() && !first.wasRecovering());
        gateway.publish(channel, 1, 2);
        assertEquals(List.of("1", "2"), publications(reading, 2));

        ann.made().disconnect();
        assertEquals(0, ann.events().next(DisconnectedEvent.class).getCode());
        gateway.publish(channel, 3, 7);
        ann.made().connect();
        var back = reading.events().next(SubscribedEvent.class);
        assertTrue(back.wasRecovering() && back.getRecovered());
        gateway.publish(channel, 8, 8);
        assertEquals(List.of("3", "4", "5", "6", "7", "8"), publications(reading, 6));
    }

    @Test
    void aClientThatWasAwayForTooLongIsToldSo() throws Exception {
        var channel = fresh("news:");
        var ann = connected(gateway, "ann");
        var reading = subscribe(ann, channel);
        reading.events().next(SubscribedEvent.class);
        gateway.publish(channel, 1, 1);
        assertEquals(List.of("1"), publications(reading, 1));
        ann.made().disconnect();
        gateway.publish(channel, 2, 20);
        ann.made().connect();
        var back = reading.events().next(SubscribedEvent.class);
        assertTrue(back.wasRecovering());
        assertFalse(back.getRecovered());
        gateway.publish(channel, 21, 21);
        assertEquals(List.of("21"), publications(reading, 1));
    }

    @Test
    void aClientThatIsClosedComesBackByItselfIfTheCodeInvitesIt() throws Exception {
        var channel = fresh("news:");
        var user = fresh("user-");
        var client = connected(gateway, user);
        var reading = subscribe(client, channel);
        reading.events().next(SubscribedEvent.class);
        var disconnect = Map.of("code", 4000, "reason", "move");
        gateway.api("disconnect", Map.of("user", user, "disconnect", disconnect));
        var lost = client.events().next(ConnectingEvent.class);
        // The first event may be that of the initial connection.
        lost = lost.getCode() == 0 ? client.events().next(ConnectingEvent.class) : lost;
        assertEquals(4000, lost.getCode());
        assertTrue(reading.events().next(SubscribedEvent.class).getRecovered());

        gateway.api("disconnect", Map.of("user", user, "disconnect", Map.of("code", 4500, "reason", "banned")));
        var gone = client.events().next(DisconnectedEvent.class);
        assertEquals(4500, gone.getCode());
        assertEquals("banned", gone.getReason());
    }

    @Test
    void historyIsReadFromEitherEnd() throws Exception {
        var channel = fresh("news:");
        var reading = subscribe(connected(gateway, "ann"), channel);
        reading.events().next(SubscribedEvent.class);
        gateway.publish(channel, 1, 5);

        var oldest = history(reading.made(), new HistoryOptions.Builder().withLimit(2).build());
        assertEquals(List.of("1", "2"), texts(oldest));
        assertEquals(5, oldest.getOffset());
        var since = new StreamPosition(2, oldest.getEpoch());
        var later = new HistoryOptions.Builder().withLimit(-1).withSince(since).build();
        assertEquals(List.of("3", "4", "5"), texts(history(reading.made(), later)));
        var newest = new HistoryOptions.Builder().withLimit(2).withReverse(true).build();
        assertEquals(List.of("5", "4"), texts(history(reading.made(), newest)));

        var lost = new HistoryOptions.Builder().withLimit(1).withSince(new StreamPosition(2, "other")).build();
        assertEquals(112, refusal(() -> history(reading.made(), lost)));
    }

    @Test
    void presenceShowsWhoIsThereAndSubscribersAreToldWhoComesAndGoes() throws Exception {
        var channel = fresh("news:");
        var ann = client(gateway, Token.of("ann", Map.of("info", Map.of("name", "Ann"))));
        var id = ann.events().next(ConnectedEvent.class).getClient();
        var first = subscribe(ann, channel);
        first.events().next(SubscribedEvent.class);
        var bob = connected(gateway, "bob");
        var token = Token.of("bob", Map.of("channel", channel, "info", List.of("vip")));
        var options = new SubscriptionOptions();
        options.setToken(token);
        var second = subscribe(bob, channel, options);
        second.events().next(SubscribedEvent.class);

        ClientInfo joined;
        do {
            joined = first.events().next(JoinEvent.class).getInfo();
        } while (joined.getClient().equals(id));
        assertEquals("bob", joined.getUser());
        assertEquals("[\"vip\"]", text(joined.getChanInfo()));

        var presence = Live.<PresenceResult>answer(call -> second.made().presence(call)).getClients();
        assertEquals(2, presence.size());
        assertEquals("ann", presence.get(id).getUser());
        assertEquals("{\"name\":\"Ann\"}", text(presence.get(id).getConnInfo()));
        var stats = Live.<PresenceStatsResult>answer(call -> second.made().presenceStats(call));
        assertEquals(2, stats.getNumClients());
        assertEquals(2, stats.getNumUsers());

        second.made().unsubscribe();
        assertEquals("bob", first.events().next(LeaveEvent.class).getInfo().getUser());
    }

    @Test
    void aChannelThatIsNotOpenNeedsAToken() throws Exception {
        var channel = fresh("private:");
        var ann = connected(gateway, "ann");
        assertEquals(103, subscribe(ann, channel).events().next(UnsubscribedEvent.class).getCode());
        ann.made().removeSubscription(ann.made().getSubscription(channel));
        var options = new SubscriptionOptions();
        options.setToken(Token.of("ann", Map.of("channel", channel)));
        subscribe(ann, channel, options).events().next(SubscribedEvent.class);
        assertEquals(103, refusal(() -> publish(ann.made(), channel, bytes("1"))));
        var unknown = subscribe(ann, "nowhere:a").events().next(UnsubscribedEvent.class);
        assertEquals(102, unknown.getCode());
    }

    @Test
    void anExpiredTokenIsReplacedAndAWrongOneIsFinal() throws Exception {
        var asked = new AtomicInteger();
        var options = new Options();
        options.setToken(Token.of("ann", Map.of("exp", System.currentTimeMillis() / 1000 - 5)));
        options.setTokenGetter(new ConnectionTokenGetter() {
            @Override
            public void getConnectionToken(ConnectionTokenEvent event, TokenCallback done) {
                asked.incrementAndGet();
                done.Done(null, Token.of("ann", Map.of()));
            }
        });
        client(gateway, options).events().next(ConnectedEvent.class);
        assertEquals(1, asked.get());

        var wrong = client(gateway, "not.a.token").events().next(DisconnectedEvent.class);
        assertEquals(3500, wrong.getCode());
    }

    @Test
    void theServerSubscribesAClientAsItConnects() throws Exception {
        var channel = fresh("news:");
        var ann = client(gateway, Token.of("ann", Map.of("channels", List.of(channel))));
        ann.events().next(ConnectedEvent.class);
        var first = ann.events().next(ServerSubscribedEvent.class);
        assertEquals(channel, first.getChannel());
        assertTrue(first.getRecoverable());
        gateway.publish(channel, 1, 1);
        assertEquals("1", text(ann.events().next(ServerPublicationEvent.class).getData()));

        ann.made().disconnect();
        ann.events().next(DisconnectedEvent.class);
        gateway.publish(channel, 2, 3);
        ann.made().connect();
        var back = ann.events().next(ServerSubscribedEvent.class);
        assertTrue(back.wasRecovering() && back.getRecovered());
        for (int number = 2; number <= 3; number++) {
            var publication = ann.events().next(ServerPublicationEvent.class);
            assertEquals(String.valueOf(number), text(publication.getData()));
            assertEquals(number, publication.getOffset());
        }
    }

    @Test
    void theServerSubscribesAClientLaterAndEndsIt() throws Exception {
        var channel = fresh("news:");
        var user = fresh("user-");
        var client = connected(gateway, user);
        gateway.api("subscribe", Map.of("user", user, "channel", channel, "data", Map.of("why", "asked")));
        var subscribed = client.events().next(ServerSubscribedEvent.class);
        assertEquals(channel, subscribed.getChannel());
        assertEquals("{\"why\":\"asked\"}", text(subscribed.getData()));
        gateway.publish(channel, 1, 1);
        assertEquals("1", text(client.events().next(ServerPublicationEvent.class).getData()));
        gateway.api("unsubscribe", Map.of("user", user, "channel", channel));
        assertEquals(channel, client.events().next(ServerUnsubscribedEvent.class).getChannel());

        var own = subscribe(client, channel);
        own.events().next(SubscribedEvent.class);
        gateway.api("unsubscribe", Map.of("user", user, "channel", channel));
        assertEquals(2000, own.events().next(UnsubscribedEvent.class).getCode());
    }

    @Test
    void withoutABackendCallsAreRefusedAndMessagesCloseTheConnection() throws Exception {
        var ann = connected(gateway, "ann");
        assertEquals(108, refusal(() -> call(ann.made(), "anything", bytes("{}"))));
        ann.made().send(bytes("{}"), error -> {});
        assertEquals(3508, ann.events().next(DisconnectedEvent.class).getCode());
    }

    @Test
    void aBackendAnswersCallsAndMessages() throws Exception {
        try (var backend = new Backend()) {
            var hooks = CONFIG + """
                    [backend.rpc]
                    url = "%s/rpc"
                    [backend.message]
                    url = "%s/message"
                    """.formatted(backend.url(), backend.url());
            try (var asking = new Gateway(hooks)) {
                var ann = connected(asking, "ann");
                var answer = call(ann.made(), "add", bytes("[1,2]"));
                assertEquals("{\"method\":\"add\",\"user\":\"ann\",\"data\":[1,2]}", text(answer));
                // Data that is not JSON is passed to the backend, and returned by it, in base64.
                var binary = new byte[] {0, (byte) 0xff};
                assertArrayEquals(binary, call(ann.made(), "echo", binary));
                assertEquals(1001, refusal(() -> call(ann.made(), "refuse", bytes("{}"))));

                ann.made().send(bytes("\"hello\""), error -> {});
                assertEquals("\"hello\"", text(ann.events().next(MessageEvent.class).getData()));
            }
        }
    }

    @Test
    void clientsOfTwoConnectionsHaveTwoIds() throws Exception {
        var first = client(gateway, Token.of("ann", Map.of())).events().next(ConnectedEvent.class).getClient();
        var second = client(gateway, Token.of("ann", Map.of())).events().next(ConnectedEvent.class).getClient();
        assertFalse(first.isEmpty());
        assertNotEquals(first, second);
    }
}
