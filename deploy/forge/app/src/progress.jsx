import { count, ended, states, sum } from "./text.js";

// Progress is a bar with a segment for each state, and its legend. An SVG, because Forge's policy allows no style attributes.
export function Progress({ batch, small }) {
  const { total, totals } = batch;
  const done = sum(totals, ended);
  let x = 0;
  const segments = states.map((state) => {
    const width = total > 0 ? ((totals?.[state] ?? 0) / total) * 1000 : 0;
    x += width;
    return <rect key={state} className={`fill-${state}`} x={x - width} y="0" width={width} height="10" />;
  });
  const bar = (
    <div className={small ? "bar small" : "bar"} role="progressbar" aria-label={`Progress of ${batch.title}`} aria-valuemin="0" aria-valuemax={total} aria-valuenow={done} aria-valuetext={`${count(done)} of ${count(total)} ended`}>
      <svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">
        {segments}
      </svg>
    </div>
  );
  if (small) return bar;
  return (
    <>
      {bar}
      <ul className="legend">
        {states.map((state) =>
          totals?.[state] > 0 ? (
            <li key={state}>
              <svg className="dot" viewBox="0 0 10 10" aria-hidden="true">
                <rect className={`fill-${state}`} width="10" height="10" rx="3" />
              </svg>
              <b>{count(totals[state])}</b> {state}
            </li>
          ) : null,
        )}
      </ul>
    </>
  );
}
