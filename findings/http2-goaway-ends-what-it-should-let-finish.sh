#!/usr/bin/env bash
# Some HTTP/2 clients abort running event streams when a server announces its drain by GOAWAY, as RFC 9113 describes.
#
# The guess: GOAWAY with NO_ERROR and the highest stream id ends no running stream. A client reads its stream to the
# end, and opens another connection for further requests. So a server can send GOAWAY at the beginning of a drain, and
# close its clients one by one.
# What happens: undici (and fetch over it), httpx, and the HTTP client of Java 17 fail the stream with an error the
# moment GOAWAY arrives, before the server has ended anything. curl, Node's http2, OkHttp, and the HTTP client of Java
# 25 read the whole stream.
# So: for some clients GOAWAY is the end. If clients are to leave one by one, the server has to send GOAWAY connection
# by connection, spread over the drain. A client of these kinds reconnects at once, even if its stream had minutes left.
#
# Versions: undici 7.30.2 of npm, httpx 0.28.1 with h2 4.4.1 of PyPI, okhttp 5.5.1 of Maven; Node, curl and every Java
# as installed (seen with Node 20.20.2, curl 7.88.1, Java 17.0.15 and 25.0.3).
set -euo pipefail
dir=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/packages" httpx==0.28.1 h2==4.4.1
npm install --silent --no-audit --no-fund --prefix "$dir" undici@7.30.2 >/dev/null
cat >"$dir/pom.xml" <<'X'
<project><modelVersion>4.0.0</modelVersion><groupId>f</groupId><artifactId>f</artifactId><version>1</version><dependencies>
<dependency><groupId>com.squareup.okhttp3</groupId><artifactId>okhttp-jvm</artifactId><version>5.5.1</version></dependency>
</dependencies></project>
X
mvn -q -B -f "$dir/pom.xml" -Dmaven.repo.local="$dir/maven" dependency:copy-dependencies -DoutputDirectory="$dir/jars" >"$dir/maven.log" 2>&1
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
keytool -importcert -noprompt -file "$dir/cert.pem" -keystore "$dir/trust" -storepass changeit >/dev/null 2>&1

cat >"$dir/server.cjs" <<'JS'
// Four events on a stream. After the first GOAWAY with the highest id, after the second GOAWAY with the stream's own.
const fs = require("fs");
const folder = process.argv[2];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const server = require("http2").createSecureServer({
  cert: fs.readFileSync(`${folder}/cert.pem`),
  key: fs.readFileSync(`${folder}/key.pem`),
});
server.on("session", (session) => session.on("error", () => {}));
server.on("stream", async (stream, headers) => {
  stream.on("error", () => {});
  stream.respond({ ":status": 200, "content-type": "text/event-stream" });
  if (headers[":path"] === "/after") return stream.end("data: after\n\n");
  for (const number of [1, 2, 3, 4]) {
    if (stream.destroyed) return undefined;
    stream.write(`data: ${number}\n\n`);
    await pause(250);
    if (!stream.destroyed && number < 3) stream.session?.goaway(0, number === 1 ? 2 ** 31 - 1 : stream.id);
  }
  return stream.destroyed || stream.end();
});
server.listen(0, "127.0.0.1", () => fs.writeFileSync(`${folder}/port`, String(server.address().port)));
JS
cat >"$dir/undici.cjs" <<'JS'
const { Agent, fetch } = require("undici");
const [folder, base] = process.argv.slice(2);
const dispatcher = new Agent({ allowH2: true, connect: { ca: require("fs").readFileSync(`${folder}/cert.pem`) } });
const count = async (path) => {
  let heard = "";
  try {
    for await (const chunk of (await fetch(base + path, { dispatcher })).body) heard += Buffer.from(chunk).toString();
    return `${heard.split("data").length - 1}, whole`;
  } catch {
    return `${heard.split("data").length - 1}, broken`;
  }
};
count("/events").then(async (events) => { console.log(events, "and after it", await count("/after")); process.exit(); });
JS
cat >"$dir/node.cjs" <<'JS'
const [folder, base] = process.argv.slice(2);
const ca = require("fs").readFileSync(`${folder}/cert.pem`);
const count = (path) => new Promise((done) => {
  const session = require("http2").connect(base, { ca });
  let heard = "", ending = "whole";
  const stream = session.request({ ":path": path });
  stream.on("data", (data) => { heard += data; });
  stream.on("error", () => { ending = "broken"; });
  stream.on("close", () => { session.close(); done(`${heard.split("data").length - 1}, ${ending}`); });
});
count("/events").then(async (events) => { console.log(events, "and after it", await count("/after")); process.exit(); });
JS
cat >"$dir/get.py" <<'PY'
import ssl, sys
import h2.exceptions, httpx

folder, base = sys.argv[1:]

def count(client, path):
    heard = ""
    try:
        with client.stream("GET", base + path) as response:
            assert response.http_version == "HTTP/2"
            for text in response.iter_text():
                heard += text
        return f"{heard.count('data')}, whole"
    except (httpx.HTTPError, h2.exceptions.ProtocolError):
        return f"{heard.count('data')}, broken"

with httpx.Client(http2=True, verify=ssl.create_default_context(cafile=folder + "/cert.pem"), timeout=20) as client:
    print(count(client, "/events"), "and after it", count(client, "/after"))
PY
cat >"$dir/Get.java" <<'J'
import java.io.*;
import java.net.URI;
import java.net.http.*;
import java.security.KeyStore;
import javax.net.ssl.*;

public class Get {
    interface Stream { InputStream open(String path) throws Exception; }

    static String count(Stream stream, String path) {
        var heard = new StringBuilder();
        try (var in = stream.open(path)) {
            var bytes = new byte[4096];
            for (int n; (n = in.read(bytes)) >= 0; ) heard.append(new String(bytes, 0, n));
            return heard.toString().split("data", -1).length - 1 + ", whole";
        } catch (Exception e) {
            return heard.toString().split("data", -1).length - 1 + ", broken";
        }
    }

    public static void main(String[] arguments) throws Exception {
        String folder = arguments[0], base = arguments[1];
        var store = KeyStore.getInstance(new File(folder + "/trust"), "changeit".toCharArray());
        var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        var tls = SSLContext.getInstance("TLS");
        tls.init(null, managers.getTrustManagers(), null);
        Stream stream;
        if (arguments[2].equals("okhttp")) {
            var client = new okhttp3.OkHttpClient.Builder()
                .sslSocketFactory(tls.getSocketFactory(), (X509TrustManager) managers.getTrustManagers()[0]).build();
            stream = path -> client.newCall(new okhttp3.Request.Builder().url(base + path).build()).execute().body().byteStream();
        } else {
            var client = HttpClient.newBuilder().sslContext(tls).build();
            stream = path -> client.send(HttpRequest.newBuilder(URI.create(base + path)).build(),
                HttpResponse.BodyHandlers.ofInputStream()).body();
        }
        System.out.println(count(stream, "/events") + " and after it " + count(stream, "/after"));
        System.exit(0);
    }
}
J
node "$dir/server.cjs" "$dir" &
server=$!
for _ in $(seq 500); do [ -s "$dir/port" ] && break; sleep 0.02; done
base="https://localhost:$(cat "$dir/port")"
changed=0
hears() {
  local name=$1 expected="$2 and after it 1, whole" seen
  shift 2
  seen=$(timeout 60 "$@" 2>>"$dir/noise") || cat "$dir/noise"
  echo "of four events $name hears $seen"
  [ "$seen" = "$expected" ] || changed=1
}
# shellcheck disable=SC2016
hears "$(curl --version | head -1 | cut -d' ' -f1,2)" "4, whole" bash -c '
  count() { curl -sN --http2 --cacert "$1/cert.pem" "$2" >"$1/heard" && how=whole || how=broken; echo "$(grep -c data "$1/heard"), $how"; }
  echo "$(count "$0" "$1/events") and after it $(count "$0" "$1/after")"' "$dir" "$base"
hears "Node's http2" "4, whole" node "$dir/node.cjs" "$dir" "$base"
hears "undici 7.30.2" "1, broken" node "$dir/undici.cjs" "$dir" "$base"
hears "httpx 0.28.1" "1, broken" env PYTHONPATH="$dir/packages" python3 "$dir/get.py" "$dir" "$base"
hears "okhttp 5.5.1" "4, whole" java -cp "$dir/jars/*" "$dir/Get.java" "$dir" "$base" okhttp
for java in "$(dirname "$(readlink -f "$(command -v java)")")" /usr/lib/jvm/*25*/bin; do
  [ -x "$java/java" ] || continue
  version=$("$java/java" -version 2>&1 | head -1 | cut -d'"' -f2)
  case $version in 17.*) expected="1, broken" ;; 25.*) expected="4, whole" ;; *) continue ;; esac
  hears "the client of Java $version" "$expected" "$java/java" -cp "$dir/jars/*" "$dir/Get.java" "$dir" "$base" java
done
[ "$changed" = 0 ] || exit 1
echo "as before"
