// What every form field has: a label, a hint, and its error, tied to it for those who hear the page.
export function Field({ id, label, hint, error, children, wide }) {
  return (
    <div className={wide ? "field wide" : "field"}>
      <label htmlFor={id}>{label}</label>
      {children}
      {hint && (
        <p className="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
      {error && (
        <p className="error" id={`${id}-error`}>
          {error}
        </p>
      )}
    </div>
  );
}

const described = ({ id, hint, error }) => ({
  id,
  name: id,
  "aria-invalid": error ? true : undefined,
  "aria-describedby": [error && `${id}-error`, hint && `${id}-hint`].filter(Boolean).join(" ") || undefined,
});

export function Text({ value, set, rows, mono, placeholder, ...field }) {
  const shared = { ...described(field), value, placeholder, className: mono ? "mono" : undefined, onChange: (event) => set(event.target.value) };
  return (
    <Field {...field}>{rows ? <textarea rows={rows} spellCheck={!mono} {...shared} /> : <input type="text" autoComplete="off" spellCheck={!mono} {...shared} />}</Field>
  );
}

export function Choice({ value, set, options, ...field }) {
  return (
    <Field {...field}>
      <select {...described(field)} value={value} onChange={(event) => set(event.target.value)}>
        {options.map(([option, text]) => (
          <option key={option} value={option}>
            {text}
          </option>
        ))}
      </select>
    </Field>
  );
}

export function Check({ id, label, hint, value, set }) {
  return (
    <div className="check">
      <input type="checkbox" id={id} name={id} checked={value} aria-describedby={hint && `${id}-hint`} onChange={(event) => set(event.target.checked)} />
      <label htmlFor={id}>{label}</label>
      {hint && (
        <p className="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  );
}

// Alert says what went wrong as soon as it appears.
export function Alert({ children, tone = "danger" }) {
  return (
    <div className={`alert ${tone}`} role={tone === "danger" ? "alert" : undefined}>
      {children}
    </div>
  );
}
