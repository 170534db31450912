// `make audit`: rehearses two Mondays in a folder of its own, up to a session, serves them, and lets every audit look at
// them; `pages` lives on to the next morning, which brings that session's closes. Most look at one series. `fuzz` and `graphiql`
// get another rehearsal, of two models and a control, because the API compares series; `series` makes one of its own.
//
// Always the same weeks, so that the day on which it runs decides nothing. `make audit DATE=2026-12-02` takes the weeks
// before that day, and lets the service believe that it is that day.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { HOUSE, rehearsed } from "./rehearsed.mjs";

const AUDITS = ["packages", "contract", "http", "fuzz", "export", "client", "java", "graphiql", "pages", "series"];
const OF_SEVERAL = ["fuzz", "graphiql"];
const USUAL = "2026-10-24";
const DAY = 24 * 3600 * 1000;
const PYTHON = `${HOUSE}.venv/bin/python`;

const date = process.env.DATE || USUAL;
if (!/^\d{4}-\d\d-\d\d$/.test(date) || Number.isNaN(Date.parse(date))) {
  console.error(`DATE=${date} is no day such as 2026-12-02.`);
  process.exit(2);
}
if (process.env.DATE) {
  // Asked once: the offset is counted from the moment of the question, and all processes must share it.
  const { stdout, stderr, status } = spawnSync(PYTHON, [`${HOUSE}dev/dates/moved_clock.py`, date], { encoding: "utf8" });
  if (status !== 0) {
    console.error(stderr.trim());
    process.exit(1);
  }
  process.env.SERVICE_CLOCK = stdout;
}

const dated = (day) => day.toISOString().slice(0, 10);

// The newest session from Wednesday to Friday whose next morning is over: by then the week's Monday has figures.
function lastSession() {
  const day = new Date(Date.parse(date) - 2 * DAY);
  while (![3, 4, 5].includes(day.getUTCDay()) || !isSession(day)) day.setUTCDate(day.getUTCDate() - 1);
  return day;
}

function isSession(day) {
  const program = `from datetime import date; from app.domain.calendar import Calendar; print(Calendar().is_session(date.fromisoformat("${dated(day)}")))`;
  return execFileSync(PYTHON, ["-c", program], { cwd: HOUSE, encoding: "utf8" }).trim() === "True";
}

const until = lastSession();
const livesOnUntil = dated(new Date(until.getTime() + DAY));
const folder = mkdtempSync(`${tmpdir()}/alpha-monday-audit-`);
const folderOfSeveral = mkdtempSync(`${tmpdir()}/alpha-monday-audit-several-`);
const failed = [];
try {
  console.log(`Two Mondays up to ${dated(until)}${process.env.DATE ? `, on ${date}` : ""}.`);
  const one = await rehearsed(folder, 2, dated(until));
  const several = await rehearsed(folderOfSeveral, 2, dated(until), ["--calm"]);
  for (const name of AUDITS) {
    console.log(`${name}:`);
    const { origin } = OF_SEVERAL.includes(name) ? several : one;
    const { status } = spawnSync(process.execPath, [`${HOUSE}dev/audit/${name}.mjs`, origin, folder, livesOnUntil], { stdio: "inherit", timeout: 600_000 });
    if (status !== 0) failed.push(name);
  }
  await one.stop();
  await several.stop();
} finally {
  rmSync(folder, { recursive: true, force: true });
  rmSync(folderOfSeveral, { recursive: true, force: true });
}
console.log(failed.length > 0 ? `Failed: ${failed.join(", ")}.` : "All audits passed.");
process.exitCode = failed.length > 0 ? 1 : 0;
