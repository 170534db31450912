// Known weaknesses of what the service is made of: pip-audit over the lock, with the advisories of the package index.
// What cannot be found out fails, too: --strict lets no package be passed over that the index does not know.
import { spawnSync } from "node:child_process";

const HERE = new URL(".", import.meta.url).pathname;
const options = ["--strict", "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--desc", "off"];
const locks = ["-r", `${HERE}../../requirements.lock`];
const { status } = spawnSync(`${HERE}.venv/bin/pip-audit`, [...options, ...locks], { stdio: "inherit" });
if (status !== 0) console.error("pip-audit found a weakness, or could not find out whether there is one.");
process.exitCode = status === 0 ? 0 : 1;
