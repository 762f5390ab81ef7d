// Bundles the page into dist, which manifest.yml names as its resource: node build.mjs
// Forge serves it from a path of its own and allows neither inline scripts nor inline styles, so all are files beside index.html.
import { build } from "esbuild";
import { copyFile, mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");

await rm(dist, { recursive: true, force: true });
await mkdir(dist);
await build({
  entryPoints: { app: join(here, "src/main.jsx") },
  outdir: dist,
  bundle: true,
  minify: true,
  jsx: "automatic",
  target: ["es2022"],
  define: { "process.env.NODE_ENV": '"production"' },
  legalComments: "linked",
  logLevel: "warning",
});
await copyFile(join(here, "index.html"), join(dist, "index.html")); // last: make takes it for the sign that all is there
