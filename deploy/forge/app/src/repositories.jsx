import { useEffect, useState } from "react";
import { router } from "@forge/bridge";
import { get, query } from "./api.js";
import { Alert } from "./fields.jsx";
import { count, states, sum } from "./text.js";

const limit = 25;

// Repositories lists a batch's repositories, those of one state or all, page by page. It asks again when their number changes.
export function Repositories({ batch, state, setState }) {
  const [cursors, setCursors] = useState([""]);
  const [shown, setShown] = useState();
  const [problem, setProblem] = useState();
  const cursor = cursors.at(-1);
  const version = state ? batch.totals?.[state] : JSON.stringify(batch.totals);

  useEffect(() => {
    let wanted = true;
    get(query(`/v1/batches/${encodeURIComponent(batch.id)}/repositories`, { state, limit, cursor })).then(
      (answer) => wanted && (setShown({ ...answer, state }), setProblem(undefined)),
      (cause) => wanted && setProblem(cause.message),
    );
    return () => {
      wanted = false;
    };
  }, [batch.id, state, cursor, version]);

  const choose = (next) => {
    setCursors([""]);
    setState(next);
  };
  useEffect(() => setCursors([""]), [state]);
  if (batch.total === 0) return null;
  return (
    <section aria-labelledby="repositories">
      <h2 id="repositories">Repositories</h2>
      <div className="tabs" role="group" aria-label="Show repositories by state">
        {["", ...states].map((each) =>
          each === "" || each === state || batch.totals?.[each] > 0 ? (
            <button key={each} type="button" aria-pressed={each === state} onClick={() => choose(each)}>
              {each || "all"} {count(each ? (batch.totals?.[each] ?? 0) : sum(batch.totals, states))}
            </button>
          ) : null,
        )}
      </div>
      {problem && <Alert>{problem}</Alert>}
      {!shown && !problem && <p className="hint">Loading…</p>}
      {shown?.repositories.length === 0 && <p className="hint">None{state && ` ${state}`}.</p>}
      <ul className="rows">{shown?.repositories.map((each) => <Row key={each.repository} row={each} />)}</ul>
      {(cursors.length > 1 || shown?.next) && (
        <nav className="actions" aria-label="Pages">
          <button type="button" disabled={cursors.length === 1} onClick={() => setCursors(cursors.slice(0, -1))}>
            Previous
          </button>
          <span className="hint">Page {cursors.length}</span>
          <button type="button" disabled={!shown?.next} onClick={() => setCursors([...cursors, shown.next])}>
            Next
          </button>
        </nav>
      )}
    </section>
  );
}

function Row({ row }) {
  const [open, setOpen] = useState(false);
  const id = `diff-${row.repository.replace(/[^\w-]/g, "-")}`;
  const { added = 0, removed = 0, pull_request: pullRequest, failure, links } = row;
  return (
    <li>
      <div className="row">
        <span className={`badge ${row.state}`}>{row.state}</span>
        <span className="name mono">{row.repository}</span>
        <span className="facts">
          {added + removed > 0 && (
            <span className="mono">
              <span className="added">+{count(added)}</span> <span className="removed">−{count(removed)}</span>
            </span>
          )}
          {row.attempts > 1 && <span className="hint">{row.attempts} attempts</span>}
          {row.commit && <code title={row.commit}>{row.commit.slice(0, 8)}</code>}
          {pullRequest?.url && (
            <a href={pullRequest.url} onClick={(event) => { event.preventDefault(); router.open(pullRequest.url); }}>
              Pull request #{pullRequest.id}
            </a>
          )}
          {links?.diff && (
            <button type="button" className="link" aria-expanded={open} aria-controls={id} onClick={() => setOpen(!open)}>
              {open ? "Hide the diff" : "Diff"}
            </button>
          )}
        </span>
      </div>
      {(failure?.detail || row.skipped) && <p className="reason">{failure?.detail ?? row.skipped}</p>}
      {links?.diff && <div id={id}>{open && <Diff path={links.diff} name={row.repository} />}</div>}
    </li>
  );
}

// As many lines as are useful on a page.
const most = 2_000;

// Diff is the unified diff of a dry run. The receiver wraps it in JSON, as Forge gives nothing else on.
function Diff({ path, name }) {
  const [text, setText] = useState();
  const [problem, setProblem] = useState();
  useEffect(() => {
    let wanted = true;
    get(path).then(
      (answer) => wanted && setText(`${answer.diff ?? ""}${answer.truncated ? "\n… the diff goes on; this is its beginning" : ""}`),
      (cause) => wanted && setProblem(cause.message),
    );
    return () => {
      wanted = false;
    };
  }, [path]);
  if (problem) return <Alert>{problem}</Alert>;
  if (text === undefined) return <p className="hint">Loading…</p>;
  const lines = text.replace(/\n$/, "").split("\n");
  return (
    <pre className="diff" tabIndex={0} role="region" aria-label={`Diff of ${name}`}>
      {lines.slice(0, most).map((line, index) => (
        <span key={index} className={kind(line)}>
          {line}
          {"\n"}
        </span>
      ))}
      {lines.length > most && <span className="meta">… {count(lines.length - most)} more lines</span>}
    </pre>
  );
}

function kind(line) {
  if (/^(diff |index |--- |\+\+\+ |@@|new |deleted |old |similarity |rename |copy )/.test(line)) return "meta";
  return { "+": "added", "-": "removed" }[line[0]];
}
