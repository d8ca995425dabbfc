#!/usr/bin/env bash
# curl, OkHttp and Java's HttpURLConnection send a POST a second time by themselves, and report a single success to the
# caller.
#
# The guess: a caller that does not ask for retries gets none, least of all for a POST. By RFC 9110 (9.2.2) clients
# repeat only idempotent requests, and curl has `--retry` for that, which is off. A caller that sees no error has sent
# one request.
# What happens if a server accepts a POST and dies before it answers: on a connection that has served another request,
# curl (libcurl, and so PHP and other programs based on it) and OkHttp assume that the connection had already been
# closed, and send the whole POST again on a new one. HttpURLConnection does so even on a new connection. Each reports
# the second response as the only one. java.net.http, Apache's client, undici and requests report an error after the
# first attempt.
# So: a server that counts, charges or publishes once per POST gets duplicates from callers that saw no error and have
# no retry in their code. The duplicates appear when servers are restarted, and not in tests that open a connection per
# request. Only an idempotency key in the request helps.
#
# Versions: okhttp 5.5.1 and httpclient5 5.6.5 of Maven, undici 6.29.1 of npm, requests 2.34.2 of PyPI; curl and Java as
# installed (seen with curl 7.88.1 and Java 17.0.15).
set -euo pipefail
dir=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/packages" requests==2.34.2
npm install --silent --no-audit --no-fund --prefix "$dir" undici@6.29.1 >/dev/null
cat >"$dir/pom.xml" <<'X'
<project><modelVersion>4.0.0</modelVersion><groupId>f</groupId><artifactId>f</artifactId><version>1</version><dependencies>
<dependency><groupId>com.squareup.okhttp3</groupId><artifactId>okhttp-jvm</artifactId><version>5.5.1</version></dependency>
<dependency><groupId>org.apache.httpcomponents.client5</groupId><artifactId>httpclient5</artifactId><version>5.6.5</version></dependency>
</dependencies></project>
X
mvn -q -B -f "$dir/pom.xml" -Dmaven.repo.local="$dir/maven" dependency:copy-dependencies -DoutputDirectory="$dir/jars" >"$dir/maven.log" 2>&1

cat >"$dir/server.py" <<'PY'
# Answers /NAME/warm. Of /NAME/fresh and /NAME/reused it takes the first request whole and closes without an answer, and answers those
# that come later. Every one that was taken whole is written down.
import socketserver, sys, threading

taken, lock = {}, threading.Lock()

class Connection(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline().strip():
            length = 0
            while header := self.rfile.readline().strip():
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            method, path = line.decode().split()[:2]
            assert method == "POST" and self.rfile.read(length) == b"hello"
            with lock:
                taken[path] = taken.get(path, 0) + 1
                with open(sys.argv[1] + "/taken", "a") as file:
                    file.write(path + "\n")
                if taken[path] == 1 and not path.endswith("/warm"):
                    return
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

with Server(("127.0.0.1", 0), Connection) as server:
    with open(sys.argv[1] + "/port", "w") as file:
        file.write(str(server.server_address[1]))
    server.serve_forever()
PY
cat >"$dir/post.py" <<'PY'
import sys
import requests

session = requests.Session()
for step in ["fresh", "warm", "reused"]:
    try:
        said = session.post(f"{sys.argv[1]}/requests/{step}", data=b"hello", timeout=20).text
    except requests.RequestException:
        said = "error"
    print("requests", step, said)
PY
cat >"$dir/post.cjs" <<'JS'
const { fetch } = require("undici");
(async () => {
  for (const step of ["fresh", "warm", "reused"]) {
    const answer = fetch(`${process.argv[2]}/undici/${step}`, { method: "POST", body: "hello" });
    console.log("undici", step, await answer.then((response) => response.text()).catch(() => "error"));
  }
})();
JS
cat >"$dir/Post.java" <<'J'
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import org.apache.hc.client5.http.classic.methods.HttpPost;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.core5.http.io.entity.EntityUtils;
import org.apache.hc.core5.http.io.entity.StringEntity;

public class Post {
    interface Client { String post(String url) throws Exception; }

    static void try_(String base, String name, Client client) {
        for (String step : new String[] {"fresh", "warm", "reused"}) {
            String said;
            try { said = client.post(base + "/" + name + "/" + step); } catch (Exception e) { said = "error"; }
            System.out.println(name + " " + step + " " + said);
        }
    }

    public static void main(String[] arguments) throws Exception {
        String base = arguments[0];
        try_(base, "HttpURLConnection", url -> {
            var connection = (HttpURLConnection) URI.create(url).toURL().openConnection();
            connection.setRequestMethod("POST");
            connection.setDoOutput(true);
            connection.getOutputStream().write("hello".getBytes());
            return new String(connection.getInputStream().readAllBytes());
        });
        var jdk = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        try_(base, "java.net.http", url -> jdk.send(java.net.http.HttpRequest.newBuilder(URI.create(url))
            .POST(BodyPublishers.ofString("hello")).build(), BodyHandlers.ofString()).body());
        var okhttp = new okhttp3.OkHttpClient();
        try_(base, "okhttp", url -> {
            var body = okhttp3.RequestBody.create("hello".getBytes());
            try (var response = okhttp.newCall(new okhttp3.Request.Builder().url(url).post(body).build()).execute()) {
                return response.body().string();
            }
        });
        var apache = HttpClients.createDefault();
        try_(base, "httpclient5", url -> {
            var post = new HttpPost(url);
            post.setEntity(new StringEntity("hello"));
            return apache.execute(post, response -> EntityUtils.toString(response.getEntity()));
        });
        System.exit(0);
    }
}
J
python3 "$dir/server.py" "$dir" &
server=$!
for _ in $(seq 500); do [ -s "$dir/port" ] && break; sleep 0.02; done
base="http://127.0.0.1:$(cat "$dir/port")"
{
  echo "curl fresh $(curl -s -d hello "$base/curl/fresh" || echo error)"
  echo "curl reused $(curl -s -o "$dir/warm" -d hello "$base/curl/warm" --next -s -d hello "$base/curl/reused" || echo error)"
  timeout 60 java -cp "$dir/jars/*" "$dir/Post.java" "$base" 2>"$dir/java.log" || cat "$dir/java.log" >&2
  timeout 30 node "$dir/post.cjs" "$base"
  PYTHONPATH="$dir/packages" timeout 30 python3 "$dir/post.py" "$base"
} >"$dir/told"
changed=0
while read -r name fresh fresh_told reused reused_told; do
  seen=()
  for step in fresh reused; do
    seen+=("$(grep -c "^/$name/$step$" "$dir/taken")" "$(sed -n "s/^$name $step //p" "$dir/told")")
  done
  echo "$name: on a new connection ${seen[0]} taken, told ${seen[1]}; on a used one ${seen[2]} taken, told ${seen[3]}"
  [ "${seen[*]}" = "$fresh $fresh_told $reused $reused_told" ] || changed=1
done <<'EXPECTED'
curl 1 error 2 ok
okhttp 1 error 2 ok
HttpURLConnection 2 ok 2 ok
java.net.http 1 error 1 error
httpclient5 1 error 1 error
undici 1 error 1 error
requests 1 error 1 error
EXPECTED
[ "$changed" = 0 ] || exit 1
echo "as before"
