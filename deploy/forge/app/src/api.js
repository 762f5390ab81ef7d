// The receiver's API, by way of Forge: invokeRemote signs the call, brings the tokens and sends it to the manifest's remote.
import { invokeRemote } from "@forge/bridge";

// What Forge takes from a frontend, in bytes.
const maxBody = 500_000;

// Problem is an answer that is no success. Its message is the server's own text, made for users.
export class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// Forge gives an answer on only where it is JSON, and a refusal only as application/json; hence Accept.
export async function call(method, path, body, key) {
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  if (key) headers["Idempotency-Key"] = key;
  const answer = await invokeRemote({ path, method, headers, ...(body && { body }) });
  const content = typeof answer?.body === "string" ? parsed(answer.body) : answer?.body;
  if (!(answer?.status >= 200 && answer.status < 300)) {
    throw new Problem(content?.detail ?? answer?.message ?? `the remote answered with status ${answer?.status ?? "unknown"}`, answer?.status);
  }
  return content ?? {};
}

export const get = (path) => call("GET", path);
export const post = (path, body, key) => call("POST", path, body, key);

export function tooLarge(body) {
  return new TextEncoder().encode(JSON.stringify(body)).length > maxBody;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

// query is a path with its parameters, without those that are empty.
export function query(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value);
  return given.length === 0 ? path : `${path}?${new URLSearchParams(given)}`;
}
