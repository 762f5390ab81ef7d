// Checks a Forge manifest with Atlassian's own validator, offline: node deploy/forge/validate.mjs [manifest]
// The validator comes from npm (`make test-tools`) and is looked for in build/node; it is under Atlassian's licence and no
// part of this repository. It misses misspelt events and scopes that are lacking, so those are checked here.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const manifest = resolve(process.argv[2] ?? resolve(here, "manifest.yml"));
const require = createRequire(resolve(here, "../../build/node/node_modules/"));

const events = ["avi:forge:installed:app", "avi:forge:upgraded:app"];
const scopes = [
  "read:app-system-token",
  "read:app-user-token",
  "read:repository:bitbucket",
  "write:repository:bitbucket",
  "read:pullrequest:bitbucket",
  "write:pullrequest:bitbucket",
];

let validator;
try {
  validator = require("@forge/manifest");
} catch (cause) {
  console.error(`@forge/manifest is not in build/node; run make test-tools (${cause.code ?? cause.message})`);
  process.exit(2);
}

// Resources are looked for beside the manifest.
process.chdir(dirname(manifest));
const { success, errors, manifestObject } = await validator.validate(false, manifest);
const problems = (errors ?? []).map(({ level, line, message }) => ({ level, line, message }));

const app = manifestObject?.yamlContent ?? {};
for (const event of (app.modules?.trigger ?? []).flatMap((trigger) => trigger.events)) {
  if (!events.includes(event)) problems.push({ level: "error", message: `event ${event} is not one that the receiver takes` });
}
for (const scope of scopes) {
  if (!(app.permissions?.scopes ?? []).includes(scope)) problems.push({ level: "error", message: `scope ${scope} is missing` });
}

for (const { level, line, message } of problems) {
  console.log(`${manifest}:${line ?? 0}: ${level}: ${message}`);
}
const failed = !success || problems.some(({ level }) => level === "error");
console.log(failed ? "the manifest is not valid" : `the manifest is valid (${readFileSync(manifest).length} bytes)`);
process.exit(failed ? 1 : 0);
