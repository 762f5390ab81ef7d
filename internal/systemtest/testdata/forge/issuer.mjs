// An issuer that shares no code with Gitsmith: npm jose signs FITs in the shapes that Atlassian's documentation of Forge Remote gives for
// each kind of call, and serves its keys as Forge does: n and e as base64url with padding, beside an entry of another kind.
//
//   node issuer.mjs FOLDER-OF-JOSE APP-ID
//
// It prints the port that it listens on, on 127.0.0.1, and serves GET /keys and GET /fit?kind=KIND[&principal=ID]. It ends with its
// standard input.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, app] = process.argv.slice(2);
const jose = await import(pathToFileURL(createRequire(folder + "/").resolve("jose")));

const kid = "forge/invocation-token/independent";
const { publicKey, privateKey } = await jose.generateKeyPair("RS256", { extractable: true });
const padded = (text) => text + "=".repeat((4 - (text.length % 4)) % 4);
const key = await jose.exportJWK(publicKey);
const keys = [
  { kty: "EC", crv: "P-256", kid: 7, x: "AQ", y: "AQ" },
  { ...key, n: padded(key.n), e: padded(key.e), kid, alg: "RS256", use: "sig" },
];

const workspace = "11111111-2222-4333-8444-555555555555";
const installation = "ari:cloud:ecosystem::installation/5a9db0c0-5a9d-4b0c-8a9d-b05a9db05a9d";

// The module of each kind of call. Only a frontend's is that of its own module.
const modules = {
  frontend: { type: "bitbucket:workspaceGlobalPage", key: "gitsmith-page" },
  event: { type: "core:endpoint", key: "events" },
  schedule: { type: "core:endpoint", key: "schedule" },
  lifecycle: { type: "core:endpoint", key: "lifecycle" },
  uninstall: { type: "core:endpoint", key: "uninstall" },
  function: { type: "core:endpoint" }, // key and context are not documented
};

const claims = (kind, principal) => {
  const now = Math.floor(Date.now() / 1000);
  return {
    iss: "forge/invocation-token", aud: app, iat: now, nbf: now, exp: now + 25, jti: crypto.randomUUID(),
    app: {
      id: app, version: "2.1.0", appVersion: "2.1.0", installationId: installation, apiBaseUrl: "https://api.bitbucket.org",
      environment: { type: "PRODUCTION", id: "ari:cloud:ecosystem::environment/1/2" },
      installation: { id: installation, contexts: [{ name: "ari:cloud:bitbucket::workspace/" + workspace, workspaceId: workspace }] },
      module: modules[kind], license: { active: true },
    },
    ...(kind !== "function" && { context: { workspaceId: `{${workspace}}` } }),
    ...(principal && { principal }),
  };
};

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  if (url.pathname === "/keys") {
    response.setHeader("Content-Type", "application/json");
    return response.end(JSON.stringify({ keys }));
  }
  const signer = new jose.SignJWT(claims(url.searchParams.get("kind"), url.searchParams.get("principal")));
  response.end(await signer.setProtectedHeader({ alg: "RS256", kid, typ: "JWT" }).sign(privateKey));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume().on("end", () => process.exit(0));
