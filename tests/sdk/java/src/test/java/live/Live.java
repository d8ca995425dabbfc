package live;

import io.github.centrifugal.centrifuge.Client;
import io.github.centrifugal.centrifuge.ConnectedEvent;
import io.github.centrifugal.centrifuge.HistoryOptions;
import io.github.centrifugal.centrifuge.HistoryResult;
import io.github.centrifugal.centrifuge.Options;
import io.github.centrifugal.centrifuge.PublicationEvent;
import io.github.centrifugal.centrifuge.PublishResult;
import io.github.centrifugal.centrifuge.RPCResult;
import io.github.centrifugal.centrifuge.ReplyError;
import io.github.centrifugal.centrifuge.ResultCallback;
import io.github.centrifugal.centrifuge.Subscription;
import io.github.centrifugal.centrifuge.SubscriptionOptions;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterEach;

/** A test whose clients are closed at its end. */
abstract class Live {
    /** A client or a subscription with its events. */
    record Watched<T>(T made, Events events) {}

    private final List<Client> clients = new ArrayList<>();

    @AfterEach
    void leave() throws InterruptedException {
        for (var client : clients) {
            client.close(TimeUnit.SECONDS.toMillis(Gateway.SECONDS_MAX));
        }
    }

    /** Starts to connect. */
    final Watched<Client> client(Gateway gateway, String token) {
        var options = new Options();
        options.setToken(token);
        return client(gateway, options);
    }

    final Watched<Client> client(Gateway gateway, Options options) {
        options.setMinReconnectDelay(20);
        options.setMaxReconnectDelay(200);
        var events = new Events();
        var client = new Client(gateway.url(), options, events.ofClient());
        clients.add(client);
        client.connect();
        return new Watched<>(client, events);
    }

    final Watched<Client> connected(Gateway gateway, String user) throws InterruptedException {
        var client = client(gateway, Token.of(user, Map.of()));
        client.events().next(ConnectedEvent.class);
        return client;
    }

    /** Starts to subscribe. */
    final Watched<Subscription> subscribe(Watched<Client> client, String channel, SubscriptionOptions options)
            throws Exception {
        var events = new Events();
        var subscription = client.made().newSubscription(channel, options, events.ofSubscription());
        subscription.subscribe();
        return new Watched<>(subscription, events);
    }

    final Watched<Subscription> subscribe(Watched<Client> client, String channel) throws Exception {
        return subscribe(client, channel, new SubscriptionOptions());
    }

    /** Waits for the result that the library passes to a callback. */
    static <T> T answer(Consumer<ResultCallback<T>> call) throws Exception {
        var answer = new CompletableFuture<T>();
        call.accept((error, result) -> {
            if (error != null) {
                answer.completeExceptionally(error);
            } else {
                answer.complete(result);
            }
        });
        return answer.get(Gateway.SECONDS_MAX, TimeUnit.SECONDS);
    }

    static PublishResult publish(Subscription subscription, byte[] data) throws Exception {
        return answer(call -> subscription.publish(data, call));
    }

    /** Publishes without a subscription. */
    static PublishResult publish(Client client, String channel, byte[] data) throws Exception {
        return answer(call -> client.publish(channel, data, call));
    }

    static byte[] call(Client client, String method, byte[] data) throws Exception {
        return Live.<RPCResult>answer(call -> client.rpc(method, data, call)).getData();
    }

    static HistoryResult history(Subscription subscription, HistoryOptions options) throws Exception {
        return answer(call -> subscription.history(options, call));
    }

    static List<String> texts(HistoryResult history) {
        return history.getPublications().stream().map(publication -> text(publication.getData())).toList();
    }

    /** Returns the error code with which a call is refused. */
    static int refusal(Callable<?> asked) throws Exception {
        try {
            throw new AssertionError("this was not refused: " + asked.call());
        } catch (ExecutionException refused) {
            return ((ReplyError) refused.getCause()).getCode();
        }
    }

    /** Waits for the next {@code count} publications, and returns them as texts. */
    static List<String> publications(Watched<Subscription> subscription, int count) throws InterruptedException {
        var texts = new ArrayList<String>();
        while (texts.size() < count) {
            texts.add(text(subscription.events().next(PublicationEvent.class).getData()));
        }
        return texts;
    }

    static String fresh(String prefix) {
        return prefix + UUID.randomUUID();
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }
}
