// The page of deploy/forge/manifest.yml: archives the repository it is opened in, as the user, and shows what became of it.
// Needs the packages @forge/bridge, @forge/react and react, which `forge create` installs.
import { invokeRemote, view } from "@forge/bridge";
import ForgeReconciler, { Button, Code, SectionMessage, Stack, Text } from "@forge/react";
import React, { useEffect, useState } from "react";

const ended = ["succeeded", "failed", "expired", "canceled"];

async function call(path, method = "GET", body = undefined, headers = {}) {
  const answer = await invokeRemote({ path, method, body, headers: { "Content-Type": "application/json", ...headers } });
  const content = answer?.body ?? answer;
  if (answer?.status >= 400) {
    throw new Error(content?.detail ?? `status ${answer.status}`);
  }
  return content;
}

async function archive() {
  const { extension, workspaceId } = await view.getContext();
  return call(
    "/v1/jobs",
    "POST",
    {
      repository: { workspace_uuid: workspaceId, repository_uuid: extension.repository.uuid },
      actor: "user",
      clone: { archive: "zip" },
    },
    { "Idempotency-Key": crypto.randomUUID() },
  );
}

const Page = () => {
  const [job, setJob] = useState();
  const [problem, setProblem] = useState();

  useEffect(() => {
    if (!job || ended.includes(job.state)) return undefined;
    const timer = setTimeout(() => call(`/v1/jobs/${job.id}`).then(setJob, setProblem), 1000);
    return () => clearTimeout(timer);
  }, [job]);

  return (
    <Stack space="space.200">
      <Button appearance="primary" onClick={() => archive().then(setJob, setProblem)}>
        Archive this repository
      </Button>
      {problem && (
        <SectionMessage appearance="error">
          <Text>{problem.message}</Text>
        </SectionMessage>
      )}
      {job && (
        <Text>
          <Code>{job.id}</Code> {job.state} {job.failure?.detail ?? job.result?.clone?.commit ?? ""}
        </Text>
      )}
    </Stack>
  );
};

ForgeReconciler.render(<Page />);
