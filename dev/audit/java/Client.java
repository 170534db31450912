import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.net.http.WebSocketHandshakeException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.zip.GZIPOutputStream;

/**
 * Java's own HTTP client against the service: `java Client.java ORIGIN`.
 *
 * Its default over cleartext offers an upgrade to HTTP/2 (h2c) with each first request of a connection. The
 * service must read the body all the same, and answer as it answers everybody.
 */
public final class Client {
    private static final String QUERY = "{ service { version } }";
    private static final byte[] BODY = ("{\"query\": \"" + QUERY + "\"}").getBytes(StandardCharsets.UTF_8);
    private static final long LATE_MILLISECONDS = 400;

    private final HttpClient client;
    private final String origin;
    private final String name;
    private int answered = 0;

    private Client(HttpClient.Builder builder, String origin, String name) {
        this.client = builder.connectTimeout(Duration.ofSeconds(10)).build();
        this.origin = origin;
        this.name = name;
    }

    public static void main(String[] arguments) throws Exception {
        String origin = arguments[0];
        new Client(HttpClient.newBuilder(), origin, "the default, which offers h2c").run();
        new Client(HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1), origin, "HTTP_1_1").run();
    }

    private void run() throws Exception {
        expect("POST", 200, QUERY_ANSWERED, send(post(BodyPublishers.ofByteArray(BODY))));
        expect("POST again on the connection", 200, QUERY_ANSWERED, send(post(BodyPublishers.ofByteArray(BODY))));
        expect("GET", 200, QUERY_ANSWERED, send(request("/graphql?query=%7Bservice%7Bversion%7D%7D").GET()));
        expect("GET of a page", 200, "<!doctype html>", send(request("/").header("Accept", "text/html").GET()));
        expect("HEAD", 200, "", send(request("/health").method("HEAD", BodyPublishers.noBody())));
        expect("POST that takes gzip", 200, QUERY_ANSWERED,
            send(post(BodyPublishers.ofByteArray(BODY)).header("Accept-Encoding", "gzip")));
        expect("POST of gzip", 415, "UNSUPPORTED_MEDIA_TYPE",
            send(post(BodyPublishers.ofByteArray(gzipped())).header("Content-Encoding", "gzip")));
        expect("a late body, chunked", 200, QUERY_ANSWERED, send(post(late())));
        expect("a late body with its length", 200, QUERY_ANSWERED,
            send(post(BodyPublishers.fromPublisher(late(), BODY.length))));
        expect("100-continue", 200, QUERY_ANSWERED,
            send(post(BodyPublishers.ofByteArray(BODY)).expectContinue(true)));
        expect("a body that is a request", 400, "BAD_REQUEST",
            send(post(BodyPublishers.ofString("GET /live HTTP/1.1\r\nHost: x\r\n\r\n"))));
        expect("a body of 60 KB", 200, QUERY_ANSWERED, send(post(BodyPublishers.ofString(
            "{\"query\": \"" + QUERY + "\", \"variables\": {\"x\": \"" + "x".repeat(60_000) + "\"}}"))));
        manyAtOnce();
        webSocket();
        System.out.println("  " + name + ": " + answered + " requests answered as they should be");
    }

    private static final String QUERY_ANSWERED = "{\"data\":{\"service\":{\"version\":";

    private void manyAtOnce() {
        List<CompletableFuture<HttpResponse<String>>> pending = new ArrayList<>();
        for (int number = 0; number < 40; number++) {
            HttpRequest one = post(number % 2 == 0 ? BodyPublishers.ofByteArray(BODY) : late()).build();
            pending.add(client.sendAsync(one, BodyHandlers.ofString()));
        }
        for (CompletableFuture<HttpResponse<String>> one : pending) {
            expect("one of many at once", 200, QUERY_ANSWERED, one.join());
        }
    }

    /** A handshake is refused with a status; its reason is in the body, which this client does not show. */
    private void webSocket() {
        URI address = URI.create(origin.replaceFirst("^http", "ws") + "/graphql");
        try {
            client.newWebSocketBuilder().subprotocols("graphql-transport-ws")
                .buildAsync(address, new WebSocket.Listener() { }).join();
            throw new AssertionError(name + ": a WebSocket was opened");
        } catch (CompletionException error) {
            if (!(error.getCause() instanceof WebSocketHandshakeException refused)) {
                throw error;
            }
            check("a WebSocket's handshake", 400 == refused.getResponse().statusCode(), refused.getResponse());
        }
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(origin + path)).timeout(Duration.ofSeconds(20));
    }

    private HttpRequest.Builder post(BodyPublisher body) {
        return request("/graphql").header("Content-Type", "application/json").POST(body);
    }

    private HttpResponse<String> send(HttpRequest.Builder request) throws IOException, InterruptedException {
        return client.send(request.build(), BodyHandlers.ofString());
    }

    private void expect(String what, int status, String said, HttpResponse<String> response) {
        boolean right = response.statusCode() == status && response.body().contains(said)
            && response.version() == HttpClient.Version.HTTP_1_1;
        check(what, right, response);
    }

    private void check(String what, boolean right, HttpResponse<?> response) {
        if (!right) {
            throw new AssertionError(name + ", " + what + ": " + response + " " + response.body());
        }
        answered++;
    }

    /** A body that is not there yet when the head is sent. */
    private static BodyPublisher late() {
        return BodyPublishers.ofInputStream(() -> new InputStream() {
            private final InputStream body = new ByteArrayInputStream(BODY);
            private boolean waited = false;

            @Override
            public int read() throws IOException {
                if (!waited) {
                    waited = true;
                    try {
                        Thread.sleep(LATE_MILLISECONDS);
                    } catch (InterruptedException error) {
                        throw new IOException(error);
                    }
                }
                return body.read();
            }
        });
    }

    private static byte[] gzipped() throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (GZIPOutputStream gzip = new GZIPOutputStream(bytes)) {
            gzip.write(BODY);
        }
        return bytes.toByteArray();
    }
}
