package live;

import io.github.centrifugal.centrifuge.Client;
import io.github.centrifugal.centrifuge.ConnectedEvent;
import io.github.centrifugal.centrifuge.ConnectingEvent;
import io.github.centrifugal.centrifuge.DisconnectedEvent;
import io.github.centrifugal.centrifuge.EventListener;
import io.github.centrifugal.centrifuge.JoinEvent;
import io.github.centrifugal.centrifuge.LeaveEvent;
import io.github.centrifugal.centrifuge.MessageEvent;
import io.github.centrifugal.centrifuge.PublicationEvent;
import io.github.centrifugal.centrifuge.ServerPublicationEvent;
import io.github.centrifugal.centrifuge.ServerSubscribedEvent;
import io.github.centrifugal.centrifuge.ServerUnsubscribedEvent;
import io.github.centrifugal.centrifuge.SubscribedEvent;
import io.github.centrifugal.centrifuge.Subscription;
import io.github.centrifugal.centrifuge.SubscriptionEventListener;
import io.github.centrifugal.centrifuge.UnsubscribedEvent;
import java.util.ArrayList;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** The events of a client or of a subscription, in order. */
final class Events {
    private final BlockingQueue<Object> queue = new LinkedBlockingQueue<>();

    /** Waits for the next event of this kind; skips others before it. */
    <T> T next(Class<T> kind) throws InterruptedException {
        var passed = new ArrayList<String>();
        while (true) {
            var event = queue.poll(Gateway.SECONDS_MAX, TimeUnit.SECONDS);
            if (event == null) {
                throw new AssertionError("no " + kind.getSimpleName() + " in time, but " + passed);
            }
            if (kind.isInstance(event)) {
                return kind.cast(event);
            }
            passed.add(event.getClass().getSimpleName());
        }
    }

    EventListener ofClient() {
        return new EventListener() {
            @Override public void onConnecting(Client client, ConnectingEvent event) { queue.add(event); }
            @Override public void onConnected(Client client, ConnectedEvent event) { queue.add(event); }
            @Override public void onDisconnected(Client client, DisconnectedEvent event) { queue.add(event); }
            @Override public void onMessage(Client client, MessageEvent event) { queue.add(event); }
            @Override public void onSubscribed(Client client, ServerSubscribedEvent event) { queue.add(event); }
            @Override public void onUnsubscribed(Client client, ServerUnsubscribedEvent event) { queue.add(event); }
            @Override public void onPublication(Client client, ServerPublicationEvent event) { queue.add(event); }
        };
    }

    SubscriptionEventListener ofSubscription() {
        return new SubscriptionEventListener() {
            @Override public void onSubscribed(Subscription subscription, SubscribedEvent event) { queue.add(event); }
            @Override public void onUnsubscribed(Subscription subscription, UnsubscribedEvent event) { queue.add(event); }
            @Override public void onPublication(Subscription subscription, PublicationEvent event) { queue.add(event); }
            @Override public void onJoin(Subscription subscription, JoinEvent event) { queue.add(event); }
            @Override public void onLeave(Subscription subscription, LeaveEvent event) { queue.add(event); }
        };
    }
}
