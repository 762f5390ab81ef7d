import { useEffect, useRef, useState } from "react";
import { get, post } from "./api.js";
import { Alert, Check } from "./fields.jsx";
import { Link } from "./link.jsx";
import { usePoll } from "./poll.js";
import { Progress } from "./progress.jsx";
import { Repositories } from "./repositories.jsx";
import { between, count, duration, ended, goesOn, moment, pushTerms, repositories, stateText, sum, tone } from "./text.js";

// Batch shows one batch while it goes on and after, and what can be done with it.
export function Batch({ id, go }) {
  const [batch, setBatch] = useState();
  const [problem, setProblem] = useState(); // of asking for it: gone with the next answer
  const [refused, setRefused] = useState(); // of what was to be done: stays until the next is
  const [round, setRound] = useState(0);
  const [state, setState] = useState("");
  const path = `/v1/batches/${encodeURIComponent(id)}`;

  const last = useRef("");
  usePoll(async (wanted) => {
    try {
      const answer = await get(path);
      if (!wanted()) return "ended";
      setBatch(answer);
      setProblem(undefined);
      const now = JSON.stringify([answer.state, answer.totals]);
      const moved = last.current !== now;
      last.current = now;
      return !goesOn(answer) ? "ended" : moved ? "moved" : "same";
    } catch (cause) {
      if (wanted()) setProblem(cause.message);
      return cause.status === 404 ? "ended" : "same";
    }
  }, round);

  if (!batch) return problem ? <Alert>{problem}</Alert> : <p className="hint">Loading…</p>;

  const act = async (action) => {
    setRefused(undefined);
    try {
      setBatch(await post(`${path}/${action}`));
    } catch (cause) {
      setRefused(cause.message);
    }
    setRound((old) => old + 1);
  };
  const totals = batch.totals ?? {};
  const done = sum(totals, ended);
  return (
    <article>
      <p className="crumbs">
        <Link to="#/">Batches</Link>
      </p>
      <div className="heading">
        <h1>{batch.title}</h1>
        <span className={`badge ${tone(batch)}`}>{stateText(batch)}</span>
        {batch.dry_run && <span className="badge">dry run</span>}
      </div>
      {problem && <Alert>{problem}</Alert>}
      {refused && <Alert>{refused}</Alert>}
      {batch.reason && <Alert tone={tone(batch) === "failed" ? "quiet failed" : "quiet"}>{batch.reason}</Alert>}

      <section className="panel" aria-label="Progress">
        <p className="figures">
          <b className="large">{batch.total > 0 ? Math.floor((done / batch.total) * 100) : 0}%</b>
          <span>
            {count(done)} of {repositories(batch.total)}
          </span>
          <Pace batch={batch} />
        </p>
        <Progress batch={batch} />
        <Actions batch={batch} act={act} />
      </section>

      {batch.dry_run && batch.state === "finished" && done > 0 && <Start batch={batch} go={go} />}
      <Groups title="Failures" groups={batch.failures} tone="failed" show={() => setState("failed")}>
        {totals.failed > 0 && batch.state !== "resolving" && (
          <button type="button" onClick={() => act("retry")}>
            Retry the failed {totals.failed === 1 ? "one" : "ones"}
          </button>
        )}
      </Groups>
      <Groups title="Skipped" groups={batch.skips} tone="skipped" show={() => setState("skipped")} />
      <Repositories batch={batch} state={state} setState={setState} />
      <Announcer batch={batch} done={done} />
    </article>
  );
}

function Pace({ batch }) {
  const said = [];
  if (batch.stage && open.includes(batch.state)) said.push(`stage: ${batch.stage.name}, up to ${count(batch.stage.until)}`);
  if (goesOn(batch) && batch.per_minute > 0) said.push(`${count(Math.round(batch.per_minute))} a minute`);
  if (goesOn(batch) && batch.seconds_left > 0) said.push(`${duration(batch.seconds_left)} left`);
  if (batch.ended_at) said.push(`took ${between(batch.created_at, batch.ended_at)}`);
  said.push(`started ${moment(batch.created_at)}`);
  return said.map((each) => (
    <span key={each} className="hint">
      {each}
    </span>
  ));
}

const open = ["resolving", "running", "paused", "stopped"];

// Actions asks again before it cancels, with the focus on what does no harm.
function Actions({ batch, act }) {
  const [asking, setAsking] = useState();
  if (!open.includes(batch.state)) return null;
  const cancel = () => {
    setAsking(undefined);
    act("cancel");
  };
  if (asking) {
    return (
      <div className="actions" role="group" aria-label="Cancel the batch" key="asking">
        <span>Cancel what has not begun?</span>
        <button type="button" className="danger" onClick={cancel}>
          Cancel the batch
        </button>
        <button type="button" autoFocus onClick={() => setAsking(false)}>
          Go on
        </button>
      </div>
    );
  }
  return (
    <div className="actions" key="actions">
      {["paused", "stopped"].includes(batch.state) ? (
        <button type="button" className="primary" onClick={() => act("resume")}>
          Resume
        </button>
      ) : (
        <button type="button" onClick={() => act("pause")}>
          Pause
        </button>
      )}
      <button type="button" className="subtle" autoFocus={asking === false} onClick={() => setAsking(true)}>
        Cancel
      </button>
    </div>
  );
}

// Start makes the real batch of a dry run.
function Start({ batch, go }) {
  const [moved, setMoved] = useState(false);
  const [problem, setProblem] = useState();
  const [sending, setSending] = useState(false);
  const key = useRef(crypto.randomUUID());
  const start = async () => {
    setSending(true);
    try {
      const made = await post("/v1/batches", { from: batch.id, ...(moved && { changed: "apply" }) }, key.current);
      go(made.id);
    } catch (cause) {
      setProblem(cause.message);
      setSending(false);
      key.current = crypto.randomUUID();
    }
  };
  return (
    <section className="panel" aria-labelledby="start">
      <h2 id="start">Start it</h2>
      <p>Nothing was pushed yet. Look at the diffs below; then this pushes what they show, in {repositories(batch.totals?.succeeded ?? 0)}.</p>
      <dl className="terms">
        {pushTerms(batch).map(([term, text]) => (
          <div key={term}>
            <dt>{term}</dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      <Check id="moved" label="Also where the repository has changed since" hint="Else those are skipped, and named." value={moved} set={setMoved} />
      {problem && <Alert>{problem}</Alert>}
      <div className="actions">
        <button type="button" className="primary" disabled={sending} onClick={start}>
          {sending ? "Starting…" : "Start it"}
        </button>
      </div>
    </section>
  );
}

// Groups are failures or skips by what they have in common.
function Groups({ title, groups, tone, show, children }) {
  if (!groups?.length) return null;
  return (
    <section aria-label={title}>
      <div className="heading">
        <h2>{title}</h2>
        {children}
      </div>
      <ul className="groups">
        {groups.map((group) => (
          <li key={`${group.kind} ${group.reason}`}>
            <span className={`badge ${tone}`}>{count(group.count)}</span>
            <div>
              <p>{group.reason}</p>
              <p className="hint">
                {group.kind && <code>{group.kind}</code>} {group.examples?.join(", ")}
                {group.count > (group.examples?.length ?? 0) && (
                  <>
                    {" "}
                    and{" "}
                    <button type="button" className="link" onClick={show}>
                      {count(group.count - (group.examples?.length ?? 0))} more
                    </button>
                  </>
                )}
              </p>
            </div>
          </li>
        ))}
      </ul>
    </section>
  );
}

// Announcer tells those who hear the page what changed, at each tenth and not at each repository.
function Announcer({ batch, done }) {
  const [said, setSaid] = useState("");
  const tenth = batch.total > 0 ? Math.floor((done / batch.total) * 10) * 10 : 0;
  const failed = sum(batch.totals, ["failed"]) > 0;
  useEffect(() => {
    setSaid(`${batch.title}: ${batch.state}, ${tenth} percent ended${failed ? ", with failures" : ""}`);
  }, [batch.title, batch.state, tenth, failed]);
  return (
    <p className="unseen" role="status">
      {said}
    </p>
  );
}
