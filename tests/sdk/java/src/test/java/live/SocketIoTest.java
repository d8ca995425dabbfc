package live;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.socket.client.Ack;
import io.socket.client.IO;
import io.socket.client.Socket;
import java.net.URI;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Tests Socket.IO's library for Java and Android, with each of its transports and with the upgrade between them. */
class SocketIoTest {
    private static final String CONFIG = """
            [auth]
            hmac_secret = "%s"
            allow_anonymous = true
            [socketio]
            enabled = true
            [socketio.namespaces."/".events."chat message"]
            action = "publish"
            [socketio.namespaces."/".events.join]
            action = "join"
            room_argument = 0
            event = "user-joined"
            [socketio.namespaces."/".events.whisper]
            action = "publish"
            room_argument = 0
            to_sender = false
            [socketio.namespaces."/members"]
            users_only = true
            [drain]
            notice_ms = 0
            grace_ms = 100
            """.formatted(Token.SECRET);

    /** Transports, separated by commas. */
    private static final String POLLING = "polling";
    private static final String WEBSOCKET = "websocket";
    private static final String BOTH = "polling,websocket";

    private final List<Socket> sockets = new ArrayList<>();
    private Gateway gateway;

    @BeforeEach
    void start() throws Exception {
        gateway = new Gateway(CONFIG);
    }

    @AfterEach
    void stop() throws Exception {
        sockets.forEach(Socket::disconnect);
        gateway.close();
    }

    private Socket socket(String namespace, String transports, Consumer<IO.Options> more) {
        var options = new IO.Options();
        options.transports = transports.split(",");
        options.forceNew = true;
        options.reconnectionDelay = 50;
        more.accept(options);
        var socket = IO.socket(URI.create(gateway.origin() + namespace), options);
        sockets.add(socket);
        return socket;
    }

    private Socket connected(String transports) throws Exception {
        var socket = socket("/", transports, options -> {});
        var connected = next(socket, Socket.EVENT_CONNECT);
        socket.connect();
        get(connected);
        if (transports.equals(BOTH)) {
            gateway.metricBecomes("tidegate_engine_io_upgrades_total{result=\"changed\"}", sockets.size());
        }
        return socket;
    }

    /** Returns the arguments of the next event of this name. */
    private static CompletableFuture<Object[]> next(Socket socket, String event) {
        var arguments = new CompletableFuture<Object[]>();
        socket.once(event, arguments::complete);
        return arguments;
    }

    private static <T> T get(CompletableFuture<T> future) throws Exception {
        return future.get(Gateway.SECONDS_MAX, TimeUnit.SECONDS);
    }

    /** Emits an event, and returns the arguments of its acknowledgement. */
    private static Object[] ask(Socket socket, String event, Object... arguments) throws Exception {
        var answer = new CompletableFuture<Object[]>();
        socket.emit(event, arguments, (Ack) answer::complete);
        return get(answer);
    }

    private static void assertOk(Object[] answer) throws Exception {
        assertEquals("ok", ((JSONObject) answer[0]).getString("status"));
    }

    @ParameterizedTest
    @ValueSource(strings = {POLLING, WEBSOCKET, BOTH})
    void eventsAndTheirBytesReachAllAndAreAcknowledged(String transports) throws Exception {
        var one = connected(transports);
        var other = connected(transports);
        assertNotEquals(one.id(), other.id());
        var told = next(other, "chat message");
        var photo = new byte[] {1, -1, 0};
        assertOk(ask(one, "chat message", "hé", new JSONObject().put("x", new JSONArray(List.of(1, 2))).put("photo", photo)));
        var heard = get(told);
        assertEquals("hé", heard[0]);
        var second = (JSONObject) heard[1];
        assertEquals("[1,2]", second.getJSONArray("x").toString());
        assertArrayEquals(photo, (byte[]) second.get("photo"));

        told = next(other, "chat message");
        gateway.api("publish", Map.of("channel", "socketio:*", "data", List.of("by", "a server"),
                "tags", Map.of("event", "chat message")));
        assertNotNull(get(told));
    }

    @ParameterizedTest
    @ValueSource(strings = {POLLING, WEBSOCKET, BOTH})
    void aRowOfEventsKeepsItsOrder(String transports) throws Exception {
        var one = connected(transports);
        var other = connected(transports);
        BlockingQueue<Object> heard = new LinkedBlockingQueue<>();
        other.on("chat message", args -> heard.add(args[0]));
        for (int number = 0; number < 200; number++) {
            one.emit("chat message", number);
        }
        for (int number = 0; number < 200; number++) {
            assertEquals(number, heard.poll(Gateway.SECONDS_MAX, TimeUnit.SECONDS));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {POLLING, WEBSOCKET})
    void aRoomIsHeardByThoseWhoAreInIt(String transports) throws Exception {
        var one = connected(transports);
        var other = connected(transports);
        assertOk(ask(one, "join", "room"));
        var joined = next(one, "user-joined");
        assertOk(ask(other, "join", "room"));
        assertEquals(other.id(), get(joined)[0]);
        var whispered = next(one, "whisper");
        assertOk(ask(other, "whisper", "room", "psst"));
        assertEquals("psst", get(whispered)[get(whispered).length - 1]);
    }

    @ParameterizedTest
    @ValueSource(strings = {POLLING, WEBSOCKET})
    void aNamespaceOfUsersTakesATokenAndWhoeverIsSentAwayStaysAway(String transports) throws Exception {
        var stranger = socket("/members", transports, options -> {});
        var refused = next(stranger, Socket.EVENT_CONNECT_ERROR);
        stranger.connect();
        assertTrue(((JSONObject) get(refused)[0]).has("message"));

        var auth = Map.of("token", Token.of("ann", Map.of()));
        var ann = socket("/members", transports, options -> options.auth = auth);
        var connected = next(ann, Socket.EVENT_CONNECT);
        ann.connect();
        get(connected);
        var away = next(ann, Socket.EVENT_DISCONNECT);
        gateway.api("disconnect", Map.of("user", "ann"));
        assertEquals("io server disconnect", get(away)[0]);
    }

    @ParameterizedTest
    @ValueSource(strings = {POLLING, WEBSOCKET, BOTH})
    void whoLosesItsNodeKnowsAtOnceThatItWasTheConnection(String transports) throws Exception {
        var socket = connected(transports);
        var lost = next(socket, Socket.EVENT_DISCONNECT);
        gateway.close();
        // The library reconnects only after these two reasons.
        assertTrue(List.of("transport close", "transport error").contains(get(lost)[0]));
    }
}
