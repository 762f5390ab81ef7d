import { useState } from "react";
import { get, query } from "./api.js";
import { Alert } from "./fields.jsx";
import { Link } from "./link.jsx";
import { usePoll } from "./poll.js";
import { Progress } from "./progress.jsx";
import { count, ended, goesOn, moment, stateText, sum, tone } from "./text.js";

const page = 20;

// Recent lists the installation's batches, newest first.
export function Recent() {
  const [batches, setBatches] = useState();
  const [next, setNext] = useState("");
  const [older, setOlder] = useState([]);
  const [problem, setProblem] = useState();

  usePoll(async (wanted) => {
    try {
      const answer = await get(query("/v1/batches", { limit: page }));
      if (!wanted()) return "ended";
      setBatches(answer.batches);
      if (older.length === 0) setNext(answer.next);
      setProblem(undefined);
      return answer.batches.some(goesOn) ? "moved" : "same";
    } catch (cause) {
      if (wanted()) setProblem(cause.message);
      return "same";
    }
  });

  const more = async () => {
    try {
      const answer = await get(query("/v1/batches", { limit: page, cursor: next }));
      setOlder([...older, ...answer.batches]);
      setNext(answer.next);
    } catch (cause) {
      setProblem(cause.message);
    }
  };

  const known = new Set(batches?.map(({ id }) => id));
  return (
    <section>
      <div className="heading">
        <h1>Batches</h1>
        <Link className="button primary" to="#/new">
          New batch
        </Link>
      </div>
      {problem && <Alert>{problem}</Alert>}
      {!batches && !problem && <p className="hint">Loading…</p>}
      {batches?.length === 0 && (
        <div className="empty">
          <p>
            <b>No batches yet</b>
          </p>
          <p className="hint">A batch makes one change in many repositories, and opens their pull requests.</p>
        </div>
      )}
      {batches?.length > 0 && (
        <ul className="cards">
          {[...batches, ...older.filter(({ id }) => !known.has(id))].map((batch) => (
            <li key={batch.id}>
              <Link className="card" to={`#/batches/${batch.id}`}>
                <span className="name">{batch.title}</span>
                <span className={`badge ${tone(batch)}`}>{stateText(batch)}</span>
                <Progress batch={batch} small />
                <span className="hint">
                  {count(sum(batch.totals, ended))} of {count(batch.total)} · {batch.dry_run ? "dry run · " : ""}
                  {moment(batch.created_at)}
                </span>
              </Link>
            </li>
          ))}
        </ul>
      )}
      {next && (
        <button type="button" onClick={more}>
          Older
        </button>
      )}
    </section>
  );
}
