// An issuer that shares no code with Gitsmith: npm jose signs, and this writes one JSON object with the keys and, for each way
// of making or breaking a FIT, the token and the verdict that a receiver must reach.
//
//   node issue.mjs FOLDER-OF-JOSE APP-ID

import { createHmac } from "node:crypto";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, app] = process.argv.slice(2);
const jose = await import(pathToFileURL(createRequire(folder + "/").resolve("jose")));

const now = Math.floor(Date.now() / 1000);
const kid = "forge/invocation-token/jose";
const own = await jose.generateKeyPair("RS256", { extractable: true });
const foreign = await jose.generateKeyPair("RS256", { extractable: true });
const curve = await jose.generateKeyPair("ES256", { extractable: true });
const short = { kty: "RSA", n: (await jose.exportJWK(own.publicKey)).n.slice(0, 171), e: "AQAB" };
const jwk = { ...(await jose.exportJWK(own.publicKey)), kid, alg: "RS256", use: "sig" };

const claims = (change = {}) => {
  const all = {
    iss: "forge/invocation-token", aud: app, iat: now, nbf: now, exp: now + 25, jti: "1",
    app: {
      id: app, appVersion: "1.0.0", installationId: "ari:cloud:ecosystem::installation/1",
      environment: { type: "PRODUCTION" }, module: { type: "bitbucket:repoMainMenuPage", key: "page" },
    },
    context: { workspaceId: "{11111111-2222-4333-8444-555555555555}" }, principal: "712020:alice",
    ...change,
  };
  for (const name of Object.keys(all)) if (all[name] === undefined) delete all[name];
  return all;
};
const encode = (value) => jose.base64url.encode(typeof value === "string" ? value : JSON.stringify(value));
const sign = (change, header = {}, key = own.privateKey) =>
  new jose.SignJWT(claims(change)).setProtectedHeader({ alg: "RS256", kid, typ: "JWT", ...header }).sign(key);
const hmac = (secret, header = {}) => {
  const text = encode({ alg: "HS256", kid, ...header }) + "." + encode(claims());
  return text + "." + createHmac("sha256", secret).update(text).digest("base64url");
};
const rsa = async (alg) => sign({}, { alg }, await jose.importPKCS8(await jose.exportPKCS8(own.privateKey), alg));
const good = await sign();
const other = app.replace(/.$/, (last) => (last === "0" ? "1" : "0"));
const [head, body, signature] = good.split(".");

const cases = [];
const accept = (name, token) => cases.push({ name, token, want: "accept" });
const refuse = (name, token) => cases.push({ name, token, want: "refuse" });

accept("a right one", good);
accept("the same one again", good);
accept("without a user", await sign({ principal: undefined }));
accept("expired within the leeway", await sign({ iat: now - 27, nbf: now - 27, exp: now - 2 }));
accept("nbf within the leeway", await sign({ nbf: now + 3 }));
accept("aud as a list of one", await sign({ aud: [app] }));
accept("a jku header, which nobody follows", await sign({}, { jku: "https://attacker.example/keys" }));
accept("a jwk header, which nobody takes", await sign({}, { jwk: await jose.exportJWK(foreign.publicKey) }));
accept("an x5u header, which nobody follows", await sign({}, { x5u: "https://attacker.example/cert" }));

refuse("alg none", encode({ alg: "none", kid }) + "." + encode(claims()) + ".");
refuse("alg none with the old signature", encode({ alg: "none", kid }) + "." + body + "." + signature);
refuse("HS256 by the public key's PEM", hmac(await jose.exportSPKI(own.publicKey)));
refuse("HS256 by the public key's modulus", hmac(Buffer.from(jwk.n, "base64url")));
refuse("HS256 by the key set", hmac(JSON.stringify({ keys: [jwk] })));
refuse("RS384", await rsa("RS384"));
refuse("RS512", await rsa("RS512"));
refuse("PS256", await rsa("PS256"));
refuse("ES256", await sign({}, { alg: "ES256" }, curve.privateKey));
refuse("a header that says RS256 over RS512", encode({ alg: "RS256", kid }) + "." + (await rsa("RS512")).split(".").slice(1).join("."));
refuse("another app's aud", await sign({ aud: other }));
refuse("two auds", await sign({ aud: [app, other] }));
refuse("another app's id", await sign({ app: { ...claims().app, id: other } }));
refuse("a staging key", await sign({}, { kid: "forge/invocation-token/staging" }, foreign.privateKey));
refuse("a foreign key under a known id", await sign({}, {}, foreign.privateKey));
refuse("the foreign key in a jwk header", await sign({}, { jwk: await jose.exportJWK(foreign.publicKey) }, foreign.privateKey));
refuse("no kid", await sign({}, { kid: undefined }));
refuse("a kid that is a number", encode({ alg: "RS256", kid: 1 }) + "." + body + "." + signature);
refuse("expired", await sign({ iat: now - 40, nbf: now - 40, exp: now - 15 }));
refuse("not valid yet", await sign({ nbf: now + 30 }));
refuse("issued in the future", await sign({ iat: now + 30 }));
refuse("a life of six minutes", await sign({ exp: now + 360 }));
for (const name of ["iss", "aud", "exp", "nbf", "iat", "app"]) refuse("no " + name, await sign({ [name]: undefined }));
refuse("a context token", await sign({ iss: "forge/context-token" }));
refuse("no installation", await sign({ app: { id: app } }));
refuse("Isolated Cloud without a template", await sign({ icLabel: "ic-1" }));
refuse("an icLabel that is a path", await sign({ icLabel: "../../keys" }));
refuse("a changed payload", head + "." + encode(claims({ principal: "712020:mallory" })) + "." + signature);
refuse("a changed header", encode({ alg: "RS256", kid, typ: "at+jwt" }) + "." + body + "." + signature);
refuse("no signature", head + "." + body + ".");
refuse("two parts", head + "." + body);
refuse("four parts", good + ".x");
refuse("a padded signature", good + "==");
refuse("an encrypted token", head + "." + body + "." + signature + "." + signature + "." + signature);
refuse("spaces inside", head + " ." + body + "." + signature);
refuse("an opaque token", "ATCT" + "x".repeat(180));

const keys = [jwk, { ...short, kid: "short", alg: "RS256", use: "sig" }, { ...(await jose.exportJWK(curve.publicKey)), kid: "curve", alg: "ES256", use: "sig" }];
console.log(JSON.stringify({ now, jwks: { keys }, cases }));
