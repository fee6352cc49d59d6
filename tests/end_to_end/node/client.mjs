// Submits a job and watches it to its end: node client.mjs HOST:PORT TYPE PAYLOAD_JSON
// One line of JSON for what came of it. The types and methods are generated from proto/.

import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { JobEventType, JobState } from "./generated/headway/v1/job_pb.js";
import { JobService } from "./generated/headway/v1/job_service_pb.js";

const [target, type, payload] = process.argv.slice(2);
const client = createClient(JobService, createGrpcTransport({ baseUrl: `http://${target}` }));

const { job, created } = await client.submitJob({
  type,
  payload: { kind: { case: "json", value: JSON.parse(payload) } },
  labels: { from: "node" },
});
const sequences = [];
const events = [];
let ended;
for await (const { update } of client.watchJob({ jobId: job.id, afterSequence: 0n })) {
  if (update.case === "event") {
    sequences.push(Number(update.value.sequence));
    events.push(JobEventType[update.value.type]);
    ended = update.value.job;
  }
}
console.log(
  JSON.stringify({
    id: job.id,
    created,
    sequences,
    events,
    state: JobState[ended.state],
    done: ended.done,
    result: ended.result.kind.value,
  }),
);
