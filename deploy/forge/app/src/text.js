// How numbers, times and states are said.
export const ended = ["succeeded", "unchanged", "skipped", "canceled", "failed"];
export const states = [...ended, "running", "waiting", "queued"];

export const count = (number) => number.toLocaleString("en");
export const repositories = (number) => (number === 1 ? "1 repository" : `${count(number)} repositories`);
export const sum = (totals, of) => of.reduce((all, state) => all + (totals?.[state] ?? 0), 0);

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  const minutes = Math.round(seconds / 60);
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

export const between = (from, to) => duration((new Date(to) - new Date(from)) / 1000);

export function moment(time) {
  return new Date(time).toLocaleString("en", { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
}

// goesOn reports whether something may still happen by itself.
export const goesOn = (batch) => ["resolving", "running", "paused"].includes(batch.state) || sum(batch.totals, ["running"]) > 0;

// A finished batch in which something failed is not done, whatever its state says.
export function tone(batch) {
  if (batch.state === "finished") return sum(batch.totals, ["failed"]) > 0 ? "failed" : "succeeded";
  return { stopped: "failed", paused: "waiting", canceled: "canceled" }[batch.state] ?? "running";
}

export function stateText(batch) {
  const failed = sum(batch.totals, ["failed"]);
  if (batch.state === "finished") return failed > 0 ? `finished, ${count(failed)} failed` : "done";
  return { resolving: "looking for repositories" }[batch.state] ?? batch.state;
}

// pushTerms are how the batch that is started from a dry run will proceed: it inherits all of this. It has the repositories that succeeded.
export function pushTerms({ actor, rollout, concurrency, per_hour: perHour, totals }) {
  const share = (value) => (typeof value === "number" ? repositories(value) : `${value} (${count(Math.ceil((parseFloat(value) * sum(totals, ["succeeded"])) / 100))})`);
  const { canary, then, stop_at_failures: stop } = rollout ?? {};
  const stages = [canary && `${share(canary)} first`, then && (canary ? `up to ${share(then)} next` : `${share(then)} first`)].filter(Boolean);
  return [
    ["Roll-out", stages.length > 0 ? `${stages.join(", ")}, then the rest` : "all at once"],
    ["Stops at failures", !stop ? "never by itself" : typeof stop === "number" ? `${count(stop)} in a stage` : `${stop} of a stage`],
    ["At the same time", concurrency && repositories(concurrency)],
    ["Pace", perHour && `${repositories(perHour)} an hour at most`],
    ["Commits are pushed by", actor === "system" ? "the app" : "you"],
  ].filter(([, text]) => text);
}
