#!/usr/bin/env bash
# Libraries for JSON Web Tokens sign claims that they themselves refuse to read, and no two agree on the meaning of
# null.
#
# The guess: null is the same as a missing claim, a numeric user id is as good as a string, and a library accepts what
# it signs.
# What happens: PyJWT signs {"sub": 42}, {"sub": null} and {"exp": null} without an error and refuses each when reading
# it. jsonwebtoken (npm) signs and accepts sub as a number and as null; jose accepts both. A null exp or nbf is refused
# by all three readers, a null iat by two, a null jti by one, a null iss or aud by none. Only PyJWT accepts exp as a
# string.
# So: an application with numeric user ids gets tokens that work with one library and not with another. A gateway that
# reads both forms spares its users this problem. A gateway that takes null as missing agrees with no library on every
# claim.
#
# Versions: PyJWT 2.15.1; jsonwebtoken 9.0.3 and jose 6.2.17 of npm. Every token is signed correctly, with a secret
# created here.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/packages" PyJWT==2.15.1
npm install --silent --no-audit --no-fund --prefix "$dir" jsonwebtoken@9.0.3 jose@6.2.17 >/dev/null
cat >"$dir/read.cjs" <<'JS'
const crypto = require("crypto");
const jsonwebtoken = require("jsonwebtoken");
const secret = "a secret of thirty-two bytes, see";
const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const sign = (claims) => {
  const text = part({ alg: "HS256", typ: "JWT" }) + "." + part(claims);
  return text + "." + crypto.createHmac("sha256", secret).update(text).digest("base64url");
};
const tried = async (what) => { try { await what(); return "accepted"; } catch { return "refused"; } };
(async () => {
  const jose = await import("jose");
  const cases = JSON.parse(process.argv[2]);
  const rows = [];
  for (const claims of cases) {
    const token = sign(claims);
    rows.push({
      token,
      jsonwebtoken: await tried(() => jsonwebtoken.verify(token, secret, { algorithms: ["HS256"] })),
      jose: await tried(() => jose.jwtVerify(token, new TextEncoder().encode(secret), { algorithms: ["HS256"] })),
      signed: await tried(() => jsonwebtoken.sign(claims, secret)),
    });
  }
  console.log(JSON.stringify(rows));
})();
JS
PYTHONPATH="$dir/packages" timeout 120 python3 - "$dir" <<'PY'
import json, subprocess, sys
import warnings
import jwt

warnings.simplefilter("ignore")
folder, secret = sys.argv[1], "a secret of thirty-two bytes, see"
# Claims: PyJWT signs, PyJWT reads, jsonwebtoken signs, jsonwebtoken reads, jose reads.
EXPECTED = [
    ({"sub": "42"}, "accepted accepted accepted accepted accepted"),
    ({"sub": 42}, "accepted refused accepted accepted accepted"),
    ({"sub": None}, "accepted refused accepted accepted accepted"),
    ({"exp": None}, "accepted refused refused refused refused"),
    ({"nbf": None}, "accepted refused refused refused refused"),
    ({"iat": None}, "accepted refused refused accepted refused"),
    ({"jti": None}, "accepted refused accepted accepted accepted"),
    ({"iss": None}, "refused accepted accepted accepted accepted"),
    ({"aud": None}, "accepted accepted accepted accepted accepted"),
    ({"exp": "4000000000"}, "accepted accepted refused refused refused"),
]

def tried(what):
    try:
        what()
        return "accepted"
    except Exception:
        return "refused"

cases = json.dumps([claims for claims, _ in EXPECTED])
rows = json.loads(subprocess.run(["node", folder + "/read.cjs", cases], capture_output=True, check=True).stdout)
changed = False
print("PyJWT", jwt.__version__, "signs, reads; jsonwebtoken 9.0.3 signs, reads; jose 6.2.17 reads")
for (claims, expected), row in zip(EXPECTED, rows):
    seen = " ".join([
        tried(lambda: jwt.encode(claims, secret, algorithm="HS256")),
        tried(lambda: jwt.decode(row["token"], secret, algorithms=["HS256"])),
        row["signed"],
        row["jsonwebtoken"],
        row["jose"],
    ])
    print(f"   {json.dumps(claims):24} {seen}")
    changed |= seen != expected
sys.exit(1 if changed else 0)
PY
echo "as before"
