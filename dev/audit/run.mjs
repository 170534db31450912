// `make audit`: rehearses two Mondays in a folder of its own, up to a Thursday, serves them, and lets every audit look at
// them; the last one lives on until the Friday.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { HOUSE, rehearsed } from "./rehearsed.mjs";

const AUDITS = ["packages", "contract", "http", "fuzz", "export", "client", "java", "graphiql", "pages"];
const DAY = 24 * 3600 * 1000;

// The Thursday's closes are what the Friday's morning shows, so it must have been a session: not Thanksgiving, say.
function lastFriday() {
  const day = new Date(Date.now() - DAY);
  while (day.getUTCDay() !== 5 || !isSession(new Date(day - DAY))) day.setUTCDate(day.getUTCDate() - 1);
  return day;
}

function isSession(day) {
  const program = `from datetime import date; from app.domain.calendar import Calendar; print(Calendar().is_session(date.fromisoformat("${dated(day)}")))`;
  return execFileSync(`${HOUSE}.venv/bin/python`, ["-c", program], { cwd: HOUSE, encoding: "utf8" }).trim() === "True";
}

const dated = (day) => day.toISOString().slice(0, 10);

const folder = mkdtempSync(`${tmpdir()}/alpha-monday-audit-`);
const failed = [];
try {
  const { origin, stop } = await rehearsed(folder, 2, dated(new Date(lastFriday() - DAY)));
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
