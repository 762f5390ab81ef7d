// Checks Forge manifests with Atlassian's own validator, offline: node deploy/forge/validate.mjs [manifest…]
// The validator comes from npm (`make test-tools`) and is looked for in build/node; it is under Atlassian's licence and no
// part of this repository. It misses misspelt events and scopes that are lacking, so those are checked here.
// Status: 0 where all are valid, 1 where one is not, 2 where the validator is missing.
import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(resolve(here, "../../build/node/node_modules/"));

const events = [
  "avi:forge:installed:app",
  "avi:forge:upgraded:app",
  ...["created", "updated", "push", "deleted"].map((verb) => `avi:bitbucket:${verb}:repository`),
  ...["created", "updated"].map((verb) => `avi:bitbucket:${verb}:build-status`),
  "avi:bitbucket:created:commit-comment",
  ...["created", "updated", "fulfilled", "rejected"].map((verb) => `avi:bitbucket:${verb}:pullrequest`),
  ...["created", "updated", "deleted", "resolved", "reopened"].map((verb) => `avi:bitbucket:${verb}:pullrequest-comment`),
  "avi:bitbucket:updated:pullrequest-reviewer-status",
  ...["pending", "started", "completed"].map((verb) => `avi:bitbucket:${verb}:deployment`),
];
const scopes = [
  "read:app-system-token",
  "read:app-user-token",
  "read:repository:bitbucket",
  "write:repository:bitbucket",
  "read:pullrequest:bitbucket",
  "write:pullrequest:bitbucket",
  "read:pipeline:bitbucket",
];

let validator;
try {
  validator = require("@forge/manifest");
} catch (cause) {
  console.error(`@forge/manifest is not in build/node; run make test-tools (${cause.code ?? cause.message})`);
  process.exit(2);
}

async function check(manifest) {
  process.chdir(dirname(manifest)); // resources are looked for beside the manifest
  const { success, errors, manifestObject } = await validator.validate(false, manifest);
  const problems = (errors ?? []).map(({ level, line, message }) => ({ level, line, message }));

  const app = manifestObject?.yamlContent ?? {};
  for (const event of (app.modules?.trigger ?? []).flatMap((trigger) => trigger.events)) {
    if (!events.includes(event)) problems.push({ level: "error", message: `event ${event} is not one that the receiver takes` });
  }
  const given = app.permissions?.scopes ?? [];
  for (const scope of scopes) {
    if (!(Array.isArray(given) ? given : Object.keys(given)).includes(scope)) problems.push({ level: "error", message: `scope ${scope} is missing` });
  }

  // Forge's own calls bring the system token, a frontend's the user's; the receiver ignores a system token that a frontend brings.
  for (const { key, route, auth } of app.modules?.endpoint ?? []) {
    const delivered = route?.path?.startsWith("/forge/");
    const token = delivered ? "appSystemToken" : "appUserToken";
    if (auth?.[token]?.enabled !== true) problems.push({ level: "error", message: `endpoint ${key} needs auth.${token}.enabled: true` });
    if (!delivered && auth?.appSystemToken?.enabled) problems.push({ level: "error", message: `endpoint ${key} asks for a system token, which is ignored there; take auth.appSystemToken out` });
  }

  for (const { level, line, message } of problems) {
    console.log(`${manifest}:${line ?? 0}: ${level}: ${message}`);
  }
  const valid = success && problems.every(({ level }) => level !== "error");
  console.log(`${manifest}: ${valid ? "valid" : "not valid"}`);
  return valid;
}

const manifests = process.argv.length > 2 ? process.argv.slice(2) : [resolve(here, "manifest.yml")];
let failed = false;
for (const manifest of manifests.map((path) => resolve(path))) {
  if (!(await check(manifest))) failed = true;
}
process.exit(failed ? 1 : 0);
