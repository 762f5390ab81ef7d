// Stands in for Bitbucket around the page: what @forge/bridge calls on its host, window.__bridge.callBridge(name, payload), as far
// as the page uses it. invokeRemote goes to POST bridge beside the page, which sends it to a receiver as Forge would; the checks of
// answers are Forge's (documentation of invokeRemote, August 2026). Not part of what is deployed.
(() => {
  const opened = []; // what router.open was asked for

  async function invoke({ invokeType, path, method, headers, body }) {
    if (invokeType !== "ui-remote-fetch") throw new Error(`the stand-in has no ${invokeType}`);
    const sent = await fetch("bridge", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ path, method, headers, body }),
    });
    if (!sent.ok) throw new Error("Invalid response from remote - remote network error");
    const answer = await sent.json();
    const type = Object.entries(answer.headers ?? {}).find(([name]) => name.toLowerCase() === "content-type")?.[1]?.[0];
    const good = answer.status >= 200 && answer.status < 300;
    if (answer.status === 401) throw new Error("Remote could not verify the Forge Invocation Token");
    if (!good && type && type.split(";")[0].trim() !== "application/json") {
      throw new Error(`Invalid response from remote - content-type header must be set to application/json and is currently: ${type}. Status: ${answer.status}.`);
    }
    const given = { status: answer.status, headers: answer.headers };
    if (answer.body || !good) {
      try {
        given.body = JSON.parse(answer.body);
      } catch {
        throw new Error(`Invalid response from remote - cannot parse body as JSON. Status: ${answer.status}.`);
      }
    }
    return good ? { success: true, payload: given } : { success: false, error: given };
  }

  const host = {
    invoke,
    getContext: async () => ({
      accountId: "712020:alice",
      localId: "stand-in",
      moduleKey: "gitsmith-page",
      environmentType: "DEVELOPMENT",
      locale: "en-US",
      workspaceId: "{11111111-2222-4333-8444-555555555555}",
      extension: {
        type: "bitbucket:workspaceGlobalPage",
        workspace: { uuid: "{11111111-2222-4333-8444-555555555555}" },
        location: "https://bitbucket.org/acme/workspace/forge/stand-in/development/gitsmith-page",
      },
    }),
    enableTheming: async () => {
      const dark = window.matchMedia("(prefers-color-scheme: dark)");
      const apply = () => {
        document.documentElement.dataset.colorMode = dark.matches ? "dark" : "light";
      };
      dark.addEventListener("change", apply);
      apply();
    },
    navigate: async ({ url }) => {
      opened.push(url);
      window.open(url, "_blank", "noopener");
    },
  };

  window.__bridge = {
    opened,
    callBridge: async (name, payload) => {
      if (!host[name]) throw new Error(`the stand-in has no ${name}`);
      return host[name](payload);
    },
  };
})();
