package live;

import com.google.gson.Gson;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** JSON Web Tokens as an application would make them. */
final class Token {
    static final String SECRET = "a secret of at least thirty-two bytes";

    private Token() {}

    static String of(String user, Map<String, ?> more) {
        var claims = new HashMap<String, Object>(more);
        claims.put("sub", user);
        claims.putIfAbsent("exp", System.currentTimeMillis() / 1000 + 60);
        var signed = encode("{\"alg\":\"HS256\"}") + "." + encode(new Gson().toJson(claims));
        try {
            var mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(SECRET.getBytes(StandardCharsets.UTF_8), "HmacSHA256"));
            return signed + "." + encode(mac.doFinal(signed.getBytes(StandardCharsets.UTF_8)));
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException(error);
        }
    }

    private static String encode(String text) {
        return encode(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String encode(byte[] bytes) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(bytes);
    }
}
