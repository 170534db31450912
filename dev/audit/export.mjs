// The exports, opened with pandas: every figure of CSV and JSON is the API's.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";

const HERE = new URL(".", import.meta.url).pathname;
const [origin] = process.argv.slice(2);

const env = { PATH: process.env.PATH }; // a proxy does not lead to this machine
const { status } = spawnSync(`${HERE}.venv/bin/python`, [`${HERE}export.py`, origin], { stdio: "inherit", env });
assert.equal(status, 0);
