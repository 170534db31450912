// What every audit of pages does in a real Chromium: the pages fit on each screen, axe finds nothing, and they can be read
// without JavaScript. Leaves screenshots in `dev/audit/shots`, for a person to look at.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { HOUSE } from "./rehearsed.mjs";

export const SHOTS = `${HOUSE}dev/audit/shots`;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const DESKTOP = { width: 1440, height: 900 };

export async function browsing(origin) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat(
      ["--disable-background-networking", "--disable-component-update", "--disable-sync"],
    ),
  });

  // A browser of its own. Any warning, error or request to another origin is a complaint.
  async function opened(options = {}, expected = []) {
    const context = await browser.newContext({ viewport: DESKTOP, ...options });
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

  // `prefix` begins the names of the screenshots.
  async function fitEverywhere(pages, screens, prefix) {
    for (const colorScheme of ["light", "dark"]) {
      for (const [screen, viewport] of Object.entries(screens)) {
        const { page, close } = await opened({ colorScheme, viewport });
        for (const [name, path] of Object.entries(pages)) {
          await page.goto(origin + path);
          assert.match(await page.getByRole("note").textContent(), /made up/);
          await fits(page, name);
          await accessible(page, name);
          await page.screenshot({ path: `${SHOTS}/${prefix}-${name}-${screen}-${colorScheme}.png`, fullPage: true });
          for (const summary of await page.locator("summary").all()) await summary.click();
          await fits(page, `${name}, opened`);
          await accessible(page, `${name}, opened`);
        }
        await close();
        console.log(`  pages, ${screen}, ${colorScheme}: ok`);
      }
    }
  }

  async function fitMagnified(pages) {
    const { page, close } = await opened({ viewport: { width: 320, height: 640 }, reducedMotion: "reduce" });
    for (const [name, path] of Object.entries(pages)) {
      await page.goto(origin + path);
      await fits(page, `${name}, 320 px`);
    }
    await close();
    console.log("  pages, 320 px, which is 1280 at 400 %: ok");
  }

  async function needNoJavaScript(pages) {
    const { page, close } = await opened({ javaScriptEnabled: false });
    for (const path of Object.values(pages)) {
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

  return { opened, fitEverywhere, fitMagnified, needNoJavaScript, close: () => browser.close() };
}

async function fits(page, name) {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= room, `${name}: ${wide} px wide in ${room}`);
}

export async function accessible(page, name) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const violated = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes[0].html}`);
  assert.deepEqual(violated, [], `${name}: axe found\n${violated.join("\n")}`);
}
