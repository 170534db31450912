// Rehearses past Mondays in a folder and serves them on a free port of loopback, for the audits and the screenshots.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

export const HOUSE = new URL("../..", import.meta.url).pathname;

// What moves the clock of the service to another date; nothing unless run.mjs says so, which it does after this is loaded.
export const clock = () => JSON.parse(process.env.SERVICE_CLOCK ?? "{}");

// Only one series and calm unless `kind` says otherwise: a Monday that fails has no picks to show. Returns the address and what
// stops the service.
export async function rehearsed(folder, weeks, until, kind = ["--single", "--calm"]) {
  const options = ["rehearse", ...kind, "--weeks", String(weeks), "--until", until];
  const env = { PATH: process.env.PATH, PORT: "0", LOG_LEVEL: "ERROR", ...clock() };
  const service = spawn(`${HOUSE}.venv/bin/alpha-monday`, options, { cwd: folder, env, stdio: ["ignore", "ignore", "pipe"] });
  const ended = new Promise((resolve) => service.on("exit", resolve));
  const said = [];
  for await (const line of createInterface({ input: service.stderr })) {
    said.push(line);
    const address = /http:\/\/\S+?(?=\/graphql)/.exec(line);
    if (address) return { origin: address[0], stop: () => (service.stderr.resume(), service.kill("SIGTERM"), ended) };
  }
  assert.fail(`The rehearsal did not serve:\n${said.join("\n")}`);
}
