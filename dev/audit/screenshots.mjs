// `make screenshots`: rehearses a fixed span, serves it, and writes the pictures of the README to docs/images. The span
// ends on a fixed day and nothing goes wrong in it, so that another run shows the same picks, prices and charts.
// Only the draws of the control are others, because they depend on the journal's hashes.
import { mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { chromium } from "playwright-core";
import { HOUSE, rehearsed } from "./rehearsed.mjs";

const IMAGES = `${HOUSE}docs/images`;
const WEEKS = 8;
const UNTIL = "2026-11-20"; // a Friday: the newest Monday has four mornings behind it
const MONDAY = "2026-11-02"; // its fortnight is over, so the page has a result and a whole chart
const WIDTH = 1100;
const MARGIN = 16; // below that element
// Each page is shown from its top to the end of an element: the picks of all series, and the chart.
const PAGES = {
  home: { path: "/", last: ".side-by-side" },
  monday: { path: `/batches/${MONDAY}`, last: "figure.chart" },
};

const folder = mkdtempSync(`${tmpdir()}/alpha-monday-screenshots-`);
try {
  const { origin, stop } = await rehearsed(folder, WEEKS, UNTIL, ["--calm"]);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
  });
  mkdirSync(IMAGES, { recursive: true });
  for (const colorScheme of ["light", "dark"]) {
    const context = await browser.newContext({ colorScheme, viewport: { width: WIDTH, height: 800 }, reducedMotion: "reduce" });
    const page = await context.newPage();
    for (const [name, { path, last }] of Object.entries(PAGES)) {
      const file = `${IMAGES}/${name}-${colorScheme}.png`;
      await page.goto(origin + path);
      await page.evaluate(() => document.fonts.ready);
      const { y, height } = await page.locator(last).first().boundingBox();
      const clip = { x: 0, y: 0, width: WIDTH, height: Math.ceil(y + height + MARGIN) };
      await page.screenshot({ path: file, fullPage: true, clip });
      console.log(`docs/images/${name}-${colorScheme}.png, ${clip.width} x ${clip.height}, ${Math.ceil(statSync(file).size / 1024)} KB`);
    }
    await context.close();
  }
  await browser.close();
  await stop();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
