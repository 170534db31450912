// Random queries, valid and not, against a running server: schemathesis with all of its checks and a fixed seed.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";

const HERE = new URL(".", import.meta.url).pathname;
const LEAST = 2_000; // two hundred for each root field
const [origin] = process.argv.slice(2);

const folder = mkdtempSync(`${tmpdir()}/alpha-monday-fuzz-`);
const options = ["run", `${origin}/graphql`, "--checks", "all", "--seed", "1", "--max-examples", "200"];
options.push("--continue-on-failure", "--no-color", "--generation-database", "none");
const env = { PATH: process.env.PATH, LANG: "C.UTF-8", SCHEMATHESIS_HOOKS: `${HERE}fuzz_hooks.py` };
const ran = spawnSync(`${HERE}.venv/bin/schemathesis`, options, { cwd: folder, env, encoding: "utf8" });
rmSync(folder, { recursive: true, force: true });

assert.equal(ran.status, 0, `${ran.stdout}${ran.stderr}`);
const [, passed] = /(\d+) generated, \1 passed/.exec(ran.stdout) ?? [];
assert(Number(passed) >= LEAST, ran.stdout);
console.log(`  schemathesis: ${passed} of ${passed} queries as they should be (${/Seed: \d+/.exec(ran.stdout)})`);
