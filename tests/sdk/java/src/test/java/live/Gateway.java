package live;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** A gateway of the built program on free ports, with a configuration of its own. */
final class Gateway implements AutoCloseable {
    static final int SECONDS_MAX = 20;
    private static final String KEY = "test-key";
    private static final Gson GSON = new Gson();

    private final HttpClient http = HttpClient.newHttpClient();
    private final Process process;
    private final Path file;
    private final String address;
    private final String internal;

    /** Starts a gateway, and waits until it has logged the addresses at which it listens. */
    Gateway(String config) throws Exception {
        file = Files.createTempFile("tidegate-test-", ".toml");
        Files.writeString(file, config);
        var binary = Path.of(System.getenv("TIDEGATE_BIN_DIR"), "tidegate").toString();
        var command = List.of(binary, "serve", "--config", file.toString(), "--listen", "127.0.0.1:0",
                "--internal-listen", "127.0.0.1:0");
        var builder = new ProcessBuilder(command).redirectOutput(ProcessBuilder.Redirect.DISCARD);
        builder.environment().putAll(Map.of("TIDEGATE_TELEMETRY__LOG_FORMAT", "json", "TIDEGATE_API__KEYS", KEY));
        process = builder.start();
        var listening = new CompletableFuture<JsonObject>();
        var reading = new Thread(() -> read(listening), "the gateway's log");
        reading.setDaemon(true);
        reading.start();
        try {
            var serving = listening.get(SECONDS_MAX, TimeUnit.SECONDS);
            address = serving.get("client_address").getAsString();
            internal = serving.get("internal_address").getAsString();
        } catch (Exception error) {
            close();
            throw error;
        }
    }

    /** Reads the log to its end, so that the gateway never blocks on a full pipe. */
    private void read(CompletableFuture<JsonObject> listening) {
        var log = new StringBuilder();
        try (var lines = new BufferedReader(new InputStreamReader(process.getErrorStream(), StandardCharsets.UTF_8))) {
            for (String line; (line = lines.readLine()) != null; ) {
                log.append(line).append('\n');
                var fields = JsonParser.parseString(line).getAsJsonObject();
                if (fields.has("client_address")) {
                    listening.complete(fields);
                }
            }
        } catch (IOException | RuntimeException error) {
            log.append(error);
        }
        listening.completeExceptionally(new IOException("the gateway did not start:\n" + log));
    }

    String url() {
        return "ws://" + address + "/connection/websocket";
    }

    /** Returns the address for clients, without a path. */
    String origin() {
        return "http://" + address;
    }

    /** Calls the server API. An error reply is thrown as an exception. */
    JsonObject api(String method, Map<String, ?> params) throws Exception {
        var request = HttpRequest.newBuilder(URI.create("http://" + address + "/api/" + method))
                .header("X-API-Key", KEY)
                .POST(HttpRequest.BodyPublishers.ofString(GSON.toJson(params)))
                .build();
        var response = http.send(request, HttpResponse.BodyHandlers.ofString());
        var answer = JsonParser.parseString(response.body()).getAsJsonObject();
        if (!answer.has("result")) {
            throw new IOException(method + ": " + response.statusCode() + " " + response.body());
        }
        return answer.getAsJsonObject("result");
    }

    /** Waits until a metric, named with its labels, has this value. */
    void metricBecomes(String name, int value) throws Exception {
        var request = HttpRequest.newBuilder(URI.create("http://" + internal + "/metrics")).build();
        var until = System.nanoTime() + TimeUnit.SECONDS.toNanos(SECONDS_MAX);
        String line = null;
        while (System.nanoTime() < until) {
            var metrics = http.send(request, HttpResponse.BodyHandlers.ofString()).body();
            line = metrics.lines().filter(found -> found.startsWith(name + " ")).findFirst().orElse(null);
            if ((name + " " + value).equals(line)) {
                return;
            }
            TimeUnit.MILLISECONDS.sleep(10);
        }
        throw new TimeoutException(name + " is not " + value + ": " + line);
    }

    /** Publishes all numbers from {@code first} to {@code last}. */
    void publish(String channel, int first, int last) throws Exception {
        for (int number = first; number <= last; number++) {
            api("publish", Map.of("channel", channel, "data", number));
        }
    }

    @Override
    public void close() throws IOException, TimeoutException {
        process.destroy();
        try {
            if (!process.waitFor(SECONDS_MAX, TimeUnit.SECONDS)) {
                process.destroyForcibly();
                throw new TimeoutException("the gateway did not stop");
            }
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        } finally {
            Files.deleteIfExists(file);
        }
    }
}
