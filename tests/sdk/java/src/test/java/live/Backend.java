package live;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

/** An application's backend, which the gateway calls. */
final class Backend implements AutoCloseable {
    private final HttpServer server;

    Backend() throws IOException {
        server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/rpc", exchange -> answer(exchange, called(exchange).toString()));
        // Messages of clients are echoed.
        server.createContext("/message", exchange -> answer(exchange, body(exchange)));
        server.start();
    }

    String url() {
        return "http://127.0.0.1:" + server.getAddress().getPort();
    }

    private static JsonObject called(HttpExchange exchange) throws IOException {
        var asked = JsonParser.parseString(body(exchange)).getAsJsonObject();
        var method = asked.get("method").getAsString();
        var result = new JsonObject();
        switch (method) {
            case "refuse" -> {
                var error = new JsonObject();
                error.addProperty("code", 1001);
                error.addProperty("message", "out of stock");
                return with("error", error);
            }
            case "echo" -> result.add("b64data", asked.get("b64data"));
            default -> {
                var data = new JsonObject();
                data.addProperty("method", method);
                data.add("user", asked.get("user"));
                data.add("data", asked.get("data"));
                result.add("data", data);
            }
        }
        return with("result", result);
    }

    private static JsonObject with(String name, JsonElement value) {
        var object = new JsonObject();
        object.add(name, value);
        return object;
    }

    private static String body(HttpExchange exchange) throws IOException {
        return new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
    }

    private static void answer(HttpExchange exchange, String text) throws IOException {
        var bytes = text.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(200, bytes.length);
        try (var out = exchange.getResponseBody()) {
            out.write(bytes);
        }
    }

    @Override
    public void close() {
        server.stop(0);
    }
}
