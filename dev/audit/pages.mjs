// The pages in a real Chromium: `node dev/audit/pages.mjs ORIGIN FOLDER UNTIL`, where a rehearsed record of FOLDER is served
// that stands still, and can be lived on until UNTIL. Leaves screenshots in `dev/audit/shots`, for a person to look at.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { clock } from "./rehearsed.mjs";

const HOUSE = new URL("../..", import.meta.url).pathname;
const SHOTS = `${HOUSE}dev/audit/shots`;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const [origin, folder, until] = process.argv.slice(2);
const SCREENS = { phone: { width: 390, height: 844 }, desktop: { width: 1440, height: 900 } };

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat(
    ["--disable-background-networking", "--disable-component-update", "--disable-sync"],
  ),
});

// A browser of its own. Any warning, error or request to another origin is a complaint.
async function opened(options = {}, expected = []) {
  const context = await browser.newContext({ viewport: SCREENS.desktop, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (line) => ["error", "warning"].includes(line.type()) && complaints.push(line.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => new URL(request.url()).origin === origin || complaints.push(`foreign: ${request.url()}`));
  page.setDefaultTimeout(15_000);
  const close = async () => {
    assert.deepEqual(complaints.filter((text) => !expected.some((known) => text.includes(known))), []);
    assert.deepEqual(await context.cookies(), []);
    await context.close();
  };
  return { page, close };
}

const dates = await (async () => {
  const query = "{ batches(first: 2) { nodes { runDate } } }";
  const answer = await fetch(`${origin}/graphql?query=${encodeURIComponent(query)}`);
  return (await answer.json()).data.batches.nodes.map((batch) => batch.runDate);
})();
const PAGES = {
  front: "/", record: "/record", history: "/batches", running: `/batches/${dates[0]}`, before: `/batches/${dates[1]}`, about: "/about",
};

async function fits(page, name) {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= room, `${name}: ${wide} px wide in ${room}`);
}

async function accessible(page, name) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const violated = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes[0].html}`);
  assert.deepEqual(violated, [], `${name}: axe found\n${violated.join("\n")}`);
}

for (const colorScheme of ["light", "dark"]) {
  for (const [screen, viewport] of Object.entries(SCREENS)) {
    const { page, close } = await opened({ colorScheme, viewport });
    for (const [name, path] of Object.entries(PAGES)) {
      await page.goto(origin + path);
      assert.match(await page.getByRole("note").textContent(), /made up/);
      await fits(page, name);
      await accessible(page, name);
      await page.screenshot({ path: `${SHOTS}/page-${name}-${screen}-${colorScheme}.png`, fullPage: true });
      for (const summary of await page.locator("summary").all()) await summary.click();
      await fits(page, `${name}, opened`);
      await accessible(page, `${name}, opened`);
    }
    await close();
    console.log(`  pages, ${screen}, ${colorScheme}: ok`);
  }
}

{
  const { page, close } = await opened({ viewport: { width: 320, height: 640 }, reducedMotion: "reduce" });
  for (const [name, path] of Object.entries(PAGES)) {
    await page.goto(origin + path);
    await fits(page, `${name}, 320 px`);
  }
  await close();
  console.log("  pages, 320 px, which is 1280 at 400 %: ok");
}

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

{
  const { page, close } = await opened({ javaScriptEnabled: false });
  for (const path of Object.values(PAGES)) {
    await page.goto(origin + path);
    for (const part of await page.locator("h1, h2, main table caption, blockquote, .chart svg:visible").all()) {
      const inside = await part.evaluate((element) => !element.closest("details:not([open])"));
      assert.ok(!inside || (await part.isVisible()), `${path}: ${await part.textContent()}`);
    }
    for (const summary of await page.locator("summary").all()) await summary.click();
    assert.ok(await page.locator("details").evaluateAll((all) => all.every((one) => one.open)));
  }
  await close();
  console.log("  without JavaScript: ok");
}

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

await browser.close();
