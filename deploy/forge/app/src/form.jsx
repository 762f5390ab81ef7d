import { useEffect, useRef, useState } from "react";
import { get, post } from "./api.js";
import { Alert, Check, Choice, Text } from "./fields.jsx";
import { Link } from "./link.jsx";
import { emptyForm, newChange, request } from "./request.js";

// NewBatch is the form that starts a batch. The server has the last word: what it refuses is shown in its own words.
export function NewBatch({ workspace, go }) {
  const [form, setForm] = useState(() => emptyForm(workspace));
  const [errors, setErrors] = useState({});
  const [problem, setProblem] = useState();
  const [sending, setSending] = useState(false);
  const element = useRef(null);
  const [actors, setActors] = useState(["user"]); // as whom the server lets this user ask for work
  const sent = useRef({}); // the last body and its key: a second try of the same makes no second batch

  const put = (name) => (value) => setForm((old) => ({ ...old, [name]: value }));
  const text = (name, more) => ({ id: name, value: form[name], set: put(name), error: errors[name], ...more });
  const setChange = (index, change) => put("changes")(form.changes.map((old, at) => (at === index ? change : old)));

  useEffect(() => {
    get("/v1/installation").then(({ actors }) => actors?.length && setActors(actors), () => {}); // without an answer nothing is offered
  }, []);

  useEffect(() => {
    element.current.querySelector("[aria-invalid]")?.focus();
  }, [errors]);

  const submit = async (event) => {
    event.preventDefault();
    const { body, errors } = request(form);
    setErrors(errors);
    setProblem(undefined);
    if (Object.keys(errors).length > 0) return;
    const content = JSON.stringify(body);
    if (sent.current.content !== content) sent.current = { content, key: crypto.randomUUID() };
    setSending(true);
    try {
      const batch = await post("/v1/batches", body, sent.current.key);
      go(batch.id);
    } catch (cause) {
      setProblem(cause.message);
      setSending(false);
    }
  };

  return (
    <form className="form" onSubmit={submit} noValidate ref={element}>
      <div className="heading">
        <h1>New batch</h1>
      </div>
      <section aria-labelledby="which">
        <h2 id="which">Repositories</h2>
        <Text {...text("title", { label: "Title", hint: "How the batch is called in lists. Default: the message's first line." })} />
        <fieldset className="pick">
          <legend>Which repositories</legend>
          {[["list", "These"], ["query", "All that match"]].map(([value, label]) => (
            <label key={value}>
              <input type="radio" name="by" value={value} checked={form.by === value} onChange={() => put("by")(value)} /> {label}
            </label>
          ))}
        </fieldset>
        {form.by === "list" ? (
          <Text {...text("list", { label: "Repositories, one per line", rows: 5, mono: true, placeholder: "acme/web", hint: "workspace/slug, at most 10,000. Values for expressions may follow: acme/web team=core" })} />
        ) : (
          <div className="grid">
            <Text {...text("workspace", { label: "Workspace" })} />
            <Text {...text("name", { label: "Name", placeholder: "web-*" })} />
            <Text {...text("project", { label: "Project", placeholder: "CORE" })} />
            <Text {...text("language", { label: "Language", placeholder: "go" })} />
            <Text {...text("hasFile", { label: "Has file", placeholder: "go.mod" })} />
          </div>
        )}
      </section>

      <section aria-labelledby="what">
        <h2 id="what">Change</h2>
        <div className="grid">
          <Text {...text("branch", { label: "Branch", mono: true, placeholder: "chore/licence", hint: "Made from the main branch where it is new." })} />
          {actors.includes("system") && <Choice {...text("actor", { label: "Commits are pushed by", options: [["user", "You"], ["system", "The app"]], hint: form.actor === "user" ? "Only where you may push; Forge lends your rights for four hours at most." : "Wherever the app is installed." })} />}
        </div>
        <Text {...text("message", { label: "Commit message", rows: 3, mono: true })} />
        {form.changes.map((change, index) => (
          <Change
            key={index}
            {...{ change, index, errors }}
            set={(value) => setChange(index, value)}
            remove={form.changes.length > 1 ? () => put("changes")(form.changes.filter((_, at) => at !== index)) : undefined}
          />
        ))}
        {errors.changes && (
          <p className="error" role="alert">
            {errors.changes}
          </p>
        )}
        <button type="button" onClick={() => put("changes")([...form.changes, newChange("put")])}>
          Add a change
        </button>
        <p className="hint">
          Texts may hold expressions, such as <code>{"{{ repository.slug }}"}</code> or <code>{"{{ values.team }}"}</code>.
        </p>
      </section>

      <section aria-labelledby="review">
        <h2 id="review">Pull requests</h2>
        <Check id="open" label="Open a pull request in each repository" value={form.open} set={put("open")} />
        {form.open && (
          <>
            <Text {...text("prTitle", { label: "Pull request title" })} />
            <Text {...text("prDescription", { label: "Description", rows: 3 })} />
            <Text {...text("reviewers", { label: "Reviewers", mono: true, hint: "Account ids, or UUIDs in braces, with commas between." })} />
          </>
        )}
      </section>

      <section aria-labelledby="how">
        <h2 id="how">Roll-out</h2>
        <Check id="dryRun" label="Dry run" hint="Nothing is pushed. You see each repository's diff, and can start it from there." value={form.dryRun} set={put("dryRun")} />
        <Check id="staged" label="In stages" hint={form.dryRun ? "The dry run itself has none. When you start it: a few repositories first; the rest follows while few fail." : "A few repositories first; the rest follows while few fail."} value={form.staged} set={put("staged")} />
        <div className="grid">
          {form.staged && (
            <>
              <Text {...text("canary", { label: "First (canary)" })} />
              <Text {...text("then", { label: "Then" })} />
              <Text {...text("stop", { label: "Stop at failures" })} />
            </>
          )}
          <Text {...text("concurrency", { label: "At the same time", placeholder: "the server's default" })} />
        </div>
      </section>

      {problem && <Alert>{problem}</Alert>}
      <div className="actions">
        <button type="submit" className="primary" disabled={sending}>
          {sending ? "Starting…" : form.dryRun ? "Start the dry run" : "Start the batch"}
        </button>
        <Link className="button subtle" to="#/">
          Back
        </Link>
      </div>
    </form>
  );
}

const kinds = [["put", "Write a file"], ["replace", "Replace text"], ["json", "JSON of changes"]];

function Change({ change, index, errors, set, remove }) {
  const text = (name, more) => ({ id: `${name}-${index}`, value: change[name], set: (value) => set({ ...change, [name]: value }), error: errors[`${name}-${index}`], mono: true, ...more });
  return (
    <fieldset className="change">
      <legend>Change {index + 1}</legend>
      <Choice id={`kind-${index}`} label="What to do" value={change.kind} set={(kind) => set({ ...change, kind })} options={kinds} />
      {change.kind === "put" && (
        <>
          <Text {...text("path", { label: "File", placeholder: "LICENSE" })} />
          <Text {...text("content", { label: "Content", rows: 5 })} />
        </>
      )}
      {change.kind === "replace" && (
        <>
          <Text {...text("paths", { label: "In files", placeholder: "**/*.md, src/**", hint: "Globs, with commas between." })} />
          <div className="grid">
            <Text {...text("pattern", { label: "Replace" })} />
            <Text {...text("with", { label: "With" })} />
          </div>
          <Check id={`regexp-${index}`} label="Regular expression (RE2)" value={change.regexp} set={(regexp) => set({ ...change, regexp })} />
        </>
      )}
      {change.kind === "json" && (
        <Text {...text("json", { label: "Changes", rows: 6, placeholder: '[{"delete": {"path": "old.txt"}}]', hint: "put, delete, move, replace and patch, as POST /v1/jobs takes them." })} />
      )}
      {remove && (
        <button type="button" className="subtle" onClick={remove}>
          Remove change {index + 1}
        </button>
      )}
    </fieldset>
  );
}
