// The pages in a real Chromium: `node dev/audit/pages.mjs ORIGIN FOLDER UNTIL`, where a rehearsed record of FOLDER is served
// that stands still, and can be lived on until UNTIL. Leaves screenshots in `dev/audit/shots`, for a person to look at.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { accessible, browsing, SHOTS } from "./browsing.mjs";
import { clock, HOUSE } from "./rehearsed.mjs";

const [origin, folder, until] = process.argv.slice(2);
const SCREENS = { phone: { width: 390, height: 844 }, desktop: { width: 1440, height: 900 } };
const { opened, fitEverywhere, fitMagnified, needNoJavaScript, close: closeBrowser } = await browsing(origin);

const dates = await (async () => {
  const query = "{ batches(first: 2) { nodes { runDate } } }";
  const answer = await fetch(`${origin}/graphql?query=${encodeURIComponent(query)}`);
  return (await answer.json()).data.batches.nodes.map((batch) => batch.runDate);
})();
const PAGES = {
  front: "/", record: "/record", history: "/batches", running: `/batches/${dates[0]}`, before: `/batches/${dates[1]}`, about: "/about",
};

await fitEverywhere(PAGES, SCREENS, "page");
await fitMagnified(PAGES);

{
  const { page, close } = await opened({}, ["404"]);
  await page.goto(origin);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "History" }).click();
  assert.equal(await page.getByRole("link", { name: "History" }).getAttribute("aria-current"), "page");
  await page.getByRole("heading", { level: 2 }).nth(1).getByRole("link").click();
  assert.equal(page.url(), `${origin}${PAGES.before}`);
  await page.getByText("Answer, word for word").last().click();
  await page.locator("details[open] pre").waitFor();
  await page.getByRole("link", { name: "How to check the whole journal" }).click();
  assert.equal(await page.locator("[data-origin]").textContent(), origin);
  await page.goBack();
  await page.getByRole("navigation", { name: "Neighbouring Mondays" }).getByRole("link").last().click();
  assert.equal(page.url(), `${origin}${PAGES.running}`);
  await page.goto(`${origin}/batches/2026-01-06`);
  await page.getByRole("heading", { level: 1, name: "Tuesday 6 January 2026 is not a Monday." }).waitFor();
  await accessible(page, "no Monday");
  await close();
  console.log("  navigation: ok");
}

await needNoJavaScript(PAGES);

// Lives on in a process of its own, as a worker beside a server does.
function livesOn() {
  const options = ["rehearse", "--single", "--calm", "--weeks", "2", "--until", until, "--no-serve"];
  const env = { PATH: process.env.PATH, LOG_LEVEL: "ERROR", ...clock() };
  const living = spawn(`${HOUSE}.venv/bin/alpha-monday`, options, { cwd: folder, env, stdio: "inherit" });
  return new Promise((resolve) => living.on("exit", resolve));
}

{
  const { page, close } = await opened({ viewport: SCREENS.phone });
  const polling = await opened({}, ["503"]);
  await polling.page.clock.install();
  await polling.page.route("**/live/**", (route) => route.fulfill({ status: 503 }));
  for (const one of [page, polling.page]) await one.goto(origin);
  const before = Number(await page.locator("main").getAttribute("data-seq"));
  const measured = await page.locator(".strip .computed").count();
  await page.getByText("The figures behind the lines").click();
  await page.locator("#figures summary").focus();
  await page.evaluate(() => {
    globalThis.same = true;
    scrollTo(0, 300);
  });
  const ended = livesOn();
  await page.waitForFunction((count) => document.querySelectorAll(".strip .computed").length > count, measured, { timeout: 120_000 });
  assert.equal(await ended, 0);
  assert.ok(Number(await page.locator("main").getAttribute("data-seq")) > before);
  assert.equal(await page.evaluate(() => globalThis.same), true);
  assert.equal(await page.evaluate(() => scrollY), 300);
  assert.equal(await page.evaluate(() => document.activeElement.parentElement.id), "figures");
  assert.ok(await page.locator("#figures").evaluate((one) => one.open));
  assert.match(await page.getByRole("status").textContent(), /^Updated\. /);
  assert.match(await page.title(), /^(None|\d) of 3 calls/);
  await accessible(page, "after news");
  await page.screenshot({ path: `${SHOTS}/page-news-phone-light.png` });
  await close();
  console.log("  a new checkpoint arrives: ok");
  await polling.page.clock.fastForward(61_000);
  await polling.page.waitForFunction((seq) => Number(document.getElementById("main").dataset.seq) > seq, before);
  await polling.close();
  console.log("  where no stream can be had, too: ok");
}

await closeBrowser();
