// What the form holds, and the body of POST /v1/batches that it means.
import { tooLarge } from "./api.js";

export const maxRepositories = 10_000;
const part = /^[A-Za-z0-9_.-]+$/;
const share = /^(100|[1-9]?\d)%$/;

export const newChange = (kind) => ({ kind, path: "", content: "", paths: "", pattern: "", with: "", regexp: false, json: "" });

export const emptyForm = (workspace) => ({
  title: "",
  by: "list",
  list: "",
  workspace,
  name: "",
  project: "",
  language: "",
  hasFile: "",
  actor: "user",
  branch: "",
  message: "",
  changes: [newChange("put")],
  open: true,
  prTitle: "",
  prDescription: "",
  reviewers: "",
  dryRun: true,
  staged: true,
  canary: "5",
  then: "50%",
  stop: "10%",
  concurrency: "",
});

// request is {body, errors}: errors by the field's name, in the form's order; body is only whole where there are none.
export function request(form) {
  const errors = {};
  const body = {};
  if (form.title.trim()) body.title = form.title.trim();
  if (new TextEncoder().encode(form.title.trim()).length > 120) errors.title = "At most 120 bytes.";
  Object.assign(body, target(form, errors), { actor: form.actor, push: push(form, errors) });
  if (form.dryRun) body.dry_run = true;
  if (form.staged) body.rollout = rollout(form, errors);
  if (form.concurrency.trim()) body.concurrency = whole(form.concurrency, "concurrency", errors);
  if (Object.keys(errors).length === 0 && tooLarge(body)) {
    errors[form.by === "list" && form.list.length > 250_000 ? "list" : "changes"] = "Forge takes 500 KB at most from a page. Make this smaller, or start the batch from your app's backend.";
  }
  return { body, errors };
}

function target(form, errors) {
  if (form.by === "list") return { repositories: repositories(form.list, errors) };
  const query = {};
  const fields = { workspace: "workspace", name: "name", project: "project", language: "language", hasFile: "has_file" };
  for (const [field, name] of Object.entries(fields)) {
    if (form[field].trim()) query[name] = form[field].trim();
  }
  if (!query.workspace) errors.workspace = "Name the workspace, as in bitbucket.org/workspace.";
  return { query };
}

// A line is workspace/slug, or its address, and values for expressions: acme/web team=core.
function repositories(list, errors) {
  const found = [];
  const seen = new Map();
  list.split("\n").forEach((line, index) => {
    const [address, ...values] = line.trim().split(/\s+/);
    if (!address || errors.list) return;
    const [workspace, slug, ...more] = address.replace(/^https:\/\/bitbucket\.org\//, "").replace(/(\.git)?\/?$/, "").split("/");
    if (more.length > 0 || !part.test(workspace ?? "") || !part.test(slug ?? "")) {
      errors.list = `Line ${index + 1}: write workspace/slug, such as acme/web.`;
      return;
    }
    const name = `${workspace}/${slug}`;
    if (seen.has(name)) {
      errors.list = `Line ${index + 1}: ${name} is on line ${seen.get(name)} too.`;
      return;
    }
    seen.set(name, index + 1);
    const pairs = values.map((value) => value.split(/=(.*)/s, 2));
    if (pairs.some(([key, value]) => !key || value === undefined)) {
      errors.list = `Line ${index + 1}: after the repository write values as key=value.`;
      return;
    }
    found.push({ workspace, slug, ...(pairs.length > 0 && { values: Object.fromEntries(pairs) }) });
  });
  if (!errors.list && found.length === 0) errors.list = "Name at least one repository.";
  if (found.length > maxRepositories) errors.list = `At most ${maxRepositories.toLocaleString("en")} repositories; these are ${found.length.toLocaleString("en")}.`;
  return found;
}

function push(form, errors) {
  const branch = form.branch.trim();
  if (!branch) errors.branch = "Name the branch to push to.";
  else if (/\s/.test(branch.replace(/\{\{.*?\}\}/g, ""))) errors.branch = "A branch's name has no spaces.";
  if (!form.message.trim()) errors.message = "Write the commit's message.";
  const made = { branch, create: true, message: form.message.trim(), changes: form.changes.flatMap((change, index) => changesOf(change, index, errors)) };
  if (!form.open) return made;
  if (!form.prTitle.trim()) errors.prTitle = "Write the pull requests' title, or open none.";
  made.pull_request = { title: form.prTitle.trim() };
  if (form.prDescription.trim()) made.pull_request.description = form.prDescription.trim();
  made.pull_request.close_source_branch = true;
  const reviewers = form.reviewers.split(/[\s,]+/).filter(Boolean);
  if (reviewers.length > 0) made.pull_request.reviewers = reviewers;
  return made;
}

function changesOf(change, index, errors) {
  const wrong = (field, text) => {
    errors[`${field}-${index}`] = text;
    return [];
  };
  switch (change.kind) {
    case "put": {
      const path = change.path.trim();
      if (!path) return wrong("path", "Name the file.");
      if (path.startsWith("/") || path.split("/").includes("..")) return wrong("path", "A path begins at the repository's root: no / in front, no ..");
      return [{ put: { path, content: change.content } }];
    }
    case "replace": {
      const paths = change.paths.split(/[\n,]/).map((glob) => glob.trim()).filter(Boolean);
      if (paths.length === 0) return wrong("paths", "Name files or globs, such as **/*.md.");
      if (!change.pattern) return wrong("pattern", "Write what to look for.");
      return [{ replace: { paths, pattern: change.pattern, with: change.with, ...(change.regexp && { regexp: true }) } }];
    }
    default:
      try {
        const given = [JSON.parse(change.json)].flat();
        if (given.length === 0 || given.some((each) => !each || typeof each !== "object")) return wrong("json", "Write a change, or a list of them.");
        return given;
      } catch (cause) {
        return wrong("json", `This is no JSON: ${cause.message}`);
      }
  }
}

function rollout(form, errors) {
  const plan = {};
  for (const [field, name] of [["canary", "canary"], ["then", "then"], ["stop", "stop_at_failures"]]) {
    const text = form[field].trim();
    if (!text) continue;
    if (share.test(text) && text !== "0%") plan[name] = text;
    else plan[name] = whole(text, field, errors, "A number of repositories, such as 5, or a share, such as 10%.");
  }
  if (!plan.canary && !errors.canary) errors.canary = "Say how many come first, or roll out at once.";
  return plan;
}

function whole(text, field, errors, hint = "A whole number from 1.") {
  if (!/^[1-9]\d*$/.test(text.trim())) errors[field] = hint;
  return Number(text);
}
