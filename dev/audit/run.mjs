// `make audit`: rehearses two Mondays in a folder of its own, up to a Thursday, serves them, and lets every audit look at
// them; the last one lives on until the Friday. Calm, for a Monday that fails has no picks to look at.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline";

const HOUSE = new URL("../..", import.meta.url).pathname;
const AUDITS = ["packages", "contract", "http", "fuzz", "export", "client", "graphiql", "pages"];
const DAY = 24 * 3600 * 1000;

function lastFriday() {
  const day = new Date(Date.now() - DAY);
  while (day.getUTCDay() !== 5) day.setUTCDate(day.getUTCDate() - 1);
  return day;
}

const dated = (day) => day.toISOString().slice(0, 10);

async function served(folder) {
  const options = ["rehearse", "--calm", "--weeks", "2", "--until", dated(new Date(lastFriday() - DAY))];
  const env = { PATH: process.env.PATH, PORT: "0", LOG_LEVEL: "ERROR" };
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

const folder = mkdtempSync(`${tmpdir()}/alpha-monday-audit-`);
const failed = [];
try {
  const { origin, stop } = await served(folder);
  for (const name of AUDITS) {
    console.log(`${name}:`);
    const { status } = spawnSync(process.execPath, [`${HOUSE}dev/audit/${name}.mjs`, origin, folder, dated(lastFriday())], { stdio: "inherit", timeout: 300_000 });
    if (status !== 0) failed.push(name);
  }
  await stop();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
console.log(failed.length > 0 ? `Failed: ${failed.join(", ")}.` : "All audits passed.");
process.exitCode = failed.length > 0 ? 1 : 0;
