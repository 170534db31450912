// GraphiQL in a real Chromium: `node dev/audit/graphiql.mjs ORIGIN`, where a rehearsed record is served. Leaves screenshots in
// `dev/audit/shots`, for a person to look at.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const HOUSE = new URL("../..", import.meta.url).pathname;
const SHOTS = `${HOUSE}dev/audit/shots`;
const CDN = "https://cdn.jsdelivr.net";
const TABS = ["LatestBatch", "AllSeries", "TrackRecord", "Comparison", "OneSeries"].concat(
  ["BatchOn", "Batches", "Journal", "PickStory"],
);
const origin = process.argv[2];

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat(
    ["--disable-background-networking", "--disable-component-update", "--disable-sync"],
  ),
});

// A browser of its own for each audit; `prepare` may say what the net answers.
async function audit(name, options, steps, prepare = () => {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const seen = { errors: [], hosts: new Set() };
  page.on("console", (line) => ["error", "warning"].includes(line.type()) && seen.errors.push(line.text()));
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("request", (request) => request.url().startsWith("http") && seen.hosts.add(new URL(request.url()).origin));
  page.setDefaultTimeout(15_000);
  await prepare(page);
  await page.goto(`${origin}/graphql`, { waitUntil: "commit" });
  await steps(page, seen);
  await context.close();
  console.log(`  ${name}: ok`);
}

const LOADING = "GraphiQL is loading…";
const statusLines = (page) => page.getByRole("status").locator("p:visible").allInnerTexts();

const pane = (page, name) => page.locator(`.graphiql-${name}`);

async function opensWithOurDocuments(page) {
  await page.getByRole("button", { name: "Execute query" }).waitFor();
  assert.deepEqual(await statusLines(page), []);
  assert.equal(await page.locator("#graphiql").getAttribute("aria-busy"), "false");
  const tabs = page.locator(".graphiql-tab-button");
  assert.deepEqual(await tabs.allTextContents(), TABS);
  assert.match(await page.getByRole("note").textContent(), /made up/);
  for (const name of TABS) {
    await tabs.getByText(name, { exact: true }).click();
    await page.waitForTimeout(500); // GraphiQL reads the operation's name from its editor a moment later
    await runs(page, name);
  }
  await tabs.first().click();
}

async function runs(page, name) {
  const answered = page.waitForResponse((response) => response.request().postData()?.includes(`query ${name}`));
  await page.getByRole("button", { name: "Execute query" }).click();
  const answer = await (await answered).json();
  assert.equal(answer.errors, undefined, `${name}: ${JSON.stringify(answer.errors)}`);
  // A comparison of two series needs more weeks than this rehearsal has.
  if (name !== "Comparison") assert.notEqual(Object.values(answer.data)[0], null, `${name} found nothing`);
  await pane(page, "response").getByText(Object.keys(answer.data)[0]).first().waitFor();
}

async function showsDocs(page) {
  await page.getByRole("button", { name: "Show Documentation Explorer" }).click();
  const docs = page.getByRole("region", { name: "Documentation Explorer" }).or(pane(page, "doc-explorer"));
  await docs.first().getByText("Query", { exact: true }).first().click();
  await docs.first().getByText("The newest batch of a series, whatever its status is.").waitFor();
}

async function switchesTo(page, theme) {
  await page.getByRole("button", { name: "Open settings dialog" }).click();
  await page.getByRole("button", { name: theme, exact: true }).click();
  await page.locator(`body.graphiql-${theme.toLowerCase()}`).waitFor({ state: "attached" });
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
}

const quiet = (seen) => assert.deepEqual(seen.errors, []);
const onlyFrom = (seen, ...hosts) => assert.deepEqual([...seen.hosts].sort(), [origin, ...hosts].sort());

for (const [colorScheme, other] of [["light", "Dark"], ["dark", "Light"]]) {
  await audit(`GraphiQL, ${colorScheme}`, { colorScheme }, async (page, seen) => {
    await opensWithOurDocuments(page);
    await page.screenshot({ path: `${SHOTS}/${colorScheme}.png` });
    await showsDocs(page);
    await page.screenshot({ path: `${SHOTS}/${colorScheme}-docs.png` });
    await switchesTo(page, other);
    await page.screenshot({ path: `${SHOTS}/${colorScheme}-switched.png` });
    quiet(seen);
    onlyFrom(seen);
  });
}

// The page of a checkout without `make graphiql`, with a given behaviour of the CDN.
const packages = `${HOUSE}graphql/api/graphiql/node_modules`;
const program = "import json, pathlib; from api.graphiql_page import build_page; bare = build_page('Rehearsed: made up.', pathlib.Path('no'));"
  + " print(json.dumps([bare.html, bare.headers]))";
const env = { PATH: process.env.PATH };
const [body, headers] = JSON.parse(execFileSync(`${HOUSE}.venv/bin/python`, ["-c", program], { cwd: HOUSE, env }));

const bare = (cdn) => async (page) => {
  await page.route(
    (url) => url.href === `${origin}/graphql`,
    (route) => (route.request().method() === "GET"
      ? route.fulfill({ body, headers: { ...headers, "content-type": "text/html" } })
      : route.continue()),
  );
  await page.route(`${CDN}/**`, cdn);
};
const file = (url) => readFileSync(`${packages}${new URL(url).pathname.replace("/npm", "").replace(/@[^/]+/, "")}`);
const sent = (route, content) => route.fulfill({
  body: content,
  contentType: route.request().url().endsWith(".css") ? "text/css" : "text/javascript",
  headers: { "access-control-allow-origin": "*" },
});

// Waits until the page shows exactly these lines, given by their beginnings.
async function says(page, ...beginnings) {
  const isSo = (lines) => lines.length === beginnings.length && lines.every((line, at) => line.startsWith(beginnings[at]));
  const deadline = Date.now() + 20_000;
  let lines = [];
  while (!isSo(lines)) {
    assert.ok(Date.now() < deadline, lines.join(" | "));
    await page.waitForTimeout(50);
    lines = await statusLines(page);
  }
}

async function onlyHelps(page) {
  await says(page, "GraphiQL could not be loaded. GraphiQL’s scripts come from");
  assert.match((await statusLines(page))[0], /make graphiql.* The API answers without it/);
}

const pictured = (name, steps) => async (page, seen) => {
  await steps(page, seen);
  await page.screenshot({ path: `${SHOTS}/graphiql-${name}.png` });
};

// Every moment in which GraphiQL is not there: the page says what it waits for, and what to do when nothing comes.
const FILES = /\/graphql\/files\//;
const held = (which) => async (page) => {
  await page.route((url) => FILES.test(url.href) && which(url.href), () => {});
};
const lost = (which) => async (page) => {
  await page.route((url) => FILES.test(url.href) && which(url.href), (route) => route.abort());
};
const broken = (script) => async (page) => {
  await page.route((url) => url.href === `${origin}/graphql`, (route) => (
    route.request().method() === "GET" ? route.continue() : route.fulfill({ status: 500, body: "no" })
  ));
  await page.addInitScript(script);
};
const failedHere = (page) => says(page, "GraphiQL could not be loaded. Reload the page to try again.");
const waits = (page) => says(page, LOADING, "This takes longer than it should.");
const isScript = (address) => address.endsWith(".js");

for (const colorScheme of ["light", "dark"]) {
  const first = async (page) => {
    await says(page, LOADING);
    assert.equal(await page.locator("#graphiql").getAttribute("aria-busy"), "true");
  };
  await audit(`GraphiQL, loading, ${colorScheme}`, { colorScheme }, pictured(`loading-${colorScheme}`, first), held(isScript));
  await audit(`GraphiQL, failed, ${colorScheme}`, { colorScheme }, pictured(`failed-${colorScheme}`, failedHere), lost((address) => address.includes("graphiql.min.js")));
}
await audit("GraphiQL, its scripts slow", {}, pictured("slow", waits), held(isScript));
await audit("GraphiQL, its style slow", {}, waits, held((address) => address.endsWith("graphiql.min.css")));
await audit("GraphiQL, our own script lost", {}, waits, lost((address) => address.endsWith("start.js")));
await audit("GraphiQL, React lost", {}, failedHere, lost((address) => address.includes("/react@")));
await audit("GraphiQL, everything lost", {}, waits, lost(() => true));
await audit("GraphiQL, the API out of order", {}, async (page) => {
  await page.getByRole("button", { name: "Execute query" }).waitFor();
  assert.deepEqual(await statusLines(page), []);
}, broken(() => {}));
await audit("GraphiQL, a browser without what it needs", {}, failedHere, broken(() => delete globalThis.AbortSignal.timeout && delete globalThis.JSON.parse));
await audit("GraphiQL, it throws when it opens", {}, failedHere, broken(() => {
  Object.defineProperty(globalThis, "GraphiQL", { get: () => thrower, set: () => {} });
  const thrower = () => { throw new Error("as a test wants it"); };
  thrower.createFetcher = () => () => ({});
}));
await audit("GraphiQL, without JavaScript", { javaScriptEnabled: false }, pictured("no-script", async (page) => {
  await says(page, "GraphiQL needs JavaScript. The API answers without it");
}));
await audit("GraphiQL, it stops later", {}, async (page) => {
  await page.getByRole("button", { name: "Execute query" }).waitFor();
  await page.evaluate(() => {
    document.getElementById("graphiql").replaceChildren(); // as React leaves it when a part throws
    setTimeout(() => { throw new Error("as a test wants it"); });
  });
  await says(page, "GraphiQL has stopped because of an error.");
});

await audit("GraphiQL from the CDN", {}, async (page, seen) => {
  await opensWithOurDocuments(page);
  quiet(seen);
  onlyFrom(seen, CDN);
}, bare((route) => sent(route, file(route.request().url()))));

await audit("GraphiQL, the CDN out of reach", { colorScheme: "dark" }, async (page) => {
  await onlyHelps(page);
  await page.screenshot({ path: `${SHOTS}/out-of-reach.png` });
}, bare((route) => route.abort()));

await audit("GraphiQL, the CDN silent", {}, async (page) => {
  await says(page, LOADING, "This takes longer than it should. GraphiQL’s scripts come from");
}, bare(() => {}));

await audit("GraphiQL, the CDN with other bytes", {}, async (page, seen) => {
  await onlyHelps(page);
  assert.ok(seen.errors.some((text) => text.includes("integrity")), seen.errors.join());
  assert.equal(await page.evaluate(() => globalThis.other), undefined);
}, bare((route) => sent(route, "globalThis.other = true")));

await browser.close();
