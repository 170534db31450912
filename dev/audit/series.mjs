// The pages of a record with several series: `node dev/audit/series.mjs ORIGIN FOLDER UNTIL`, which rehearses two models and a
// control up to UNTIL, in a folder of its own. Leaves screenshots in `dev/audit/shots`, for a person to look at.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { accessible, browsing } from "./browsing.mjs";
import { rehearsed } from "./rehearsed.mjs";

const WEEKS = 2;
const SCREENS = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 800 } };
const NAMES = ["dice", "main", "second"]; // in the order of a page
const MODEL = "second";
const CONTROL = "dice";
const until = process.argv[4];

async function ask(origin, query) {
  const answer = await fetch(`${origin}/graphql?query=${encodeURIComponent(query)}`);
  return (await answer.json()).data;
}

async function walk(origin, opened, monday) {
  const { page, close } = await opened({}, ["404"]);
  await page.goto(origin);
  await page.getByRole("heading", { level: 1, name: "3 series this Monday." }).waitFor();
  await page.getByRole("link", { name: "The whole record, side by side" }).click();
  assert.equal(page.url(), `${origin}/record`);
  const linked = await page.locator('main a[href^="/series/"]').evaluateAll((all) => all.map((one) => one.getAttribute("href")));
  for (const name of NAMES) assert.ok(linked.includes(`/series/${name}`), `/record does not link ${name}`);
  await page.locator(`main a[href="/series/${MODEL}"]`).first().click();
  assert.equal(page.url(), `${origin}/series/${MODEL}`);
  await page.goto(`${origin}/series/${CONTROL}/batches/${monday}`);
  const neighbours = page.getByRole("navigation", { name: "Neighbouring Mondays" }).getByRole("link");
  for (const one of await neighbours.all()) assert.ok((await one.getAttribute("href")).startsWith(`/series/${CONTROL}/`));
  await page.goto(`${origin}/series/nobody`);
  assert.ok((await page.getByRole("heading", { level: 1 }).textContent()).length > 0);
  await accessible(page, "no series");
  await close();
  console.log("  navigation: ok");
}

const folder = mkdtempSync(`${tmpdir()}/alpha-monday-audit-series-`);
try {
  const { origin, stop } = await rehearsed(folder, WEEKS, until, ["--calm"]);
  const { series } = await ask(origin, "{ series { name } }");
  assert.deepEqual(series.map((one) => one.name).sort(), NAMES);
  const { batches } = await ask(origin, `{ batches(first: 2, series: "${MODEL}") { nodes { runDate } } }`);
  const mondays = batches.nodes.map((one) => one.runDate);
  const pages = {
    front: "/",
    leaderboard: "/record",
    main: "/series/main",
    model: `/series/${MODEL}`,
    control: `/series/${CONTROL}`,
    history: `/series/${MODEL}/batches`,
    running: `/series/${MODEL}/batches/${mondays[0]}`,
    over: `/series/${MODEL}/batches/${mondays[1]}`,
    drawn: `/series/${CONTROL}/batches/${mondays[1]}`,
  };
  const { opened, fitEverywhere, fitMagnified, needNoJavaScript, close } = await browsing(origin);
  await fitEverywhere(pages, SCREENS, "series");
  await fitMagnified(pages);
  await walk(origin, opened, mondays[1]);
  await needNoJavaScript(pages);
  await close();
  await stop();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
