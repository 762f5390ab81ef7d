// The page of the manifest's bitbucket:workspaceGlobalPage: batches of one change in many repositories.
import { view } from "@forge/bridge";
import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { Batch } from "./batch.jsx";
import { NewBatch } from "./form.jsx";
import { Recent } from "./recent.jsx";
import "./style.css";

const here = () => window.location.hash.replace(/^#\/?/, "").split("/");

function Page({ workspace }) {
  const [[where, id], setPlace] = useState(here);
  useEffect(() => {
    const moved = () => {
      setPlace(here());
      window.scrollTo(0, 0);
      document.querySelector("main").focus({ preventScroll: true }); // as a browser does for a new page
    };
    window.addEventListener("hashchange", moved);
    return () => window.removeEventListener("hashchange", moved);
  }, []);
  const go = (batch) => {
    window.location.hash = `#/batches/${encodeURIComponent(batch)}`;
  };
  return (
    <main tabIndex={-1}>
      {where === "new" ? <NewBatch {...{ workspace, go }} /> : where === "batches" && id ? <Batch key={id} {...{ id: decodeURIComponent(id), go }} /> : <Recent />}
    </main>
  );
}

// Bitbucket tells the workspace by UUID, its short name only as part of the page's address.
async function workspaceOf() {
  const { extension } = await view.getContext();
  return /^https:\/\/bitbucket\.org\/([A-Za-z0-9_.-]+)\//.exec(extension?.location ?? "")?.[1] ?? "";
}

view.theme.enable().catch(() => {}); // an older host has no themes; the page then follows the browser
workspaceOf()
  .catch(() => "")
  .then((workspace) => createRoot(document.getElementById("page")).render(<Page workspace={workspace} />));
